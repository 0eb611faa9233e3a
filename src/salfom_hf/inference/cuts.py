"""Hard cuts: where one shot ends and the next begins, at which the window starts again.

A window that holds two shots predicts both: what was watched in the old shot stands in the first maps of the new one.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional as F

Item = TypeVar("Item")

# A fast pan moves the structure and keeps the colours, a flash changes the colours and keeps the structure: only where
# both differ by more than this, each from 0 to 1 or more, has a new shot begun (docs/ablations.md#hard-cuts).
STRUCTURE, COLORS = 0.4, 0.2
LEVELS = 4  # of red, of green and of blue


def look_of(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """
    What an image `(height, width, 3)`, uint8, looks like from far away: how bright 9×12 cells are, float32 `(108,)` of
    mean 0 and norm 1, and the share of each colour, float32 `(64,)`.
    """
    step = max(1, min(image.shape[:2]) // 72)
    pixels = torch.from_numpy(np.ascontiguousarray(image[::step, ::step])).permute(2, 0, 1).float()
    small = F.adaptive_avg_pool2d(pixels, (36, 48))
    levels = (small * (LEVELS / 256)).long()
    kinds = (levels[0] * LEVELS + levels[1]) * LEVELS + levels[2]
    cells = F.adaptive_avg_pool2d(small.mean(dim=0, keepdim=True), (9, 12)).flatten()
    cells = cells - cells.mean()
    return cells / cells.norm().clamp_min(1e-6), kinds.flatten().bincount(minlength=LEVELS**3) / kinds.numel()


def shots(frames: Iterable[Item], image: Callable[[Item], np.ndarray]) -> Iterator[Iterator[Item]]:
    """
    The frames of each shot of a stream, read as they are asked for; a shot has to be read before the next one. `image`
    gives a frame's pixels, uint8 `(height, width, 3)`; a `ValueError` if they have several sizes.
    """
    before: tuple[torch.Tensor, torch.Tensor] | None = None
    shape: tuple[int, ...] = ()
    number = 0

    def shot_of(frame: Item) -> int:
        nonlocal before, shape, number
        pixels = image(frame)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            raise ValueError("All frames of a video must have one size; resize them to the first one's.")
        look = look_of(pixels)
        cells, colors = before or look
        structure_differs = 1 - float(cells @ look[0]) > STRUCTURE
        number += structure_differs and float((colors - look[1]).abs().sum()) / 2 > COLORS
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
