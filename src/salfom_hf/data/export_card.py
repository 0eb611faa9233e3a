"""The dataset card of an exported dataset: what it holds, how to load it, and under which terms."""

from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Value
from huggingface_hub import DatasetCardData

from ..hub.cards import TEMPLATES, TITLES, render


class Source(NamedTuple):
    address: str
    paper: str
    terms: str


PRIVATE = (
    "Its authors release it for research and give no permission to pass it on: **it may not be redistributed. Keep "
    "this repository private.**"
)
ACTIONS_IN_THE_EYE = (
    "S. Mathe and C. Sminchisescu, *Actions in the Eye: Dynamic Gaze Datasets and Learnt Saliency Models for Visual "
    "Recognition*, IEEE TPAMI 2015"
)
SOURCES = {
    "dhf1k": Source(
        "https://github.com/wenguanwang/DHF1K",
        "W. Wang et al., *Revisiting Video Saliency: A Large-scale Benchmark and a New Model*, CVPR 2018",
        PRIVATE,
    ),
    "hollywood2": Source(
        "http://vision.imar.ro/eyetracking/",
        ACTIONS_IN_THE_EYE,
        f"{PRIVATE} The shots are from commercial films.",
    ),
    "ucf_sports": Source(
        "http://vision.imar.ro/eyetracking/",
        ACTIONS_IN_THE_EYE,
        f"{PRIVATE} The clips are from sports broadcasts.",
    ),
    "stills": Source(
        "",
        "",
        "Every set of images has its own licence. **Keep this repository private until you have made sure that it "
        "permits redistribution**; then name it here and in `license` above.",
    ),
    "gazefolder": Source(
        "",
        "",
        "Videos and recordings of gaze have terms of their own. **Keep this repository private until you have made "
        "sure that the videos' owners and the observers permit redistribution**; then name the licence here and in "
        "`license` above.",
    ),
}

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

ROWS = {
    "parquet": """\
Images and videos are not decoded: `row["frames"][0]` is `{"bytes": …, "path": "0001.png"}`.
""",
    "webdataset": """\
With the package, rows have the columns above. Other readers of the format find, for each row, the members `json`
(all columns that are no files, and the name of the image or video), `image` or `video` (that file as it was) and
`frames.zip`, `maps.zip`, `fixations.zip` (the files in order, uncompressed).
""",
}


def described(feature) -> str:
    """A feature in a few words."""
    if hasattr(feature, "feature"):
        return f"list of {described(feature.feature)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower()


def dataset_card(
    name: str,
    file_format: str,
    features: Features,
    stored: Features,
    splits: dict[str, Dataset],
    shards: dict[str, list[Path]],
) -> str:
    """
    The text of README.md.

    Args:
        name: key of `SOURCES`.
        file_format: key of `ROWS`.
        features: of the rows.
        stored: what `datasets` reads from the shards.
        splits: the rows of each split.
        shards: the files of each split.
    """
    source = SOURCES[name]
    sizes = {split: sum(path.stat().st_size for path in paths) for split, paths in shards.items()}
    rows = {split: len(dataset) for split, dataset in splits.items()}
    data = DatasetCardData(
        pretty_name=TITLES[name],
        license="other",
        task_categories=["other"],
        tags=["saliency", "gaze", "eye-tracking", "salfom", file_format],
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*{paths[0].suffix}"} for split, paths in shards.items()
                ],
            }
        ],
        dataset_info={
            "features": stored._to_yaml_list(),
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
        rows=ROWS[file_format],
        first_split=next(iter(splits)),
        repository=name.replace("_", "-"),
    )
