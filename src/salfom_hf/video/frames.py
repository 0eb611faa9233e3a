"""Decoded frames to pictures: uint8 (height, width, 3) RGB, upright, in the colours of BT.709."""

from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from PIL import Image, ImageFilter

# Threads of its own, which each frame's conversion would start, take longer than the conversion.
ONE_THREAD: dict[str, Any] = {"threads": 1}
_PQ, _HLG = 16, 18  # FFmpeg's numbers of the curves from light to signal
_PEAK = 10.0  # the brightest of usual HDR; 1 is the white of BT.709, of 100 cd/m²
_KNEE = 0.7  # Up to here brightness stays; what is brighter shares the rest.
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020's primaries
# From BT.2020's primaries to those of BT.709 (ITU-R BT.2087).
_PRIMARIES = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_STEPS = 65  # of the table on each axis, the most that Pillow takes


def image_of(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """
    A decoded frame as uint8 (height, width, 3) RGB, upright, HDR in the colours of BT.709, scaled to `size` (height,
    width) if given.
    """
    matrix = _matrix(frame)  # Its nearest quarter turn is taken.
    turned = abs(matrix[0, 1]) > abs(matrix[0, 0])
    width, height = (frame.width, frame.height) if size is None else size if turned else size[::-1]
    options: dict[str, Any] = {"format": "rgb24", **ONE_THREAD}
    if (width, height) != (frame.width, frame.height):  # Scaled in one step with the colours.
        # To RGB that lies pixel by pixel, FFmpeg would scale colours to half of the width.
        options |= {"format": "gbrp", "width": width, "height": height, "interpolation": "BICUBIC"}
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        image = over_black(frame.to_ndarray(format="rgba", **ONE_THREAD))
    else:
        image = frame.to_ndarray(**options)
    if frame.color_trc in (_PQ, _HLG):  # Screens show, and the networks have learnt from, the colours of BT.709.
        image = np.array(Image.fromarray(image).filter(_tone_table(frame.color_trc)))
    if turned:
        image, matrix = image.swapaxes(0, 1), matrix[::-1]
    across, down = (-1 if sign < 0 else 1 for sign in np.diag(matrix))
    image = np.ascontiguousarray(image[::down, ::across])
    return image if size is None else fit(image, size)


def is_turned(frame: av.VideoFrame) -> bool:
    """Whether the frame is shown with its width as the height."""
    (a, b), _ = _matrix(frame)
    return abs(b) > abs(a)


def square_pixels(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The width and height in which pixels `aspect` times as wide as high become square: one side becomes longer."""
    if not aspect or aspect == 1 or not 1 / 8 < aspect < 8:  # Damaged, or unknown.
        return width, height
    return (2 * round(width * aspect / 2), height) if aspect > 1 else (width, 2 * round(height / aspect / 2))


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


def over_black(rgba: np.ndarray) -> np.ndarray:
    rgb, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:]
    return ((rgb * alpha + 127) // 255).astype(np.uint8)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


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


@lru_cache
def _tone_table(curve: int) -> ImageFilter.Color3DLUT:
    """HDR of one of the curves to the colours of BT.709."""
    axis = np.linspace(0, 1, _STEPS)
    signal = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1)
    if curve == _PQ:  # ITU-R BT.2100, table 4.
        power = signal ** (32 / 2523)
        light = 100 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    else:  # Table 5.
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = _PEAK * scene * (scene @ _LUMINANCE)[..., None] ** 0.2
    light = np.maximum(light @ _PRIMARIES.T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    # The curve called Möbius in FFmpeg's filter `tonemap`.
    a = -(_KNEE**2) * (_PEAK - 1) / (_KNEE**2 - 2 * _KNEE + _PEAK)
    b = (_KNEE**2 - 2 * _KNEE * _PEAK + _PEAK) / (_PEAK - 1)
    mapped = (b**2 + 2 * b * _KNEE + _KNEE**2) / (b - a) * (brightest + a) / (brightest + b)
    light *= np.where(brightest <= _KNEE, brightest, mapped) / np.maximum(brightest, 1e-9)
    return ImageFilter.Color3DLUT(_STEPS, (light.clip(0, 1) ** (1 / 2.4)).ravel())  # BT.1886
