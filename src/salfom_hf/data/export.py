"""Datasets as parquet shards that hold the files themselves: for the Hub, and for streaming to many machines.

A folder of shards has a dataset card and is read by `datasets.load_dataset`.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

ROW_GROUP_BYTES = 16 << 20  # Readers hold one row group at a time: a video, or several stills.
COLUMN_BYTES = (1 << 31) - (1 << 20)  # What 32-bit offsets can address, with room for names.


def _with_contents(row: pa.Table) -> pa.Table:
    """A row with its files' content in place of their paths."""
    try:
        for name in [name for name in ("frames", "maps", "fixations") if name in row.column_names]:
            files = row[name][0].as_py()
            sizes = (os.path.getsize(file["path"]) if file["bytes"] is None else len(file["bytes"]) for file in files)
            if sum(sizes) > COLUMN_BYTES:
                what = f"The {name} of the video {row['video_id'][0]}"
                raise VideoError(f"{what} are more than 2 GB, which no row holds; make its images smaller.")
        return embed_table_storage(row)
    except OSError as error:
        advice = advice_for(error, "it was there before: restore it and export again")
        raise VideoError(f"Cannot read {error.filename} ({reason_of(error)}); {advice}.") from error


@contextmanager
def _shard(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """What writes rows to a parquet file."""
    waiting: list[pa.Table] = []

    def write(row: pa.Table | None = None) -> None:
        waiting.extend([] if row is None else [row])
        if waiting and (row is None or sum(each.nbytes for each in waiting) >= ROW_GROUP_BYTES):
            writer.write_table(pa.concat_tables(waiting))
            waiting.clear()

    # Images and videos are compressed already, and nobody searches in them.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(path, schema, **options) as writer:
        yield write
        write()


def _write_split(dataset: Dataset, split: str, folder: Path, max_bytes: int, num_shards: int | None) -> list[Path]:
    """Write the shards of one split, and return them in order."""
    num_rows, size = len(dataset), 0
    rows = dataset.with_format("arrow").iter(batch_size=1)
    paths: list[Path] = []
    with ExitStack() as opened:
        for index, row in enumerate(tqdm(rows, split, num_rows, unit="row", disable=None, dynamic_ncols=True)):
            row = _with_contents(row)
            size += row.nbytes
            full = size > max_bytes
            if num_shards is not None:
                full = index * min(num_shards, num_rows) // num_rows == len(paths)
            if full or not paths:
                opened.close()
                paths.append(folder / f"{split}-{len(paths):05d}")
                write = opened.enter_context(_shard(paths[-1], dataset.features.arrow_schema))
                size = row.nbytes
            write(row)
    return [path.rename(f"{path}-of-{len(paths):05d}.parquet") for path in paths]


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

    One row at a time is in memory, a few times over while it is encoded, or several small ones of up to 16 MB.

    Args:
        splits: the rows of each split, as `salfom_hf.data.load` gives them.
        folder: to make.
        name: of the dataset, a key of `salfom_hf.data.DATASETS`: for its licence.
        max_shard_size: bytes, or such as `"500MB"`; only a row larger than this makes a larger shard.
        num_shards: write this many shards of each split, of the same number of rows (±1), whatever their size. A
            multiple of the number of machines lets `split_dataset_by_node` give whole shards to each. A split of fewer
            rows has a shard for each.
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
