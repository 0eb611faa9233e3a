"""Random changes of training clips that keep frames, density and fixations together."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

# A crop that shows no fixation has nothing to teach; it is drawn again, and after this many the whole frame is taken.
CROP_DRAWS = 10


class Transform(NamedTuple):
    """The changes drawn for one clip."""

    stride: int  # frames of the video per frame of the clip, at least 1
    backward: bool  # whether time runs backwards
    top: int  # of the crop, as what follows, in pixels of the frame
    left: int
    height: int
    width: int
    flip: bool  # whether left and right are exchanged
    brightness: float  # a factor, as the next two; 1 changes nothing
    contrast: float
    saturation: float

    def window(self, labelled: int, available: int, length: int) -> range:
        """
        The frames of the clip of a length whose last frame is `labelled`, in the order in which they are shown: fewer
        where a video of so many frames as are `available` has no more of them.
        """
        step = -self.stride if self.backward else self.stride
        before = available - 1 - labelled if self.backward else labelled
        count = min(length, before // self.stride + 1)
        return range(labelled - step * (count - 1), labelled + step, step)

    def crop(self, pixels: torch.Tensor) -> torch.Tensor:
        """The crop of frames or maps `(…, height, width)` at the frames' size, a view."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def mirror(self, pixels: torch.Tensor) -> torch.Tensor:
        """Frames or maps `(…, height, width)` with left and right exchanged if this was drawn."""
        return pixels.flip(-1) if self.flip else pixels

    def recolor(self, frames: list[torch.Tensor]) -> list[torch.Tensor]:
        """
        Change brightness, then contrast about the clip's mean grey, then saturation, equally for all frames: each
        float `(…, 3, height, width)`, RGB in 0…255, as are those returned.
        """
        luma = torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)
        if self.brightness != 1:
            frames = [(frame * self.brightness).clamp_(0, 255) for frame in frames]
        if self.contrast != 1:
            means = [frame.mean(dim=(-2, -1), keepdim=True) for frame in frames]
            grey = (torch.stack(means).mean(dim=0) * luma).sum(dim=-3, keepdim=True)
            frames = [torch.lerp(grey, frame, self.contrast).clamp_(0, 255) for frame in frames]
        if self.saturation != 1:
            greys = ((frame * luma).sum(dim=-3, keepdim=True) for frame in frames)
            pairs = zip(greys, frames, strict=True)
            frames = [torch.lerp(grey, frame, self.saturation).clamp_(0, 255) for grey, frame in pairs]
        return frames

    def density(self, density: torch.Tensor, frame_size: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
        """
        The density of the changed clip at the size of its frames, from that of a video's frame, of any size, and the
        size of this: non-negative float32; sizes are (height, width) in pixels.
        """
        if tuple(density.shape) != tuple(frame_size):
            density = resized_density(density, frame_size)
        return self.mirror(resized_density(self.crop(density), size))

    def fixations(self, fixations: np.ndarray, frame_size: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
        """
        The fixations of the changed clip, sizes as for [`density`]: each is moved as a point, so that none inside the
        crop is lost or doubled; those that fall into one pixel become one.
        """
        points = self._inside(fixated_points(fixations, frame_size)) * size / (self.height, self.width)
        moved = torch.zeros(size, dtype=torch.bool)
        moved[tuple(points.astype(int).T)] = True
        return self.mirror(moved)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        """Those of points (y, x) of the frame, in pixels, that are inside the crop, in pixels of the crop."""
        points = points - (self.top, self.left)
        return points[((points >= 0) & (points < (self.height, self.width))).all(axis=1)]


def resized_density(density: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    # Rounding may leave values of −1e-9 otherwise.
    return F.interpolate(density[None, None], size=tuple(size), mode="bilinear", antialias=True)[0, 0].clamp_min(0)


def fixated_points(fixations: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """The centres (y, x) of the fixated pixels of a map, float64 `(n, 2)`, in pixels of a frame of that size."""
    return (np.argwhere(fixations) + 0.5) * frame_size / fixations.shape


@dataclass(frozen=True)
class Augmentation:
    """
    What may be changed in a training clip, and how much. Every change is off unless it is asked for.

    Args:
        horizontal_flip: probability of exchanging left and right.
        crop: smallest and largest share of the frame's area that is kept, in 0…1, in the frame's shape.
        temporal_strides: each clip takes every k-th frame of its video, with k drawn from these.
        reverse: probability of showing the clip backwards. The labels stay those of the clip's last frame.
        cut: probability that a video's clip is cut: the frames before one of its last 15 are of another video.
        brightness, contrast, saturation: each is multiplied by a factor up to this much below or above 1.

    Raises:
        ValueError: a value is outside its range.
    """

    horizontal_flip: float = 0.0
    crop: tuple[float, float] = (1.0, 1.0)
    temporal_strides: tuple[int, ...] = (1,)
    reverse: float = 0.0
    cut: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "reverse", "cut", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0…1, not {getattr(self, name)}.")
        if len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError(f"crop must be two shares of the area, smallest first, in 0…1, not {self.crop}.")
        if not self.temporal_strides or any(k < 1 or k != int(k) for k in self.temporal_strides):
            raise ValueError(f"temporal_strides must be whole numbers of at least 1, not {self.temporal_strides}.")

    def draw(self, rng: np.random.Generator, fixations: np.ndarray, frame_size: tuple[int, int]) -> Transform:
        """
        Draw the changes of one clip, of frames `(height, width)`; its crop shows one of the labelled frame's
        fixations, bool `(height', width')`, if there are any.
        """
        stride = int(rng.choice(self.temporal_strides))
        backward, flip = (bool(rng.random() < probability) for probability in (self.reverse, self.horizontal_flip))
        factors = [rng.uniform(1 - most, 1 + most) for most in (self.brightness, self.contrast, self.saturation)]
        transform = Transform(stride, backward, 0, 0, *frame_size, flip, *factors)
        if self.crop[0] == 1:
            return transform
        points = fixated_points(fixations, frame_size)
        for _ in range(CROP_DRAWS):
            share = math.sqrt(rng.uniform(*self.crop))
            rng.uniform()  # Not used, but what is drawn next stays what it was in earlier versions.
            height, width = (max(1, round(side * share)) for side in frame_size)
            top, left = int(rng.integers(frame_size[0] - height + 1)), int(rng.integers(frame_size[1] - width + 1))
            cropped = transform._replace(top=top, left=left, height=height, width=width)
            if len(cropped._inside(points)) or not len(points):
                return cropped
        return transform
