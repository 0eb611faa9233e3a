"""Datasets as parquet shards that hold the files themselves: for the Hub, and for streaming to many machines.

A folder of shards has a dataset card and is read by `datasets.load_dataset`.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Value
from datasets.table import embed_table_storage
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import DatasetCardData
from tqdm import tqdm

from ..errors import VideoError, advice_for, reason_of
from ..files import atomic_output
from ..hub.cards import TEMPLATES, TITLES, render
from .features import MEANINGS
from .loading import DATASETS, MARKER

STILLS = 16  # in a row group, of which readers hold one at a time; a video has one for itself
COLUMN_BYTES = (1 << 31) - (1 << 20)  # What 32-bit offsets can address, with room for names.


def _check_size(rows: pa.Table) -> None:
    """Refuse a video whose images no row can hold."""
    for name in [name for name in ("frames", "maps", "fixations") if name in rows.column_names]:
        files = rows[name][0].as_py()
        sizes = (os.path.getsize(file["path"]) if file["bytes"] is None else len(file["bytes"]) for file in files)
        if sum(sizes) > COLUMN_BYTES:
            what = f"The {name} of the video {rows['video_id'][0]}"
            raise VideoError(f"{what} are more than 2 GB, which no row holds; make its images smaller.")


def _write_split(dataset: Dataset, split: str, folder: Path, max_bytes: int, num_shards: int | None) -> list[Path]:
    """Write the shards of one split, of equally many rows (±1), and return them in order."""
    rows, together = dataset.with_format("arrow"), STILLS if "image" in dataset.column_names else 1
    # Images and videos are compressed already, and nobody searches in them.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    try:
        # Of a few rows, whose files may all be in memory for that.
        some = dataset.select(range(0, len(dataset), len(dataset) // 64 + 1))
        size = some._estimate_nbytes() / max(len(some), 1) * len(dataset)
        count = min(num_shards or math.ceil(size / max(max_bytes, 1)), len(dataset))
        paths = [folder / f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
        for index, path in enumerate(tqdm(paths, split, unit="shard", disable=None, dynamic_ncols=True)):
            with pq.ParquetWriter(path, dataset.features.arrow_schema, **options) as writer:
                for group in rows.shard(count, index).iter(together):
                    _check_size(group)
                    writer.write_table(embed_table_storage(group))
    except OSError as error:
        if not error.filename:  # It cannot be written.
            raise
        advice = advice_for(error, "it was there before: restore it and export again")
        raise VideoError(f"Cannot read {error.filename} ({reason_of(error)}); {advice}.") from error
    return paths


def export_dataset(
    splits: dict[str, Dataset],
    folder: str | os.PathLike[str],
    name: str,
    *,
    max_shard_size: int | str = "500MB",
    num_shards: int | None = None,
    overwrite: bool = False,
) -> None:
    """
    Write a dataset as a folder of shards with a dataset card, complete or not at all.

    One video at a time is in memory, or 16 stills, a few times over while they are encoded.

    Args:
        splits: the rows of each split, as `salfom_hf.data.load` gives them.
        folder: to make.
        name: of the dataset, a key of `salfom_hf.data.DATASETS`: for its licence.
        max_shard_size: bytes, or such as `"500MB"`, of about which the shards of a split are on average.
        num_shards: write this many shards of each split instead. A multiple of the number of machines lets
            `split_dataset_by_node` give whole shards to each. A split of fewer rows has a shard for each.
        overwrite: replace the folder if it is an earlier export.

    Raises:
        ValueError: `max_shard_size` is no size.
        VideoError: a file of the dataset cannot be read, or the folder exists or cannot be written.
    """
    max_bytes = convert_file_size_to_int(max_shard_size)
    with atomic_output(folder, overwrite) as temporary:
        (temporary / "data").mkdir(parents=True)
        shards = {
            split: _write_split(dataset, split, temporary / "data", max_bytes, num_shards)
            for split, dataset in splits.items()
        }
        (temporary / "README.md").write_text(_card(name, splits, shards), encoding="utf-8")
        info = {"dataset": name, "format": "parquet", "splits": list(splits)}
        (temporary / MARKER).write_text(f"{json.dumps(info)}\n", encoding="utf-8")


def _described(feature: Any) -> str:
    """A feature in a few words."""
    if hasattr(feature, "feature"):
        return f"list of {_described(feature.feature)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__.lower()


def _card(name: str, splits: dict[str, Dataset], shards: dict[str, list[Path]]) -> str:
    """The text of README.md, from the name of the dataset, the rows and the files of each split."""
    features = next(iter(splits.values())).features
    sizes = {split: sum(path.stat().st_size for path in paths) for split, paths in shards.items()}
    total, counts = sum(sizes.values()), {split: len(dataset) for split, dataset in splits.items()}
    title = TITLES.get(name, DATASETS[name].TITLE)
    data_files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    data = DatasetCardData(
        pretty_name=title,
        license="other",
        task_categories=["other"],
        tags=["saliency", "gaze", "eye-tracking", "salfom", "parquet"],
        configs=[{"config_name": "default", "data_files": data_files}],
        dataset_info={
            "features": features._to_yaml_list(),
            "splits": [{"name": each, "num_bytes": sizes[each], "num_examples": counts[each]} for each in splits],
            "download_size": total,
            "dataset_size": total,
        },
    )
    return render(
        TEMPLATES / "dataset.md",
        data,
        title=title,
        source=DATASETS[name].SOURCE,
        splits=[(split, counts[split], len(shards[split]), sizes[split]) for split in splits],
        columns=[(column, _described(feature), MEANINGS[column]) for column, feature in features.items()],
        first_split=next(iter(splits)),
        repository=name.replace("_", "-"),
    )
