"""Contact sheets: a few frames of each video with where people looked, to see whether the data is right."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..inference.sliding_window import batched
from ..video.drawing import overlay
from .report import counted
from .samples import GazeStill, GazeVideo

# Pixels, if not said otherwise.
CELL_AREA = 320 * 200
COLUMNS = 12  # pictures side by side; more go below
MARGIN, GAP, GUTTER, MIN_WIDTH = 28, 8, 96, 640
TITLE_SIZE, TEXT_SIZE, LINE = 24, 16, 22
SMOOTHING = 4  # Dots are drawn this much larger, then reduced.

# The font that comes with Pillow lacks × and …, so neither is drawn.
BACKGROUND, CELL_COLOR = (24, 26, 30), (12, 13, 15)
BRIGHT, DIM = (236, 238, 241), (158, 164, 172)
# Radius and colour of a dark edge, a white ring, and the dot itself.
DOT = ((4.5, (0, 0, 0)), (3.5, (255, 255, 255)), (2.25, (255, 64, 48)))


class Panel(NamedTuple):
    """Pictures of one frame, from top to bottom, under two lines of text."""

    name: str
    note: str
    pictures: list[Image.Image]


class Block(NamedTuple):
    """Panels side by side under a title."""

    title: str
    note: str
    panels: list[Panel]


def video_block(video: GazeVideo, num_frames: int, cell: tuple[int, int]) -> Block:
    """Evenly spaced frames of a video, each from the middle of its part."""
    columns = min(num_frames, video.num_frames)
    panels = []
    for column in range(columns):
        index = (2 * column + 1) * video.num_frames // (2 * columns)
        frame = fitted(next(video.frames(index, index + 1)), cell)
        pictures, note = [frame], ""
        if video.has_labels:
            fixations = video.fixations(index)
            points = (np.argwhere(fixations)[:, ::-1] + 0.5) / fixations.shape[::-1]
            pictures += [heated(frame, video.density(index)), dotted(frame, points)]
            note = f"{counted(len(points), 'pixel')} fixated"
        panels.append(Panel(f"frame {index}", note, pictures))
    height, width = video.size
    labels = "" if video.has_labels else ", no labels"
    note = f"{width}x{height}, {video.fps:g} fps, {counted(video.num_frames, 'frame')}{labels}"
    return Block(video.id, note, panels)


def still_panel(still: GazeStill, cell: tuple[int, int]) -> Panel:
    height, width = still.size
    points = np.stack([still.x / width, still.y / height], axis=1)
    frame = fitted(next(still.frames()), cell)
    note = f"{width}x{height}, {counted(len(points), 'fixation')}"
    return Panel(still.id, note, [frame, heated(frame, still.density(0)), dotted(frame, points)])


def fitted(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """The image as large as it fits into the cell."""
    return ImageOps.contain(Image.fromarray(image), cell, Image.Resampling.LANCZOS)


def heated(frame: Image.Image, density: np.ndarray) -> Image.Image:
    """The density, float32 of any size, as a heat map over the frame."""
    heat = Image.fromarray(density).resize(frame.size, Image.Resampling.BILINEAR)
    return Image.fromarray(overlay(np.asarray(frame), np.asarray(heat)))


def dotted(frame: Image.Image, points: np.ndarray) -> Image.Image:
    """The frame with a dot at each point: float `(points, 2)`, x and y as shares of width and height."""
    frame = frame.copy()
    centers = points * frame.size * SMOOTHING
    # Rings and edges lie below all dots, so that those of a crowd do not hide each other.
    for radius, color in DOT:
        mask = Image.new("L", (frame.width * SMOOTHING, frame.height * SMOOTHING))
        draw = ImageDraw.Draw(mask)
        for x, y in centers:
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


def drawn(block: Block, sheet_width: int, cell: tuple[int, int]) -> Image.Image:
    """A block as a picture of the sheet's width, with the margin above it."""
    title_font, font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    width, height = cell
    bands = max(len(panel.pictures) for panel in block.panels)
    captions = MARGIN + (2 * LINE if block.title else 0)
    top = captions + 2 * LINE + GAP // 2
    strip = Image.new("RGB", (sheet_width, top + bands * (height + GAP) - GAP), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    if block.title:
        room = sheet_width - 2 * MARGIN - 2 * GAP - font.getlength(block.note)
        title = shortened(block.title, title_font, room)
        baseline = MARGIN + TITLE_SIZE
        draw.text((MARGIN, baseline), title, BRIGHT, title_font, anchor="ls")
        left = MARGIN + title_font.getlength(title) + 2 * GAP
        draw.text((left, baseline), block.note, DIM, font, anchor="ls")
    for band, name in enumerate(("frame", "density", "fixations")[:bands]):
        draw.text((MARGIN, top + band * (height + GAP) + height / 2), name, DIM, font, anchor="lm")
    for index, panel in enumerate(block.panels):
        left = MARGIN + GUTTER + index * (width + GAP)
        for line, (text, color) in enumerate(((panel.name, BRIGHT), (panel.note, DIM))):
            baseline = captions + line * LINE + TEXT_SIZE
            draw.text((left, baseline), shortened(text, font, width), color, font, anchor="ls")
        for band, picture in enumerate(panel.pictures):
            upper = top + band * (height + GAP)
            draw.rectangle((left, upper, left + width - 1, upper + height - 1), CELL_COLOR)
            strip.paste(picture, (left + (width - picture.width) // 2, upper + (height - picture.height) // 2))
    return strip


def contact_sheet(samples: Iterable[GazeVideo | GazeStill], num_frames: int = 5) -> Image.Image:
    """
    Frames, density maps and fixations of some videos or stills in one picture.

    Each video has a row of frames, or several of up to 12; below each frame are its density as a heat map over it, and
    its fixations as dots. Stills stand side by side. Images of other shapes than most are letterboxed.

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
    blocks = []
    for sample in samples:
        if isinstance(sample, GazeVideo):
            block = video_block(sample, num_frames, cell)
            first, *rows = batched(block.panels, COLUMNS)
            blocks += [block._replace(panels=first), *(Block("", "", row) for row in rows)]
    stills = [still_panel(sample, cell) for sample in samples if isinstance(sample, GazeStill)]
    blocks += [Block("", "", row) for row in batched(stills, min(num_frames, COLUMNS))]
    columns = max(len(block.panels) for block in blocks)
    # Wide enough for the title of a video even where it has a single frame.
    width = 2 * MARGIN + max(GUTTER + columns * (cell[0] + GAP) - GAP, MIN_WIDTH)
    strips = [np.asarray(drawn(block, width, cell)) for block in blocks]
    strips.append(np.full((MARGIN, width, 3), BACKGROUND, np.uint8))
    return Image.fromarray(np.concatenate(strips))
