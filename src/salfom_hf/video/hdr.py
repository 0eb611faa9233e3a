"""HDR to the colours of BT.709, which the networks have learnt from and all screens show."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

_PEAK, _WHITE = 1000.0, 100.0  # cd/m²: the brightest of usual HDR, and the white of BT.709.
_KNEE = 0.7  # Up to here, as a share of white, brightness stays; what is brighter shares the rest.
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020's primaries
# From BT.2020's primaries to those of BT.709 (ITU-R BT.2087).
_PRIMARIES = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_STEPS = 65  # of the table on each axis, the most that Pillow takes


def _hlg(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m² (ITU-R BT.2100, table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return _PEAK * scene * (scene @ _LUMINANCE)[..., None] ** 0.2


def _pq(signal: np.ndarray) -> np.ndarray:
    """Light in cd/m² (ITU-R BT.2100, table 4)."""
    power = signal ** (32 / 2523)
    return 10_000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)


# By FFmpeg's numbers of the curve from light to signal.
_LIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {16: _pq, 18: _hlg}


def tone_mapped(image: np.ndarray, curve: int) -> np.ndarray:
    """A picture, uint8 (height, width, 3), in the colours of BT.709; what has another curve than PQ and HLG stays."""
    return np.array(Image.fromarray(image).filter(_table(curve))) if curve in _LIGHT else image


@lru_cache
def _table(curve: int) -> ImageFilter.Color3DLUT:
    axis = np.linspace(0, 1, _STEPS)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    light = _LIGHT[curve](np.stack([red, green, blue], axis=-1)) / _WHITE
    light = np.maximum(light @ _PRIMARIES.T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    light *= _mobius(brightest) / np.maximum(brightest, 1e-9)
    return ImageFilter.Color3DLUT(_STEPS, (light.clip(0, 1) ** (1 / 2.4)).ravel())  # BT.1886


def _mobius(light: np.ndarray) -> np.ndarray:
    """The curve of this name in FFmpeg's filter `tonemap`."""
    peak, knee = _PEAK / _WHITE, _KNEE
    a = -(knee**2) * (peak - 1) / (knee**2 - 2 * knee + peak)
    b = (knee**2 - 2 * knee * peak + peak) / (peak - 1)
    return np.where(light <= knee, light, (b**2 + 2 * b * knee + knee**2) / (b - a) * (light + a) / (light + b))
