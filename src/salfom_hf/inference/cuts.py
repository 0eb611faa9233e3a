"""Hard cuts: where one shot ends and the next begins, at which the window starts again.

A window that holds two shots predicts both: what was watched in the old shot stands in the first maps of the new one.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.nn import functional as F

Item = TypeVar("Item")

# A fast pan moves the structure and keeps the colours, a flash changes the colours and keeps the structure: only where
# both differ by more than this, each from 0 to 1 or more, has a new shot begun (docs/ablations.md#hard-cuts).
STRUCTURE, COLORS = 0.4, 0.2
LEVELS = 4  # of red, of green and of blue


class Look(NamedTuple):
    """What a frame looks like from far away."""

    structure: torch.Tensor  # float32 `(108,)`: 9×12 cells, how bright, of mean 0 and norm 1
    colors: torch.Tensor  # float32 `(64,)`: share of each colour

    @classmethod
    def of(cls, image: np.ndarray) -> "Look":
        """That of an image `(height, width, 3)`, uint8."""
        step = max(1, min(image.shape[:2]) // 72)
        pixels = torch.from_numpy(np.ascontiguousarray(image[::step, ::step])).permute(2, 0, 1).float()
        small = F.adaptive_avg_pool2d(pixels, (36, 48))
        levels = (small * (LEVELS / 256)).long()
        kinds = (levels[0] * LEVELS + levels[1]) * LEVELS + levels[2]
        cells = F.adaptive_avg_pool2d(small.mean(dim=0, keepdim=True), (9, 12)).flatten()
        cells = cells - cells.mean()
        colors = kinds.flatten().bincount(minlength=LEVELS**3) / kinds.numel()
        return cls(cells / cells.norm().clamp_min(1e-6), colors)


def is_cut(before: Look, after: Look) -> bool:
    """Whether a shot ends between two consecutive frames."""
    structure = 1 - float(before.structure @ after.structure)
    colors = float((before.colors - after.colors).abs().sum()) / 2
    return structure > STRUCTURE and colors > COLORS


def shots(frames: Iterable[Item], image: Callable[[Item], np.ndarray]) -> Iterator[Iterator[Item]]:
    """
    The frames of each shot of a stream, read as they are asked for; a shot has to be read before the next one.

    Args:
        image: gives a frame's pixels, uint8 `(height, width, 3)`.
    """
    before: Look | None = None
    number = 0

    def shot_of(frame: Item) -> int:
        nonlocal before, number
        look = Look.of(image(frame))
        number += before is not None and is_cut(before, look)
        before = look
        return number

    return (shot for _, shot in groupby(frames, shot_of))


def unseen_share(time: int, num_frames: int) -> float:
    """
    Of the window of a shot's frame number `time`, the share of the steps from frame to frame that lie before the cut.
    They stand still, as all are copies of the shot's first frame, and say nothing about motion: what is new on screen
    is looked at like a moving picture.
    """
    return max(0.0, 1 - time / (num_frames - 1)) if num_frames > 1 else 0.0
