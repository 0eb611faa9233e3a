"""Pictures of saliency maps: heat maps, overlays on the frame, both side by side, grey maps."""

import io
import math
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Ten evenly spaced colours each, between which colours are interpolated.
COLORMAPS = {
    "turbo": "30123b 4662d7 36aaf9 1ae4b6 72fe5e c7ef34 faba39 f66b19 cb2a04 7a0403",
    "inferno": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    "viridis": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6dcd59 b4de2c fde725",
    "jet": "000080 0000f1 004cff 00b0ff 29ffce 7dff7a ceff29 ffc400 ff6800 800000",
    "gray": "000000 1c1c1c 393939 555555 717171 8e8e8e aaaaaa c6c6c6 e3e3e3 ffffff",
}


MAX_PNG = 10**8  # bytes of a picture that go through FFmpeg, which takes none of more than some 268 million pixels
UNIT = "predicted attention, no unit"  # What the numbers of a colour bar are.


def color_table(name: str) -> np.ndarray:
    """The 256 RGB colours of a color map, uint8 `(256, 3)`."""
    anchors = np.array([list(bytes.fromhex(color)) for color in COLORMAPS[name].split()], dtype=float)
    positions = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(positions, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def to_gray(saliency: np.ndarray) -> np.ndarray:
    """A map scaled from its minimum…maximum to uint8 0…255, as the field's code writes maps; a constant map is 0."""
    low, high = float(saliency.min()), float(saliency.max())
    if high <= low:
        return np.zeros(saliency.shape, dtype=np.uint8)
    return ((saliency - low) * (255 / (high - low))).round().astype(np.uint8)


def png_of(picture: np.ndarray, level: int = 4) -> bytes:
    """
    A PNG file of a uint8 picture, (height, width) or (height, width, 3) RGB, by FFmpeg: at level 4, maps are as small
    as Pillow's in a third of the time; at level 1, a third larger in half of that. Other threads go on.
    """
    if picture.size > MAX_PNG:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG", compress_level=level)
        return file.getvalue()
    encoder, layout = av.CodecContext.create("png", "w"), "gray" if picture.ndim == 2 else "rgb24"
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.thread_count = layout, 1
    encoder.time_base = encoder.sample_aspect_ratio = Fraction(1)
    # Each row as the difference to the one above it, which is small.
    encoder.options = {"compression_level": str(level), "pred": "up"}
    frame = av.VideoFrame.from_ndarray(picture, format=layout)
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode()))


def heatmap(saliency: np.ndarray, colormap: str = "turbo") -> np.ndarray:
    """A map `(height, width)` in colours, uint8 `(height, width, 3)`."""
    return color_table(colormap).take(to_gray(saliency), axis=0)


@lru_cache(maxsize=8)
def blend_tables(colormap: str, opacity: float) -> np.ndarray:
    """For each channel, what becomes of grey value g of the map over pixel value p: uint8 `(3, 256 · g + p)`."""
    # Fixed point: 256 stands for fully opaque.
    alpha = np.arange(256) * round(256 * opacity) // 255
    pixels = np.outer(256 - alpha, np.arange(256))
    blended = pixels + (color_table(colormap).T * alpha)[:, :, None] + 128 >> 8
    return blended.astype(np.uint8).reshape(3, -1)


def overlay(image: np.ndarray, saliency: np.ndarray, colormap: str = "turbo", opacity: float = 0.7) -> np.ndarray:
    """
    The heat map over the frame, more opaque where saliency is higher.

    Args:
        image: uint8 `(height, width, 3)`.
        saliency: float `(height, width)` of the same size.
        colormap: a name in `COLORMAPS`.
        opacity: of the heat map at the frame's maximum, 0…1.

    Returns:
        uint8 `(height, width, 3)`.
    """
    tables = blend_tables(colormap, opacity)
    shades = to_gray(saliency).astype(np.uint16) << 8
    return np.stack([table.take(shades | image[:, :, channel]) for channel, table in enumerate(tables)], axis=-1)


def side_by_side(image: np.ndarray, saliency: np.ndarray, colormap: str = "turbo") -> np.ndarray:
    """The frame at the left, its overlay at the right: uint8 `(height, 2 · width, 3)`."""
    return np.concatenate([image, overlay(image, saliency, colormap)], axis=1)


def with_color_bar(saliency: np.ndarray, colormap: str = "turbo") -> np.ndarray:
    """The heat map on white, and at its right a bar that says which colour is which value: uint8 RGB."""
    height, width = saliency.shape
    low, high = float(saliency.min()), float(saliency.max())
    text = max(10, height // 24)  # pixels of the font, of the margins and of the bar's width
    font = ImageFont.load_default(text)
    values = np.linspace(high, low, 5 if height >= 8 * text else 2) if high > low else [low]
    decimals = max(2, 2 - math.floor(math.log10(high - low))) if high > low else 2
    labels = [f"{value:.{decimals}f}" for value in values]
    bar, right = width + 2 * text, width + 3 * text
    length = round(max(font.getlength(label) for label in labels))
    has_title = font.getlength(UNIT) < height + 2 * text  # Next to a tiny map it would be cut off.
    size = right + text // 2 + length + text + has_title * 3 * text // 2, height + 2 * text
    picture = Image.new("RGB", size, "white")
    picture.paste(Image.fromarray(heatmap(saliency, colormap)), (text, text))
    scale = np.linspace(high, low, height)[:, None].repeat(text, axis=1)
    picture.paste(Image.fromarray(heatmap(scale, colormap)), (bar, text))
    draw = ImageDraw.Draw(picture)
    for row, label in zip(np.linspace(text, text + height - 1, len(labels)), labels, strict=True):
        draw.line([(right, row), (right + text // 4, row)], "black")
        draw.text((right + text // 2, row), label, "black", font, "lm")
    if has_title:
        upwards = ImageFont.TransposedFont(font, Image.Transpose.ROTATE_90)
        top = (picture.height - font.getlength(UNIT)) // 2
        draw.text((right + length + text, top), UNIT, "black", upwards)
    return np.asarray(picture)
