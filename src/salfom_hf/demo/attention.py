"""What a saliency map says in numbers and in words: where its peak is, how far it spreads, how even it is."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
SHORTEST_STAY = 0.25  # seconds
MOST_STAYS = 8


class Attention(NamedTuple):
    """A map in numbers; for the last two it is taken as a distribution over its pixels."""

    peak_x: float  # centre of the most salient pixel, 0…1 from the left
    peak_y: float  # and from the top
    spread: float  # standard distance from the mean place; 1 is the frame's diagonal
    entropy: float  # in bits: 0 for one pixel, log2(pixels) for all alike


def attention(saliency: np.ndarray) -> Attention:
    """The numbers of a map, float `(height, width)`, values of at least 0; all 0 counts as all alike."""
    values = saliency.astype(np.float64)
    height, width = values.shape
    density = values / values.sum() if values.any() else np.full(values.shape, 1 / values.size)
    row, column = np.unravel_index(values.argmax(), values.shape)
    variance = 0.0
    for axis, size in ((0, height), (1, width)):
        places, weights = np.arange(size), density.sum(axis=1 - axis)
        variance += weights @ (places - weights @ places) ** 2
    present = density[density > 0]
    return Attention(
        peak_x=float((column + 0.5) / width),
        peak_y=float((row + 0.5) / height),
        spread=float(np.sqrt(variance) / np.hypot(height, width)),
        entropy=float(-(present * np.log2(present)).sum()),
    )


def place(frame: Attention) -> str:
    """The ninth of the frame that the peak lies in, such as "top left", "right" or "centre"."""
    row, column = ROWS[min(int(frame.peak_y * 3), 2)], COLUMNS[min(int(frame.peak_x * 3), 2)]
    if row == "middle":
        return column
    return row if column == "centre" else f"{row} {column}"


def path_in_words(timestamps: Sequence[float], frames: Sequence[Attention]) -> str:
    """Where the peak stays, one after the other; shorter stays than `SHORTEST_STAY` are passed over."""
    stays: list[tuple[float, str]] = []
    begin = 0
    for name, group in groupby(map(place, frames)):
        end = begin + len(list(group))
        lasts = timestamps[min(end, len(frames) - 1)] - timestamps[begin]
        if lasts >= SHORTEST_STAY and (not stays or stays[-1][1] != name):
            stays.append((timestamps[begin], name))
        begin = end
    stays = stays or [(timestamps[0], place(frames[0]))]
    words = [f"{name} from {time:.1f} s" for time, name in stays[:MOST_STAYS]]
    if len(stays) > MOST_STAYS:
        words.append(f"and {len(stays) - MOST_STAYS} more places")
    return ", ".join(words)
