"""What saliency maps say to people: where the eyes stay, how long, and how sure that is; in words and as a picture.

Attention is people's here, taken from where the peak of the maps stays, and not that of a network's layers.
"""

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
DOWN = ("the top", "above the middle", "", "below the middle", "the bottom")
# Spread of a map, see `Attention`, up to which this is said; maps that are equal everywhere have 0.29.
AGREEMENT = ((0.12, "most eyes agree"), (0.17, "many agree"), (math.inf, "eyes differ much"))
INK, PAPER, LINE = "#374151", "#f3f4f6", "#dc2626"
WIDEST, TIME_SIDE = 480, 130  # pixels of the picture and of the time axes


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
            where = f"{ends[0]} → {ends[1]}" if ends[0] != ends[1] else where
        spread = np.mean([frame.spread for frame in self.frames])
        return f"{where}; {next(words for most, words in AGREEMENT if spread <= most)}"


def near(one: Attention, other: Attention) -> bool:
    return math.hypot(one.peak_x - other.peak_x, one.peak_y - other.peak_y) <= NEAR


def named(x: float, y: float) -> str:
    """A place in the frame, 0…1 from its left and upper edges, in words."""
    words = DOWN[min(int(y * 5), 4)], ACROSS[min(int(x * 5), 4)]
    return ", ".join(filter(None, words)) or "the middle"


def stays(seconds: Sequence[float], end: float, frames: Sequence[Attention]) -> list[Stay]:
    """
    Where the peak stays, one place after the other, until the last frame's `end`. It has left a place when it has been
    elsewhere for `SHORTEST_STAY`; flickers to other places and back are passed over.
    """
    found = [Stay(seconds[0], end, [frames[0]])]
    away: list[tuple[float, Attention]] = []
    for now, until, frame in [*zip(seconds, [*seconds[1:], end], frames, strict=True)][1:]:
        stay = found[-1]
        if near(frame, stay.frames[-1]):
            stay.frames.append(frame)
            away.clear()
            continue
        if away and not near(frame, away[-1][1]):
            away.clear()
        away.append((now, frame))
        if until - away[0][0] >= SHORTEST_STAY:
            begin = away[0][0]
            if begin - stay.begin < SHORTEST_STAY:  # So may the first one be.
                begin = found.pop().begin
            else:
                found[-1] = stay._replace(end=begin)
            found.append(Stay(begin, end, [frame for _, frame in away]))
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
    shown: Sequence[np.ndarray], seconds: Sequence[float], frames: Sequence[Attention], found: Sequence[Stay]
) -> Image.Image:
    """
    What people look at in each of the first stays, of which a frame each is `shown`; beneath, the path of the peak
    over the frame of the longest one. At the right of that is its height over time, which runs to the right; below it
    left and right over time, which runs down. The names of both stand below them, where no line is.
    """
    font, gap = ImageFont.load_default(20), 8
    pictures = [Image.fromarray(image) for image in shown]
    longest = max(range(len(found)), key=lambda stay: found[stay].end - found[stay].begin)
    width, height = (side * WIDEST // max(pictures[0].size) for side in pictures[0].size)
    columns = 4 if len(pictures) > 3 else 3
    small_width = (WIDEST + TIME_SIDE + gap) // columns - gap
    small_height = round(height / width * small_width)
    top = math.ceil(len(pictures) / columns) * (small_height + gap)
    size = max(width, WIDEST) + gap + TIME_SIDE, top + height + gap + TIME_SIDE + 28
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for number, (picture, stay) in enumerate(zip(pictures, found, strict=False)):
        left, up = number % columns * (small_width + gap), number // columns * (small_height + gap)
        canvas.paste(picture.resize((small_width, small_height)), (left, up))
        x, y = left + stay.place[0] * small_width, up + stay.place[1] * small_height
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), None, "white", 5)
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), None, LINE, 2)
        draw.rectangle((left, up, left + 24, up + 26), "white")
        draw.text((left + 12, up + 13), str(number + 1), INK, font, "mm")
    canvas.paste(pictures[min(longest, len(pictures) - 1)].resize((width, height)), (0, top))
    right, below = width + gap, top + height + gap
    draw.rectangle((right, top, right + TIME_SIDE, top + height), PAPER)
    draw.rectangle((0, below, width, below + TIME_SIDE), PAPER)
    draw.text((right, below), "height\nover time", INK, font, "la")
    draw.text((right, below + TIME_SIDE), f"{seconds[0]:.1f} to {seconds[-1]:.1f} s", INK, font, "ld")
    draw.text((0, size[1]), "left to right over time", INK, font, "ld")
    across = [frame.peak_x * width for frame in frames]
    down = [top + frame.peak_y * height for frame in frames]
    times = np.linspace(0, TIME_SIDE, len(frames)).tolist()
    draw.line([*zip(across, down, strict=True)], LINE, 1)
    draw.line([(right + time, y) for time, y in zip(times, down, strict=True)], LINE, 2)
    draw.line([(x, below + time) for time, x in zip(times, across, strict=True)], LINE, 2)
    return canvas
