"""The datasets by their names, and exports of them, loaded."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset, load_dataset

from .builder import GazeBuilder
from .clip_folders import GazeFolder, Hollywood2, UCFSports
from .dhf1k import DHF1K
from .features import DataError
from .stills import Stills

DATASETS: dict[str, type[GazeBuilder]] = {
    "dhf1k": DHF1K,
    "hollywood2": Hollywood2,
    "ucf_sports": UCFSports,
    "stills": Stills,
    "gazefolder": GazeFolder,
}
"""The builders, by the names that commands give them."""

MARKER = "salfom_export.json"


def load(
    name: str, data_dir: str | os.PathLike[str], split: str = "train", **options: Any
) -> Dataset | IterableDataset:
    """
    One of the [`DATASETS`] by its name: `load("dhf1k", …)` is `load_dhf1k(…)`; the folder may also be an export, of
    which nothing but `streaming` is asked.

    Raises:
        DataError: there is no such dataset, or it cannot be loaded.
    """
    if name not in DATASETS:
        raise DataError(f"There is no dataset {name!r}; choose one of {', '.join(DATASETS)}.")
    info = export_info(data_dir)
    if info is None:
        return DATASETS[name].load(data_dir, split, **options)
    if info["dataset"] != name:
        raise DataError(f"{data_dir} is an export of {info['dataset']}, not of {name}; name that dataset.")
    return load_export(data_dir, split, streaming=options.get("streaming", False))


def splits_of(name: str, data_dir: str | os.PathLike[str]) -> list[str]:
    """
    The splits that a dataset's folder, or an export, holds.

    Raises:
        DataError: the folder is not that of the dataset.
    """
    info = export_info(data_dir)
    if info is not None:
        return info["splits"]
    builder = DATASETS[name]
    return [split for split, items in builder.find(builder.find_root(data_dir), None)[0].items() if items]


def export_info(folder: str | os.PathLike[str]) -> dict | None:
    """`{"dataset": name, "splits": […]}` and more of a folder that `export_dataset` made; None for any other."""
    marker = Path(folder) / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def load_export(
    path: str | os.PathLike[str], split: str = "train", *, streaming: bool = False
) -> Dataset | IterableDataset:
    """
    The rows of an exported dataset, with the files' content in place of their paths.

    Streaming reads the shards in place; otherwise `datasets` keeps a copy of them in its cache.

    Args:
        path: the folder that `export_dataset` made, or the name of a dataset on the Hub that was uploaded from one.
        split: as exported, or, of a folder, as the dataset's own loader takes it (`"val"`: `"validation"`); without
            streaming also a part such as `"train[:90%]"`.

    Raises:
        DataError: there is no such export or split.
    """
    info, source, options = export_info(path), str(path), {}
    if info is not None:
        builder = DATASETS[info["dataset"]]
        split, names = builder.official_split(split)
        splits = set(info["splits"]) & set(names)
        if not splits:
            raise DataError(f"{path} has no split {split!r}, but {' and '.join(info['splits'])}.")
        # Named one by one, for then `datasets` notices in its cache when they have changed.
        shards = {
            name: [str(file) for file in sorted(Path(path, "data").glob(f"{name}-*.parquet"))] for name in splits
        }
        # Exports of earlier versions do not have all columns.
        names = pq.read_schema(shards[min(shards)][0]).names
        features = Features({name: builder.FEATURES[name] for name in names})
        source, options = "parquet", {"data_files": shards, "features": features}
    elif os.path.isdir(path):
        raise DataError(f"{path} is no exported dataset; name a folder that was made by salfom data export.")
    try:
        # One row at a time between reading and writing, for rows are large.
        return load_dataset(source, split=split, streaming=streaming, writer_batch_size=1, **options)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        if info is None and isinstance(error, OSError):
            raise DataError(
                f"There is no folder {path}, and no dataset of that name on the Hub could be reached; check the name."
            ) from error
        raise DataError(f"Cannot load the split {split!r} of {path}: {error}") from error
