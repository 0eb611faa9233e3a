"""Decoded frames to pictures: uint8 (height, width, 3) RGB, upright."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from PIL import Image

from .hdr import tone_mapped

# Threads of its own, which each frame's conversion would start, take longer than the conversion.
ONE_THREAD: dict[str, Any] = {"threads": 1}


def image_of(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """
    A decoded frame as uint8 (height, width, 3) RGB, upright, HDR in the colours of BT.709, scaled to `size` (height,
    width) if given.
    """
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        image = over_black(frame.to_ndarray(format="rgba", **ONE_THREAD))
    else:
        image = frame.to_ndarray(format="rgb24", **ONE_THREAD)
    image = _upright(tone_mapped(image, frame.color_trc), _matrix(frame))
    return image if size is None else fit(image, size)


def is_turned(frame: av.VideoFrame) -> bool:
    """Whether the frame is shown with its width as the height."""
    (a, b), _ = _matrix(frame)
    return abs(b) > abs(a)


def square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The width and height in which pixels `aspect` times as wide as high become square: one side becomes longer."""
    if not aspect or not 1 / 8 < aspect < 8:  # Damaged, or unknown.
        return width, height
    if aspect > 1:
        return 2 * round(width * aspect / 2), height
    return (width, height) if aspect == 1 else (width, 2 * round(height / aspect / 2))


def shown_size(frame: av.VideoFrame, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height of a frame, upright and in square pixels; `aspect` as in `square_pixels`."""
    width, height = square_pixels(frame.width, frame.height, aspect)
    return (height, width) if is_turned(frame) else (width, height)


def decoder_of(stream: Any) -> Any:
    """A stream's decoder: for VP8 and VP9 with transparency that of libvpx, since FFmpeg's own leave it out."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.codec_context
    return av.CodecContext.create(name, "r")


def _matrix(frame: av.VideoFrame) -> np.ndarray:
    """The display matrix's part (2, 2) that turns and mirrors: places (x, y) in the frame @ matrix are those shown."""
    try:
        # `frame.side_data` would keep the frame in memory for ever.
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV does not know all that may come with a frame, such as EXIF data.
        angle = -np.deg2rad(frame.rotation)
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if data is None:
        return np.eye(2)
    return np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(float)  # type: ignore[call-overload]


def _upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and mirror as the display matrix says, by the nearest quarter turn."""
    if abs(matrix[0, 1]) > abs(matrix[0, 0]):
        image, matrix = image.swapaxes(0, 1), matrix[::-1]
    steps = tuple(-1 if sign < 0 else 1 for sign in np.diag(matrix)[::-1])
    return np.ascontiguousarray(image[:: steps[0], :: steps[1]])


def over_black(rgba: np.ndarray) -> np.ndarray:
    rgb, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:]
    return ((rgb * alpha + 127) // 255).astype(np.uint8)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
