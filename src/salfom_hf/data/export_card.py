"""The dataset card of an exported dataset: what it holds, how to load it, and under which terms."""

from pathlib import Path

from datasets import Dataset, Value
from huggingface_hub import DatasetCardData

from ..hub.cards import TEMPLATES, TITLES, render
from .builder import Source

MEANINGS = {
    "video_id": "name of the video",
    "video": "the video file; null where the dataset holds frames",
    "frames": "one image per frame, in order; empty where the dataset holds a video file",
    "num_frames": "number of frames",
    "fps": "frames per second",
    "width": "width of the frames, pixels",
    "height": "height of the frames, pixels",
    "maps": "density of fixations, one grey image per frame, in order; empty without labels",
    "fixations": "pixels that were fixated, one binary image per frame, in order; empty without labels",
    "image": "the picture",
    "image_id": "name of the picture",
    "dataset": "which set of images it is from",
    "fixation_x": "of all fixations, pixels from the left edge",
    "fixation_y": "of all fixations, pixels from the upper edge",
    "observer": "who looked, one number per fixation; empty where unknown",
}


def described(feature) -> str:
    """A feature in a few words."""
    if hasattr(feature, "feature"):
        return f"list of {described(feature.feature)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower()


def dataset_card(name: str, source: Source, splits: dict[str, Dataset], shards: dict[str, list[Path]]) -> str:
    """
    The text of README.md.

    Args:
        name: of the dataset, as commands take it.
        source: where it is from.
        splits: the rows of each split.
        shards: the files of each split.
    """
    features = next(iter(splits.values())).features
    sizes = {split: sum(path.stat().st_size for path in paths) for split, paths in shards.items()}
    rows = {split: len(dataset) for split, dataset in splits.items()}
    data = DatasetCardData(
        pretty_name=TITLES[name],
        license="other",
        task_categories=["other"],
        tags=["saliency", "gaze", "eye-tracking", "salfom", "parquet"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
        dataset_info={
            "features": features._to_yaml_list(),
            "splits": [{"name": split, "num_bytes": sizes[split], "num_examples": rows[split]} for split in splits],
            "download_size": sum(sizes.values()),
            "dataset_size": sum(sizes.values()),
        },
    )
    return render(
        TEMPLATES / "dataset.md",
        data,
        title=TITLES[name],
        source=source,
        splits={split: {"rows": rows[split], "shards": len(shards[split]), "bytes": sizes[split]} for split in splits},
        columns=[(column, described(feature), MEANINGS[column]) for column, feature in features.items()],
        first_split=next(iter(splits)),
        repository=name.replace("_", "-"),
    )


__all__ = ["dataset_card"]
