"""The datasets by their names, and exports of them, loaded; validation sets where there is no official one."""

import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, IterableDataset, load_dataset

from .builder import GazeBuilder
from .features import DataError, id_column
from .stills import Stills
from .video_folders import DHF1K, GazeFolder, Hollywood2, UCFSports

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
    if (info := export_info(data_dir)) is not None:
        return info["splits"]
    builder = DATASETS[name]
    return [split for split, items in builder.find(builder.find_root(data_dir), None)[0].items() if items]


def export_info(folder: str | os.PathLike[str]) -> dict | None:
    """`{"dataset": name, "splits": […]}` and more of a folder that `export_dataset` made; None for any other."""
    marker = Path(folder) / MARKER
    if not marker.is_file():
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        info = json.loads(marker.read_text(encoding="utf-8"))
        if info["dataset"] in DATASETS and info["splits"] and all(isinstance(split, str) for split in info["splits"]):
            return info
    raise DataError(f"{marker} is not what salfom data export writes; export the dataset again.")


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
        try:
            # Exports of earlier versions do not have all columns.
            names = pq.read_schema(shards[min(shards)][0]).names
            features = Features({name: builder.FEATURES[name] for name in names})
        except (OSError, pa.ArrowException, IndexError, KeyError) as error:
            raise DataError(f"The shards of {path} are missing or damaged; export the dataset again.") from error
        source, options = "parquet", {"data_files": shards, "features": features}
    elif os.path.isdir(path):
        raise DataError(f"{path} is no exported dataset; name a folder that was made by salfom data export.")
    try:
        # One row at a time between reading and writing, for rows are large.
        return load_dataset(source, split=split, streaming=streaming, writer_batch_size=1, **options)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        text = f"Cannot load the split {split!r} of {path}: {error}"
        if info is None and isinstance(error, OSError):
            text = (
                f"There is no folder {path}, and no dataset of that name on the Hub could be reached; check the name."
            )
        raise DataError(text) from error


def held_out(names: Collection[str], fraction: float, seed: int) -> set[str]:
    """A share of distinct names, the same for the same names and seed; at least one, and not all."""
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must be between 0 and 1, not {fraction}.")
    if len(names) < 2:
        raise ValueError(f"Nothing can be held out of {len(names)} video; give a dataset of two or more.")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    ordered = sorted(names)
    return {ordered[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}


def hold_out(dataset: Dataset, fraction: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """
    Divide a training set into one to train on and one to validate on, by videos (or images).

    The choice depends on the ids and the seed alone, not on the order of the rows. Shots of one film clip
    (`actioncliptrain00001_1`, `…_2` of Hollywood-2) stay together.

    Args:
        fraction: of the videos that is held out, between 0 and 1; at least one is, and at least one is not.

    Returns:
        (training set, validation set), rows in their order.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are not two videos.
    """
    column = id_column(dataset.column_names)
    groups = [re.sub(r"_[0-9]+$", "", name) if column == "video_id" else name for name in dataset[column]]
    held = held_out(set(groups), fraction, seed)
    is_held = np.array([group in held for group in groups])
    return dataset.select(np.flatnonzero(~is_held)), dataset.select(np.flatnonzero(is_held))
