"""What saliency maps say in numbers, and a table of them with one row per frame."""

import csv
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import atomic_output

# The cells of a 3×3 grid over the frame, row by row.
CELLS = ("top_left", "top", "top_right", "left", "centre", "right", "bottom_left", "bottom", "bottom_right")
COLUMNS = ("frame", "time", "peak_x", "peak_y", "mean_x", "mean_y", "spread", "entropy", *CELLS)


class Attention(NamedTuple):
    """A map in numbers; for all but the peak it is taken as a distribution over its pixels."""

    peak_x: float  # centre of the highest values, 0…1 from the left edge
    peak_y: float  # and from the upper edge
    mean_x: float  # centre of mass, in the same way
    mean_y: float
    spread: float  # standard distance from the centre of mass; 1 is the frame's diagonal
    entropy: float  # in bits: 0 for one pixel, log2(pixels) if all are equal
    shares: tuple[float, ...]  # of each of `CELLS`; together 1


def attention(saliency: np.ndarray) -> Attention:
    """The numbers of a map, float `(height, width)`, values of at least 0; all 0 counts as all equal."""
    # In float32, for it is done for every frame; what has many summands is summed in float64.
    values = saliency.astype(np.float32) if saliency.any() else np.ones(saliency.shape, np.float32)
    height, width = values.shape
    total = values.sum(dtype=np.float64)
    means, variance = [], 0.0
    for axis, size in ((0, height), (1, width)):
        places, weights = np.arange(size) + 0.5, values.sum(axis=1 - axis, dtype=np.float64) / total
        means.append(weights @ places)
        variance += weights @ (places - means[-1]) ** 2
    logarithms = np.log2(values, out=np.zeros_like(values), where=values > 0)
    entropy = np.log2(total) - (values * logarithms).sum(dtype=np.float64) / total
    peak_y, peak_x = peak(saliency)
    return Attention(
        peak_x / width,
        peak_y / height,
        float(means[1] / width),
        float(means[0] / height),
        spread=float(np.sqrt(variance) / np.hypot(height, width)),
        entropy=float(max(0.0, entropy)),
        shares=tuple((_thirds(height) @ values @ _thirds(width).T / total).ravel().tolist()),
    )


def peak(saliency: np.ndarray) -> tuple[float, float]:
    """
    Row and column, 0 at the upper and left edges, of the centre of the largest area of highest values: those that are
    equal in float16, as which maps are stored, and touch each other.
    """
    highest = np.float16(saliency.max())
    rows, columns = np.nonzero(saliency >= np.nextafter(highest, np.float16(-1)))
    equal = saliency[rows, columns].astype(np.float16) == highest
    if equal.sum() == saliency.size:
        return saliency.shape[0] / 2, saliency.shape[1] / 2
    left = set(zip(rows[equal].tolist(), columns[equal].tolist(), strict=True))
    areas = []
    while left:
        area = [left.pop()]
        for row, column in area:  # It grows meanwhile.
            touching = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= touching
            area += touching
        areas.append(area)
    largest = max(areas, key=lambda area: (len(area), -min(area)[0], -min(area)[1]))
    row, column = np.mean(largest, axis=0) + 0.5
    return float(row), float(column)


def _thirds(size: int) -> np.ndarray:
    """How much of each pixel of a line lies in its first, second and last third: `(3, size)`."""
    ends = np.clip(np.arange(size + 1) - np.arange(3)[:, None] * size / 3, 0, size / 3)
    return np.diff(ends, axis=1).astype(np.float32)


def write_table(
    frames: Iterable[tuple[Fraction, Attention]], path: Path, width: int, height: int, overwrite: bool = False
) -> None:
    """
    A CSV file with the `COLUMNS`, of frames' times and numbers: frames are counted from 0, times are in seconds, and
    places in pixels of the video of this width and height.
    """
    with atomic_output(path, overwrite) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for number, (time, found) in enumerate(frames):
            places = (found.peak_x * width, found.peak_y * height, found.mean_x * width, found.mean_y * height)
            numbers = (float(time), *places, found.spread, found.entropy, *found.shares)
            table.writerow([number, *(round(value, 6) for value in numbers)])
