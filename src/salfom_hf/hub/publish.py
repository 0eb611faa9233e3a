"""A model's folder as the Hub wants it, on disk or there."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import HfApi, ModelCard

from ..files import atomic_output
from ..modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..pretrained import resolve
from ..remote_code import add_remote_code
from ..video import IMAGE_SUFFIXES, reported
from ..video_processing_salfom import SalFoMVideoProcessor
from .cards import HUB_TASK, TAGS, TEMPLATES, UNNAMED, CardError, evaluation_of, model_data, render

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"
SHARD = "5GB"


class PublishError(Exception):
    """A model could not be sent; its folder is unchanged, and the message says how to try again."""


def card_for(
    model: str, folder: Path, network: SalFoMForVideoSaliencyPrediction, name: str, results: Sequence[Path]
) -> ModelCard:
    """
    The card that the model has, or one that says that nothing is known, with whatever the Hub wants to be told.

    Raises:
        CardError: the card or a file of results cannot be read.
    """
    readme = folder / "README.md"
    scores = [score for path in results for score in evaluation_of(path, model)]
    parameters = network.num_parameters()
    try:
        if readme.is_file():
            card = ModelCard.load(readme)
        else:
            card = ModelCard(
                render(TEMPLATES / "model.md", model_data(name, None), name=name, location=name, parameters=parameters)
            )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CardError(
            f"Cannot read the card {readme} ({' '.join(str(error).split())}); mend or remove it."
        ) from error
    data = card.data
    data.library_name = "transformers"
    data.pipeline_tag = HUB_TASK
    data.tags = list(dict.fromkeys([*(data.tags or []), *TAGS]))
    # What was measured again replaces what was said before.
    both = {(s.dataset_type, s.dataset_split, s.metric_type): s for s in [*(data.eval_results or []), *scores]}
    data.eval_results = list(both.values()) or None
    data.model_name = name if both else None
    data.metrics = list(dict.fromkeys([*(data.metrics or []), *(s.metric_type for s in scores)])) or None
    data["widget"] = [{"src": EXAMPLE.name, "example_title": "Three shots with hard cuts"}]
    text = card.text.replace(UNNAMED, name)
    if "trust_remote_code" not in text:
        text = f"{text.rstrip()}\n\n{(TEMPLATES / 'use.md').read_text(encoding='utf-8').replace(UNNAMED, name)}"
    card.text = text
    return card


def export(
    model: str | os.PathLike,
    output: Path,
    repo_id: str | None = None,
    results: Sequence[Path] = (),
    overwrite: bool = False,
    max_shard_size: str = SHARD,
) -> None:
    """
    Write a folder for the Hub: card, configuration, weights, processor, an example, and the code that lets
    transformers load all of it where this package is not installed.

    Args:
        model: folder or name of a model.
        output: folder to make.
        repo_id: what the model will be called on the Hub, for its card; `None` for no name yet.
        results: files `results.json` of `salfom evaluate`, in which the model was scored under the name `model`.
        overwrite: replace an existing folder.
        max_shard_size: larger weights are split into files of this size, such as `"5GB"`.

    Raises:
        CardError: the card or the results cannot be read.
        VideoError: the output exists or cannot be written.
        OSError, ValueError: the model cannot be loaded.
    """
    source = Path(resolve(model))
    network = SalFoMForVideoSaliencyPrediction.from_pretrained(model)
    processor = SalFoMVideoProcessor.from_pretrained(model)
    card = card_for(str(model), source, network, repo_id or UNNAMED, results)
    pictures = [file for file in source.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
    with atomic_output(output, overwrite) as folder, reported(f"Cannot write {output}", "mend that and try again"):
        network.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        add_remote_code(folder)
        card.save(folder / "README.md")
        for file in (EXAMPLE, *pictures):
            shutil.copyfile(file, folder / file.name)


def push(
    model: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    results: Sequence[Path] = (),
    max_shard_size: str = SHARD,
) -> str:
    """
    Send a model to the Hub, as [`export`] writes it; the repository is made if there is none.

    Args:
        private: whether only its owners may see it. A repository that exists keeps its visibility; a public one is
            refused if private is asked for.

    Returns:
        Where it can be seen.

    Raises:
        PublishError: the Hub cannot be reached, or refuses.
        CardError, VideoError, OSError, ValueError: as for [`export`].
    """
    with tempfile.TemporaryDirectory(prefix="salfom-") as temporary:
        folder = Path(temporary) / "model"
        export(model, folder, repo_id, results, max_shard_size=max_shard_size)
        api = HfApi()
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            if private and not api.repo_info(repo_id).private:
                raise PublishError(
                    f"{repo_id} is public already and nothing was sent; make it private in its settings, or choose "
                    "another --repo-id."
                )
            api.upload_folder(
                repo_id=repo_id,
                folder_path=str(folder),
                commit_message="Model, processor, code and card",
                # Weights in one file would win over shards, whichever are older.
                delete_patterns=["*.safetensors", "*.safetensors.index.json", "*.py"],
            )
        except PublishError:
            raise
        except Exception as error:  # No network, no login and a refusal are errors of many types.
            options = ["--private"] if private else []
            options += ["--results", *map(str, results)] if results else []
            options += ["--max-shard-size", max_shard_size] if max_shard_size != SHARD else []
            command = shlex.join(["salfom", "push", str(model), "--repo-id", repo_id, *options])
            raise PublishError(
                f"Could not send {model} to {repo_id} ({' '.join(str(error).split())}); nothing on this machine has "
                f"changed: log in with `hf auth login` and try again with `{command}`."
            ) from error
    return f"https://huggingface.co/{repo_id}"


__all__ = ["PublishError", "export", "push"]
