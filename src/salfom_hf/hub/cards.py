"""Cards: the pages of models, datasets and Spaces on the Hub. All are filled from templates here, in one way."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, EvalResult, ModelCardData, RepoCard

from ..errors import check_file
from ..inference.pipeline_salfom import TASK

TEMPLATES = Path(__file__).parent
# The Hub knows no task of saliency; this is the nearest of those that it knows.
HUB_TASK = "video-to-video"
TAGS = (TASK, "salfom", "saliency", "gaze", "visual-attention")
# Stands in the text of cards for the name of a model that has none yet.
UNNAMED = "path/to/this/folder"
TITLES = {
    "dhf1k": "DHF1K",
    "hollywood2": "Hollywood-2 eye movements",
    "ucf_sports": "UCF-Sports eye movements",
    "stills": "Gaze on still images",
    "gazefolder": "Gaze on videos",
}
# What the field calls the metrics; how each is computed is said where scores are shown.
METRIC_NAMES = {
    "auc_judd": "AUC-Judd",
    "auc_shuffled": "sAUC",
    "auc_shuffled_exact": "sAUC (exact)",
    "nss": "NSS",
    "cc": "CC",
    "sim": "SIM",
    "kldiv": "KLD",
    "information_gain": "IG",
}


class CardError(Exception):
    """A card or what it is made from cannot be used; the message is one sentence that says what to do."""


def render(template: Path, data: CardData, **values: Any) -> str:
    """A README.md from a Jinja template, given `card_data` (what is between the dashes), `citation` and `values`."""
    citation = (TEMPLATES / "citation.md").read_text(encoding="utf-8").rstrip()
    card = RepoCard.from_template(data, template_path=str(template), citation=citation, **values)
    return f"{str(card).rstrip()}\n"


def model_data(
    name: str, licence: str | None, tags: Sequence[str] = (), results: Sequence[EvalResult] = (), **values: Any
) -> ModelCardData:
    """
    Metadata of a SalFoM model.

    Args:
        name: of the model, for its results.
        licence: identifier that the Hub knows, or `None`.
        tags: more than `TAGS`.
        values: more fields of `ModelCardData`, such as `base_model` and `datasets`.
    """
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=HUB_TASK,
        license=licence,
        tags=[*TAGS, *tags],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name,
        eval_results=list(results) or None,
        **values,
    )


def page_of(repo_id: str) -> str:
    """Where a model on the Hub is seen."""
    return f"https://huggingface.co/{repo_id}"


def measured(
    scores: dict[str, float | None],
    dataset: str,
    split: str,
    source: str,
    page: str | None = None,
    count: int | None = None,
    some: str = "",
) -> list[EvalResult]:
    """
    Scores as entries of a card's `model-index`; undefined ones are left out.

    Args:
        dataset: key of `TITLES`.
        source: by what they were measured, in words.
        page: where that is published; without one a card names no source, as the Hub wants an address.
        count: of the videos or images that were scored, if known.
        some: which of their frames, if not all.
    """
    name = TITLES.get(dataset, dataset)
    if count is not None:
        kind = "image" if dataset == "stills" else "video"
        name += f" ({count} {kind}{'s' * (count != 1)}{some})"
    return [
        EvalResult(
            task_type=HUB_TASK,
            task_name="Video saliency prediction",
            dataset_type=dataset,
            dataset_name=name,
            dataset_split=split,
            metric_type=metric,
            metric_name=METRIC_NAMES.get(metric, metric),
            metric_value=round(value, 4),
            source_name=page and source,
            source_url=page,
        )
        for metric, value in scores.items()
        if value is not None and not math.isnan(value)
    ]


def read_results(path: Path) -> dict:
    """
    A `results.json` of `salfom evaluate`.

    Raises:
        CardError: it cannot be read, or is another file.
    """
    try:
        check_file(path)
        results = json.loads(Path(path).read_text(encoding="utf-8"))
        results["dataset"], results["split"], results["methods"], results["protocol"]["definitions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CardError(f"{path} is no results.json of `salfom evaluate`; give the one that it wrote.") from error
    return results


def evaluation_of(path: Path, model: str, page: str | None = None) -> list[EvalResult]:
    """
    The scores, means over frames, in a `results.json` of the model that was scored under this name.

    Raises:
        CardError: the file cannot be used, or scores other models only.
    """
    results = read_results(path)
    methods = {method["name"]: method for method in results["methods"]}
    if (name := next((name for name in methods if Path(name) == Path(model)), None)) is None:
        raise CardError(
            f"{path} has no scores of '{model}', only of {', '.join(methods)}; name the model as it was scored."
        )
    maps = results["protocol"].get("maps", "as they are")
    source = f"salfom evaluate ({results['package']} {results['version']}), maps {maps}"
    scores, count = methods[name]["mean_over_frames"], methods[name].get("videos")
    first, every, most = (results["protocol"].get(key) for key in ("first", "every", "max_frames"))
    some = f", one frame in {every} from {first} on" if first or (every or 1) > 1 else ""
    some += f", {most:,} at random" if most else ""
    return measured(scores, results["dataset"], results["split"], source, page, count, some)
