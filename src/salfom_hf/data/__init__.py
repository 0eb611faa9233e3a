"""Gaze datasets: loaded, checked, and cut into clips for training."""

import re

import numpy as np

try:
    import datasets
except ImportError as error:
    raise ImportError('The gaze datasets need more packages: pip install "salfom-hf[data]"') from error

from .augmentation import Augmentation
from .builder import GazeBuilder
from .clips import ClipDataset, MixtureDataset, StreamedClipDataset
from .dhf1k import DHF1K, load_dhf1k
from .export import export_dataset, export_info, load_export
from .features import STILL_FEATURES, VIDEO_FEATURES, DataError
from .hollywood2 import Hollywood2, load_hollywood2
from .layout import Problem, Report
from .samples import open_sample
from .stills import Stills, load_stills
from .ucf_sports import UCFSports, load_ucf_sports

DATASETS: dict[str, type[GazeBuilder]] = {
    "dhf1k": DHF1K,
    "hollywood2": Hollywood2,
    "ucf_sports": UCFSports,
    "stills": Stills,
}
"""The builders, by the names that commands give them."""


def load(name: str, data_dir, split: str = "train", **options) -> datasets.Dataset | datasets.IterableDataset:
    """
    One of the datasets by its name: `load("dhf1k", …)` is `load_dhf1k(…)`.

    Args:
        name: one of [`DATASETS`].
        data_dir, split, options: as for [`load_dhf1k`]; the folder may also be an export, of which nothing but
            `streaming` is asked.

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
    split = DATASETS[name].ALIASES.get(split, split)
    return load_export(data_dir, split, streaming=options.get("streaming", False))


def hold_out(
    dataset: datasets.Dataset, fraction: float = 0.1, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
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
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must be between 0 and 1, not {fraction}.")
    if "video_id" in dataset.column_names:
        groups = [re.sub(r"_[0-9]+$", "", name) for name in dataset["video_id"]]
    else:
        groups = list(dataset["image_id"])
    distinct = sorted(set(groups))
    if len(distinct) < 2:
        raise ValueError(f"Nothing can be held out of {len(distinct)} video; give a dataset of two or more.")
    count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    held = {distinct[index] for index in np.random.default_rng(seed).permutation(len(distinct))[:count]}
    return (
        dataset.select([index for index, group in enumerate(groups) if group not in held]),
        dataset.select([index for index, group in enumerate(groups) if group in held]),
    )


__all__ = [
    "DATASETS",
    "DHF1K",
    "STILL_FEATURES",
    "VIDEO_FEATURES",
    "Augmentation",
    "ClipDataset",
    "DataError",
    "Hollywood2",
    "MixtureDataset",
    "Problem",
    "Report",
    "Stills",
    "StreamedClipDataset",
    "UCFSports",
    "export_dataset",
    "export_info",
    "hold_out",
    "load",
    "load_dhf1k",
    "load_export",
    "load_hollywood2",
    "load_stills",
    "load_ucf_sports",
    "open_sample",
]
