"""Gaze datasets: loaded, checked, and cut into clips for training."""

from ..errors import needs_extra

try:
    import datasets
except ImportError as error:
    raise ImportError(needs_extra("Reading gaze datasets", "data")) from error

from .augmentation import Augmentation
from .builder import GazeBuilder
from .clips import ClipDataset, MixtureDataset, StreamedClipDataset, collate_by_shape
from .dhf1k import DHF1K, load_dhf1k
from .export import export_dataset, export_info, load_export
from .features import STILL_FEATURES, VIDEO_FEATURES, DataError
from .gazefolder import GazeFolder, load_gazefolder
from .hollywood2 import Hollywood2, load_hollywood2
from .layout import Problem, Report
from .motion import MotionDataset
from .pseudo_labels import pseudo_label
from .recordings import make_gazefolder
from .samples import open_sample
from .splits import hold_out
from .stills import Stills, load_stills
from .ucf_sports import UCFSports, load_ucf_sports

DATASETS: dict[str, type[GazeBuilder]] = {
    "dhf1k": DHF1K,
    "hollywood2": Hollywood2,
    "ucf_sports": UCFSports,
    "stills": Stills,
    "gazefolder": GazeFolder,
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
    return load_export(data_dir, split, streaming=options.get("streaming", False))


def splits_of(name: str, data_dir) -> list[str]:
    """
    The splits that a dataset's folder, or an export, holds.

    Args:
        name: one of [`DATASETS`].

    Raises:
        DataError: the folder is not that of the dataset.
    """
    info = export_info(data_dir)
    if info is not None:
        return info["splits"]
    builder = DATASETS[name]
    return [split for split, items in builder.find(builder.find_root(data_dir), None)[0].items() if items]


__all__ = [
    "DATASETS",
    "DHF1K",
    "STILL_FEATURES",
    "VIDEO_FEATURES",
    "Augmentation",
    "ClipDataset",
    "DataError",
    "GazeFolder",
    "Hollywood2",
    "MixtureDataset",
    "MotionDataset",
    "Problem",
    "Report",
    "Stills",
    "StreamedClipDataset",
    "UCFSports",
    "collate_by_shape",
    "export_dataset",
    "export_info",
    "hold_out",
    "load",
    "load_dhf1k",
    "load_export",
    "load_gazefolder",
    "load_hollywood2",
    "load_stills",
    "load_ucf_sports",
    "make_gazefolder",
    "open_sample",
    "pseudo_label",
    "splits_of",
]
