"""The dataset card of an exported dataset: what it holds, how to load it, and under which terms."""

from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Value
from huggingface_hub import DatasetCardData


class Source(NamedTuple):
    title: str
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
        "DHF1K",
        "https://github.com/wenguanwang/DHF1K",
        "W. Wang et al., *Revisiting Video Saliency: A Large-scale Benchmark and a New Model*, CVPR 2018",
        PRIVATE,
    ),
    "hollywood2": Source(
        "Hollywood-2 eye movements",
        "http://vision.imar.ro/eyetracking/",
        ACTIONS_IN_THE_EYE,
        f"{PRIVATE} The shots are from commercial films.",
    ),
    "ucf_sports": Source(
        "UCF-Sports eye movements",
        "http://vision.imar.ro/eyetracking/",
        ACTIONS_IN_THE_EYE,
        f"{PRIVATE} The clips are from sports broadcasts.",
    ),
    "stills": Source(
        "Gaze on still images",
        "",
        "",
        "Every set of images has its own licence. **Keep this repository private until you have made sure that it "
        "permits redistribution**; then name it here and in `license` above.",
    ),
    "gazefolder": Source(
        "Gaze on videos",
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

TEMPLATE = """\
---
{data}
---

# {title}

{origin}Exported by `salfom data export` of the package salfom-hf. The shards hold the dataset's files, byte for byte.

## Terms

{terms}

## Content

| split | rows | shards | size |
| --- | --- | --- | --- |
{splits}

| column | type | meaning |
| --- | --- | --- |
{columns}

{rows}
## Load

```python
from salfom_hf.data import load_export, open_sample

dataset = load_export("FOLDER OR HUB NAME", split="{split}")
sample = open_sample(dataset[0])
for frame in sample.frames():  # uint8 (height, width, 3)
    ...
density, fixations = sample.density(0), sample.fixations(0)
```

Streaming downloads nothing in advance, and gives every machine its own shards if their number is a multiple of that
of the machines:

```python
from datasets.distributed import split_dataset_by_node

dataset = load_export("FOLDER OR HUB NAME", split="{split}", streaming=True)
dataset = split_dataset_by_node(dataset, rank=0, world_size=8)
```

Without the package: `datasets.load_dataset("FOLDER OR HUB NAME", split="{split}", streaming=True)`.

## Publish

```python
from huggingface_hub import create_repo, upload_folder

create_repo("YOU/{repository}", repo_type="dataset", private=True)
upload_folder(repo_id="YOU/{repository}", repo_type="dataset", folder_path="FOLDER")
```
"""


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
        pretty_name=source.title,
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
    return TEMPLATE.format(
        data=data.to_yaml(),
        title=source.title,
        origin=f"{source.paper}. Origin: {source.address}\n\n" if source.paper else "",
        terms=source.terms,
        splits="\n".join(
            f"| {split} | {rows[split]} | {len(shards[split])} | {sizes[split] / 1e6:.1f} MB |" for split in splits
        ),
        columns="\n".join(
            f"| `{column}` | {described(feature)} | {MEANINGS[column]} |" for column, feature in features.items()
        ),
        rows=ROWS[file_format],
        split=next(iter(splits)),
        repository=name.replace("_", "-"),
    )
