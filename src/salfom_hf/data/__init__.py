"""Gaze datasets: loaded, checked, and cut into clips for training."""

from ..errors import needs_extra

try:
    import datasets  # noqa: F401  (`salfom data` turns its progress bars off)
except ImportError as error:
    raise ImportError(needs_extra("Reading gaze datasets", "data")) from error

from .augmentation import Augmentation
from .clip_folders import GazeFolder, Hollywood2, UCFSports, load_gazefolder, load_hollywood2, load_ucf_sports
from .clips import ClipDataset, MixtureDataset, collate_by_shape
from .dhf1k import DHF1K, load_dhf1k
from .export import export_dataset
from .features import STILL_FEATURES, VIDEO_FEATURES, DataError
from .loading import DATASETS, export_info, hold_out, load, load_export, splits_of
from .motion import MotionDataset
from .pseudo_labels import pseudo_label
from .recordings import make_gazefolder
from .report import Problem, Report
from .samples import open_sample
from .stills import Stills, load_stills

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
