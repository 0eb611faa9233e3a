"""Image files to pictures: uint8 (height, width, 3) RGB, upright."""

import io
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import VideoError, advice_for, listed, reason_of, refuse_pipe, reported
from .frames import over_black

# Images that are read and written, and those that are read too where Pillow can.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
READ_IMAGES = IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".pgm", ".pnm", ".ppm", ".tga"}
IMAGE_RATE = Fraction(25)


def image_files(path: Path) -> list[Path]:
    """Return the images that a folder or a single image stands for, in natural order; none for a video file."""
    if str(path) == "-":
        raise VideoError("- is standard input and not a file; `salfom live -` shows what is piped in.")
    if not os.path.lexists(path):
        raise VideoError(f"There is no file or folder {path}; check the path.")
    if not path.is_dir():
        return [path] if path.suffix.lower() in READ_IMAGES else []
    with reported(f"Cannot read the folder {path}"):
        files = [f for f in path.iterdir() if f.suffix.lower() in READ_IMAGES and not f.name.startswith(".")]
    if not files:
        raise VideoError(f"The folder {path} has no images; give one with {listed(IMAGE_SUFFIXES)} files.")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", file.name.lower())
    return [int(part) if part.isdigit() else part for part in parts], file.name


def load_image(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """Read an image file, given as its path or its bytes, as uint8 (height, width, 3) RGB; errors call it `name`."""
    if isinstance(source, Path):
        refuse_pipe(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return rgb_of(file)
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        name = name or str(source)
        unknown = isinstance(error, UnidentifiedImageError) and Path(name).suffix.lower() not in IMAGE_SUFFIXES
        advice = "convert it to JPEG or PNG" if unknown else "replace or remove it"
        raise VideoError(f"Cannot read the image {name} ({reason_of(error)}); {advice_for(error, advice)}.") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """
    A picture as uint8 (height, width, 3) RGB: upright by its EXIF data, 16-bit grey scaled, transparency over black.

    Raises:
        ValueError: its values are floats, and are not in 0…255 or seem to be in 0…1.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 rather than scale it; 32 bits may hold 8 or 16.
        pixels = np.asarray(image).astype(np.int64)
        bits = 8 if image.mode != "I" or pixels.max() > 255 else 0
        image = Image.fromarray((pixels >> bits).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        pixels = np.asarray(image)
        if not (pixels.min() >= 0 and pixels.max() <= 255) or 0 < pixels.max() <= 1:
            raise ValueError(f"it holds floats in {pixels.min():g}…{pixels.max():g}, not in 0…255: scale them")
    transparent = image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info
    return over_black(np.asarray(image.convert("RGBA"))) if transparent else np.array(image.convert("RGB"))
