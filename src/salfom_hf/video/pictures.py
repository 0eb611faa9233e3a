"""Image files to pictures: uint8 (height, width, 3) RGB, upright."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import VideoError, advice_for, listed, reason_of, refuse_pipe, reported
from .frames import over_black

try:  # The extra `heic`, by which Pillow reads what phones write.
    from pillow_heif import register_heif_opener
except ImportError:
    _FOR_HEIC = ", or run `pip install pillow-heif`"
else:
    register_heif_opener()
    _FOR_HEIC = ""

# Images that are read and written, and those that are read too where Pillow can.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
READ_IMAGES = IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".pgm", ".pnm", ".ppm", ".tga"}
_MAY_BE_ANIMATED = {".apng", ".avif", ".png", ".tif", ".tiff", ".webp"}
IMAGE_RATE = Fraction(25)
_ANIMATED = ("AVIF", "PNG", "WEBP")  # Others, as MPO, hold views of one moment.
# The tag of a TIFF's page that says, in this bit, that the page is a smaller copy of another one.
_KIND_OF_PAGE, _IS_REDUCED = 254, 1


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
    return sorted(files, key=lambda file: (natural_key(file.name.lower()), file.name))


@lru_cache(maxsize=2**14)
def natural_key(name: str) -> tuple[str | int, ...]:
    """What orders names by the numbers in them: text and numbers in turn; leading zeros do not count."""
    return tuple(int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", name)))


def load_image(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """
    Read an image file, given as its path or its bytes, as uint8 (height, width, 3) RGB: the first picture, if it is
    animated. Errors call it `name`.
    """
    with _opened(source, name) as file:
        return rgb_of(file)


def rgb_of(image: Image.Image) -> np.ndarray:
    """
    A picture as uint8 (height, width, 3) RGB: upright by its EXIF data, 16-bit grey scaled, transparency over black; a
    `ValueError` if its values are floats that are not in 0…255 or seem to be in 0…1.
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


def num_pictures(source: Path | bytes) -> int:
    """
    How many pictures an image file holds that are to be seen one after the other: more than one in an animated WebP,
    PNG or AVIF, or a TIFF of pages; 0 if it is no such file.
    """
    if isinstance(source, Path) and (source.suffix.lower() not in _MAY_BE_ANIMATED or not source.is_file()):
        return 0
    with suppress(VideoError), _opened(source) as file:
        return len(_pages(file))
    return 0


def is_picture(path: Path) -> bool:
    """Whether a file has the name of an image and holds one picture."""
    return path.suffix.lower() in READ_IMAGES and num_pictures(path) <= 1


def animation(source: Path | bytes, convert: Callable[[Image.Image], Any] = rgb_of) -> Iterator[tuple[Fraction, Any]]:
    """For how many seconds each picture of an image file is shown (a page: a 25th), and the picture, converted."""
    with _opened(source) as file:
        for number in _pages(file):
            file.seek(number)
            file.load()
            # Players take no duration for a tenth of a second.
            length = Fraction(file.info.get("duration") or 100) / 1000 if file.format in _ANIMATED else 1 / IMAGE_RATE
            yield length.limit_denominator(10**6), convert(file)


@lru_cache(maxsize=256)
def lengths_in(path: Path, modified: int) -> list[Fraction]:
    """The seconds of `animation`, of a file as it was when it was `modified`: all of it is decoded to know them."""
    return [length for length, _ in animation(path, lambda picture: None)]


def _pages(file: Image.Image) -> list[int]:
    """The numbers of the pictures in a file that are to be seen one after the other."""
    count = getattr(file, "n_frames", 1)
    if file.format == "TIFF":
        pages = []
        for number in range(count):
            file.seek(number)
            if not file.tag_v2.get(_KIND_OF_PAGE, 0) & _IS_REDUCED:  # type: ignore[attr-defined]
                pages.append(number)
        file.seek(0)
        return pages or [0]
    # The picture that stands for an animated PNG where only one can be shown may be none of the animation.
    first = 1 if file.info.get("default_image") else 0
    return list(range(first, count)) if file.format in _ANIMATED else [0]


@contextmanager
def _opened(source: Path | bytes, name: str | None = None) -> Iterator[Image.Image]:
    name = name or (f"of {len(source)} bytes" if isinstance(source, bytes) else str(source))
    if isinstance(source, Path):
        refuse_pipe(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            yield file
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        suffix = Path(name).suffix.lower()
        unknown = isinstance(error, UnidentifiedImageError) and suffix not in IMAGE_SUFFIXES
        more = _FOR_HEIC if suffix in (".heic", ".heif") else ""
        advice = f"convert it to JPEG or PNG{more}" if unknown else "replace or remove it"
        raise VideoError(f"Cannot read the image {name} ({reason_of(error)}); {advice_for(error, advice)}.") from error
