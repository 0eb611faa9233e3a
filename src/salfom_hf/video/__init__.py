"""Files ↔ frames: reading, seeking, writing and drawing."""

from ..errors import VideoError
from .reading import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, VideoInfo, image_files, load_image, probe, read_frames
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
