"""Pictures in rows under text: contact sheets of frames with where people looked, to see whether the data is right."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..inference.sliding_window import batched
from ..video.drawing import overlay
from .augmentation import fixated_points
from .report import amount
from .samples import GazeStill, GazeVideo

# Pixels, if not said otherwise.
CELL_AREA = 320 * 200
COLUMNS = 12  # pictures side by side; more go below
GAP, LINE, TEXT, MIN_WIDTH = 8, 20, 14, 640
SMOOTHING = 4  # Dots are drawn this much larger, then reduced.

# The font that comes with Pillow lacks × and …, so neither is drawn.
BACKGROUND, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
# Radius and colour of a dark edge, a white ring, and the dot itself.
DOT = ((4.5, (0, 0, 0)), (3.5, (255, 255, 255)), (2.25, (255, 64, 48)))
BELOW = "below each its density and its fixations"


class Cell(NamedTuple):
    """Pictures, from top to bottom, under two lines of text."""

    name: str
    note: str
    pictures: list[Image.Image]


def _cells(sample: GazeVideo | GazeStill, num_frames: int, cell: tuple[int, int]) -> list[Cell]:
    """A still, or evenly spaced frames of a video, each from the middle of its part."""
    columns = min(num_frames, sample.num_frames)
    cells = []
    for index in ((2 * column + 1) * sample.num_frames // (2 * columns) for column in range(columns)):
        frame = fitted(next(sample.frames(index, index + 1)), cell)
        if isinstance(sample, GazeStill):
            points = np.stack([sample.y, sample.x], axis=1) / sample.size
            name, note = sample.id, f"{_size(sample)}, {amount(len(points), 'fixation')}"
        elif sample.has_labels:
            points = fixated_points(sample.fixations(index), (1, 1))
            name, note = f"frame {index}", f"{amount(len(points), 'pixel')} fixated"
        else:
            cells.append(Cell(f"frame {index}", "", [frame]))
            continue
        cells.append(Cell(name, note, [frame, heated(frame, sample.density(index)), dotted(frame, points)]))
    return cells


def _size(sample: GazeVideo | GazeStill) -> str:
    return f"{sample.size[1]}x{sample.size[0]}"


def fitted(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """The image as large as it fits into the cell."""
    return ImageOps.contain(Image.fromarray(image), cell, Image.Resampling.LANCZOS)


def heated(frame: Image.Image, density: np.ndarray) -> Image.Image:
    """The density, float32 of any size, as a heat map over the frame."""
    heat = Image.fromarray(density).resize(frame.size, Image.Resampling.BILINEAR)
    return Image.fromarray(overlay(np.asarray(frame), np.asarray(heat)))


def dotted(frame: Image.Image, points: np.ndarray) -> Image.Image:
    """The frame with a dot at each point: float `(points, 2)`, y and x as shares of height and width."""
    frame = frame.copy()
    places = points[:, ::-1] * frame.size * SMOOTHING
    # Rings and edges lie below all dots, so that those of a crowd do not hide each other.
    for radius, color in DOT:
        mask = Image.new("L", (frame.width * SMOOTHING, frame.height * SMOOTHING))
        draw = ImageDraw.Draw(mask)
        for x, y in places:
            draw.circle((x, y), radius * SMOOTHING, fill=255)
        frame.paste(color, mask=mask.reduce(SMOOTHING))
    return frame


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, with points for its middle where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}...{text[-(kept // 2) :]}"
        if font.getlength(short) <= width:
            return short
    return "..."


def sheet(rows: Sequence[tuple[str, Sequence[Cell]]], cell: tuple[int, int]) -> Image.Image:
    """Rows of cells, each under a heading if it has one; `cell`: the largest (width, height) of a picture, pixels."""
    font = ImageFont.load_default(TEXT)
    width = max(GAP + max(len(cells) for _, cells in rows) * (cell[0] + GAP), MIN_WIDTH)
    strips = []
    for heading, cells in rows:
        top = GAP + (LINE if heading else 0)
        bands = max(len(each.pictures) for each in cells)
        height = max(picture.height for each in cells for picture in each.pictures) + GAP
        strip = Image.new("RGB", (width, top + 2 * LINE + bands * height), BACKGROUND)
        draw = ImageDraw.Draw(strip)
        draw.text((GAP, GAP), shortened(heading, font, width - 2 * GAP), INK, font)
        for column, each in enumerate(cells):
            left = GAP + column * (cell[0] + GAP)
            draw.text((left, top), shortened(each.name, font, cell[0]), INK, font)
            draw.text((left, top + LINE), shortened(each.note, font, cell[0]), FAINT, font)
            for band, picture in enumerate(each.pictures):
                strip.paste(picture, (left, top + 2 * LINE + band * height))
        strips.append(np.asarray(strip))
    return Image.fromarray(np.concatenate(strips))


def contact_sheet(samples: Iterable[GazeVideo | GazeStill], num_frames: int = 5) -> Image.Image:
    """
    Frames, density maps and fixations of some videos or stills in one picture.

    Each video has a row of frames, or several of up to 12; below each frame are its density as a heat map over it, and
    its fixations as dots. Stills stand side by side.

    Args:
        samples: as `open_sample` gives them; the sheet shows all of them, so take a few.
        num_frames: frames per video, and stills per row, of which 12 fit.

    Raises:
        ValueError: there are no samples.
        VideoError, DataError: a file cannot be read.
    """
    samples = list(samples)
    if not samples:
        raise ValueError("There is nothing to show.")
    # Cells have the shape that images typically have.
    aspect = np.median([sample.size[1] / sample.size[0] for sample in samples]).clip(3 / 4, 16 / 9)
    cell = round((CELL_AREA * aspect) ** 0.5), round((CELL_AREA / aspect) ** 0.5)
    rows: list[tuple[str, Sequence[Cell]]] = []
    stills: list[Cell] = []
    for sample in samples:
        cells = _cells(sample, num_frames, cell)
        if isinstance(sample, GazeStill):
            stills += cells
            continue
        note = f"{_size(sample)}, {sample.fps:g} fps, {amount(sample.num_frames, 'frame')}"
        heading = f"{sample.id}: {note}; {BELOW if sample.has_labels else 'no labels'}"
        rows += [("" if number else heading, part) for number, part in enumerate(batched(cells, COLUMNS))]
    rows += [(f"Stills; {BELOW}", cells) for cells in batched(stills, min(num_frames, COLUMNS))]
    return sheet(rows, cell)
