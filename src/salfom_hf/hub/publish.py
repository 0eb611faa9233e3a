"""A model's folder as the Hub wants it, on disk or there."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError
from safetensors import safe_open

from ..errors import described, reported
from ..files import Inputs, atomic_output, check_free, temporary_folder
from ..models.loading import loading, quiet
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.names import EXAMPLE, resolve
from ..models.video_processing_salfom import SalFoMVideoProcessor
from ..video.pictures import IMAGE_SUFFIXES
from . import reason
from .cards import HUB_TASK, TAGS, TEMPLATES, UNNAMED, CardError, evaluation_of, model_data, page_of, render
from .remote_code import add_remote_code

SHARD = "5GB"
# Weights that [`export`] may have put there before: one file would win over shards, whichever are older. On the Hub a
# `*` also stands for folders, so these have none.
OLD_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors",
)


class PublishError(Exception):
    """A model could not be sent; its folder is unchanged, and the message says how to try again."""


def part_of(source: str | os.PathLike, name: str) -> Path | None:
    """
    A file of a model's folder or, fetched as the model is, of its repository on the Hub; `None` if there is none.

    Raises:
        CardError: the Hub cannot be asked for it.
    """
    if os.path.isdir(source):
        file = Path(source, name)
        return file if file.is_file() else None
    try:
        return Path(HfApi().hf_hub_download(str(source), name))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:  # No network, no login and a refusal are errors of many types.
        raise CardError(
            f"Cannot fetch {name} of {source} from the Hub ({described(error)}), without which its card would be "
            "lost; try again when the Hub can be reached."
        ) from error


def pictures_in(text: str) -> set[str]:
    """Paths of the pictures that next to a card that it shows."""
    links = re.findall(r"""(?:!\[[^]]*\]\(|<img[^>]*\ssrc=["'])([^)\s"']+)""", text)
    paths = [PurePosixPath(unquote(link)) for link in links if "://" not in link]
    inside = [path for path in paths if not path.is_absolute() and ".." not in path.parts]
    return {str(path) for path in inside if path.suffix.lower() in IMAGE_SUFFIXES | {".gif", ".svg"}}


def card_for(
    model: str,
    readme: Path | None,
    network: SalFoMForVideoSaliencyPrediction,
    repo_id: str | None,
    title: str,
    results: Sequence[Path],
) -> ModelCard:
    """
    The card that the model has (`readme`), or one that says that nothing is known, with what the Hub needs to know.

    Args:
        model: the name under which it was scored.
        title: what it is called if nothing else names it.

    Raises:
        CardError: the card or a file of results cannot be read.
    """
    page, name = page_of(repo_id) if repo_id else None, repo_id or title
    scores = [score for path in results for score in evaluation_of(path, model, page)]
    try:
        if readme is not None:
            card = ModelCard.load(readme)
        else:
            facts = {"location": repo_id or UNNAMED, "parameters": network.num_parameters()}
            card = ModelCard(render(TEMPLATES / "model.md", model_data(name, None), name=name, **facts))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CardError(f"Cannot read the card {readme} ({described(error)}); correct or remove it.") from error
    data = card.data
    # What was measured again replaces what was said before.
    both = {(s.dataset_type, s.dataset_split, s.metric_type): s for s in [*(data.eval_results or []), *scores]}
    for score in both.values():
        if page and score.source_url is None:
            score.source_name, score.source_url = "the card of this model", page
    data.library_name, data.pipeline_tag = "transformers", HUB_TASK
    data.tags = list(dict.fromkeys([*(data.tags or []), *TAGS]))
    data.eval_results = list(both.values()) or None
    data.model_name = (repo_id or data.model_name or title) if both else None
    data.metrics = list(dict.fromkeys([*(data.metrics or []), *(s.metric_type for s in scores)])) or None
    data["widget"] = [{"src": EXAMPLE.name, "example_title": "Three shots with hard cuts"}]
    text = card.text
    if "\n## In transformers\n" not in text:
        text = f"{text.rstrip()}\n\n{(TEMPLATES / 'use.md').read_text(encoding='utf-8')}"
    card.text = text.replace(UNNAMED, repo_id or UNNAMED)
    return card


def as_stored(network: SalFoMForVideoSaliencyPrediction, weights: Path) -> dict[str, torch.Tensor]:
    """The weights in the dtypes that they have in a file, from which they are loaded in that of the configuration."""
    state = network.state_dict()
    if not weights.is_file():  # Of a model on the Hub, or one with several files: as they are loaded.
        return state
    with safe_open(weights, framework="pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    return {name: value.to(dtypes.get(name, value.dtype)) for name, value in state.items()}


def export(
    model: str | os.PathLike,
    output: Path,
    repo_id: str | None = None,
    results: Sequence[Path] = (),
    overwrite: bool = False,
    max_shard_size: str = SHARD,
) -> None:
    """
    Write a folder for the Hub: card and its pictures, configuration, weights, processor, an example, and the code that
    lets transformers load all of it where this package is not installed.

    Args:
        model: folder or name of a model.
        output: folder to make; `overwrite` replaces an existing one.
        repo_id: what the card calls the model; by default as it did before, or as the output.
        results: files `results.json` of `salfom evaluate`, in which the model was scored under the name `model`.
        max_shard_size: larger weights are split into files of this size, such as `"5GB"`.

    Raises:
        CardError: the card or the results cannot be read, or the Hub does not give the card of a model there.
        VideoError: the output exists or cannot be written.
        LoadError: the model cannot be loaded.
    """
    source = resolve(model)
    check_free(output, overwrite, Inputs(source, *results))
    with loading(model):
        network = SalFoMForVideoSaliencyPrediction.from_pretrained(model)
        state = as_stored(network, Path(source, "model.safetensors"))
        processor = SalFoMVideoProcessor.from_pretrained(model)
    card = card_for(str(model), part_of(source, "README.md"), network, repo_id, Path(output).resolve().name, results)
    pictures = {name: part_of(source, name) for name in pictures_in(card.text)}
    wrong = reported(f"Cannot write {output}", "correct that and try again")
    with atomic_output(output, overwrite) as folder, wrong, quiet():
        network.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        add_remote_code(folder)
        card.save(folder / "README.md")
        shutil.copyfile(EXAMPLE, folder / EXAMPLE.name)
        for name, picture in pictures.items():
            if picture is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture, folder / name)


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
        CardError, VideoError, LoadError: as for [`export`].
    """
    with temporary_folder() as temporary:
        folder = temporary / "model"
        export(model, folder, repo_id, results, max_shard_size=max_shard_size)
        api, public = HfApi(), False
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            public = private and not api.repo_info(repo_id).private
            if not public:
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=str(folder),
                    commit_message="Model, processor, code and card",
                    delete_patterns=list(OLD_WEIGHTS),
                )
        except Exception as error:  # No network, no login and a refusal are errors of many types.
            raise PublishError(
                f"Could not send {model} to {repo_id}, and nothing on this machine has changed: "
                f"{reason(error, repo_id, 'write to')}, and try again with `salfom push` and the same options."
            ) from error
    if public:
        raise PublishError(
            f"{repo_id} is public already and nothing was sent; make it private in its settings, or choose another "
            "--repo-id."
        )
    return page_of(repo_id)
