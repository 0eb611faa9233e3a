"""Gaze datasets: loaded, checked, and cut into clips for training."""

from ..errors import needing

with needing("Reading gaze datasets", "data"):
    import datasets  # noqa: F401  (`salfom data` turns its progress bars off)

from .augmentation import Augmentation as Augmentation
from .clips import ClipDataset as ClipDataset
from .clips import MixtureDataset as MixtureDataset
from .clips import collate_by_shape as collate_by_shape
from .export import export_dataset as export_dataset
from .features import STILL_FEATURES as STILL_FEATURES
from .features import VIDEO_FEATURES as VIDEO_FEATURES
from .features import DataError as DataError
from .loading import DATASETS as DATASETS
from .loading import export_info as export_info
from .loading import hold_out as hold_out
from .loading import load as load
from .loading import load_export as load_export
from .loading import splits_of as splits_of
from .motion import MotionDataset as MotionDataset
from .pseudo_labels import pseudo_label as pseudo_label
from .recordings import make_gazefolder as make_gazefolder
from .report import Problem as Problem
from .report import Report as Report
from .samples import open_sample as open_sample
from .stills import Stills as Stills
from .stills import load_stills as load_stills
from .video_folders import DHF1K as DHF1K
from .video_folders import GazeFolder as GazeFolder
from .video_folders import Hollywood2 as Hollywood2
from .video_folders import UCFSports as UCFSports
from .video_folders import load_dhf1k as load_dhf1k
from .video_folders import load_gazefolder as load_gazefolder
from .video_folders import load_hollywood2 as load_hollywood2
from .video_folders import load_ucf_sports as load_ucf_sports
