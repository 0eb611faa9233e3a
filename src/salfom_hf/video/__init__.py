"""Files ↔ frames: reading, seeking, writing and drawing."""

from ..errors import VideoError
from .pictures import IMAGE_SUFFIXES, image_files, load_image
from .reading import VIDEO_SUFFIXES, Frame, VideoInfo, probe, read_frames
from .seeking import read_frames_at

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Frame",
    "VideoError",
    "VideoInfo",
    "image_files",
    "load_image",
    "probe",
    "read_frames",
    "read_frames_at",
]
