"""What saliency maps say to people: where the eyes stay, how long, and how sure that is; in words and as a picture."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..inference.table import Attention

SHORTEST_STAY = 0.25  # seconds; about as long as eyes need to go somewhere else
NEAR = 0.12  # of the frame's width and height: peaks that are no further apart are one place
MOST_STAYS = 8
ACROSS = ("far left", "left of the middle", "", "right of the middle", "far right")
DOWN = ("at the top", "above the middle", "", "below the middle", "at the bottom")
# Spread of a map, see `Attention`, up to which this is said; maps that are all alike have 0.29.
AGREEMENT = ((0.12, "most eyes agree"), (0.17, "many agree"), (math.inf, "eyes differ much"))
INK, LINE = "#374151", "#dc2626"
TIME_SIDE = 150  # pixels of the time axes


class Stay(NamedTuple):
    """The peak's time in one place, or with something that moves slowly: from `begin` to `end`, in seconds."""

    begin: float
    end: float
    frames: list[Attention]

    @property
    def place(self) -> tuple[float, float]:
        """The middle of the peaks, 0…1 from the left and upper edges."""
        x, y = np.median([(frame.peak_x, frame.peak_y) for frame in self.frames], axis=0)
        return float(x), float(y)

    def in_words(self) -> str:
        first, last = self.frames[0], self.frames[-1]
        where = named(*self.place)
        if not near(first, last):
            ends = named(first.peak_x, first.peak_y), named(last.peak_x, last.peak_y)
            where = f"from {ends[0]} to {ends[1]}" if ends[0] != ends[1] else where
        spread = np.mean([frame.spread for frame in self.frames])
        return f"{where}; {next(words for most, words in AGREEMENT if spread <= most)}"


def near(one: Attention, other: Attention) -> bool:
    return math.hypot(one.peak_x - other.peak_x, one.peak_y - other.peak_y) <= NEAR


def named(x: float, y: float) -> str:
    """A place in the frame, 0…1 from its left and upper edges, in words."""
    words = DOWN[min(int(y * 5), 4)], ACROSS[min(int(x * 5), 4)]
    return ", ".join(filter(None, words)) or "in the middle"


def stays(seconds: Sequence[float], end: float, frames: Sequence[Attention]) -> list[Stay]:
    """
    Where the peak stays, one place after the other. It has left a place when it has been elsewhere for
    `SHORTEST_STAY`; flickers to other places and back are passed over.

    Args:
        seconds: of each frame.
        end: of the last one.
    """
    found = [Stay(seconds[0], end, [frames[0]])]
    away: list[tuple[float, Attention]] = []
    for now, until, frame in zip(seconds[1:], [*seconds[2:], end], frames[1:], strict=True):
        stay = found[-1]
        if near(frame, stay.frames[-1]):
            stay.frames.append(frame)
            away.clear()
            continue
        if away and not near(frame, away[-1][1]):
            away.clear()
        away.append((now, frame))
        if until - away[0][0] >= SHORTEST_STAY:
            found[-1] = stay._replace(end=away[0][0])
            found.append(Stay(away[0][0], end, [frame for _, frame in away]))
            away.clear()
    return found


def in_words(found: Sequence[Stay]) -> str:
    """Stays as a numbered list in Markdown; that of a picture, which lasts no time, in one line."""
    if found[0].begin == found[-1].end:
        return found[0].in_words()
    lines = [
        f"{number}. {stay.begin:.1f}–{stay.end:.1f} s: {stay.in_words()}"
        for number, stay in enumerate(found[:MOST_STAYS], 1)
    ]
    if len(found) > MOST_STAYS:
        lines.append(f"\nand {len(found) - MOST_STAYS} more places.")
    return "\n".join(lines)


def path_picture(
    image: np.ndarray, seconds: Sequence[float], frames: Sequence[Attention], found: Sequence[Stay]
) -> Image.Image:
    """
    The path of the peak against a picture: over it, with the numbers of the stays; below it left and right over time,
    which runs down; at its right up and down over time, which runs to the right.

    Args:
        image: uint8 `(height, width, 3)`.
        seconds, frames: times and numbers of the maps.
    """
    picture = Image.fromarray(image)
    width, height = picture.width * 480 // max(picture.size), picture.height * 480 // max(picture.size)
    gap, font = 26, ImageFont.load_default(13)
    canvas = Image.new("RGB", (width + gap + TIME_SIDE + 4, height + gap + TIME_SIDE + 4), "white")
    canvas.paste(picture.resize((width, height)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    length = max(seconds[-1] - seconds[0], 1e-6)
    times = [(second - seconds[0]) / length * TIME_SIDE for second in seconds]
    right, below = width + gap, height + gap
    draw.rectangle((right, 0, right + TIME_SIDE, height), "#f3f4f6")
    draw.rectangle((0, below, width, below + TIME_SIDE), "#f3f4f6")
    across, down = (
        [value * side for value in values]
        for values, side in (([frame.peak_x for frame in frames], width), ([frame.peak_y for frame in frames], height))
    )
    for points, thickness in (
        (zip(across, down, strict=True), 1),
        (zip([right + time for time in times], down, strict=True), 2),
        (zip(across, [below + time for time in times], strict=True), 2),
    ):
        draw.line([*points], LINE, thickness)
    first, last = f"{seconds[0]:.1f} s", f"{seconds[-1]:.1f} s"
    for place, text, anchor in (
        ((right, height + 3), first, "la"), ((right + TIME_SIDE, height + 3), last, "ra"),
        ((right + TIME_SIDE / 2, height + 3), "time →", "ma"),
        ((4, below + 2), f"{first}, left ↔ right", "la"), ((4, below + TIME_SIDE - 2), last, "ld"),
        ((right + 4, 2), "top ↕ bottom", "la"),
    ):  # fmt: skip
        draw.text(place, text, INK, font, anchor)
    for number, stay in enumerate(found[:MOST_STAYS], 1):
        x, y = stay.place[0] * width, stay.place[1] * height
        draw.ellipse((x - 10, y - 10, x + 10, y + 10), "white", LINE, 2)
        draw.text((x, y), str(number), INK, font, "mm")
    return canvas
