"""Moving pictures made of stills: what is looked at in the stills is followed to where the last frame shows it."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from torch.nn import functional as F

from ..models.video_processing_salfom import SalFoMVideoProcessor, pixels_of
from .augmentation import Augmentation
from .clips import EpochDataset, lazy_row
from .samples import GazeStill
from .shots import Picture, Shot, View, cut_out, lying_object, moving_camera, moving_object, resting_camera

KINDS = {"camera": 0.33, "object": 0.5, "cut": 0.12, "rest": 0.05}
"""Kinds of clips and how often each is made."""

SHAPES = ((3, 4), (9, 16))
"""Height to width of the pictures as whose clips the processor's size is taken."""

COLORS = Augmentation(brightness=0.2, contrast=0.25, saturation=0.4)
BLACK_AND_WHITE = 0.04  # Probability of a clip without colours.
LARGEST_STILL = 1.3  # Stills that are larger than the frame by more than this are reduced when they are read.
NOISE_SHIFT = 32  # Largest shift of the noise from frame to frame, in pixels.


def recoloring(rng: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """A change of colours for all stills of a clip: from and to float32 `(3, height, width)`, about 0…255."""
    transform = COLORS.draw(rng, np.zeros((1, 1), bool), (1, 1))
    if rng.random() < BLACK_AND_WHITE:
        transform = transform._replace(saturation=0.0)
    balance = torch.from_numpy(rng.uniform(0.94, 1.06, (3, 1, 1)).astype(np.float32))
    return lambda pixels: transform.recolor([pixels])[0] * balance


def degraded(
    frames: Iterable[torch.Tensor], size: tuple[int, int], rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """
    Frames as bad cameras and coders leave them: now and then flickering, coarse or noisy. From float32
    `(3, height, width)`, about 0…255, which may be changed in place, to the same in 0…255.
    """
    flicker = rng.uniform(0.01, 0.06) if rng.random() < 0.3 else 0.0
    coarse = [max(1, round(side * rng.uniform(0.4, 0.8))) for side in size] if rng.random() < 0.2 else None
    noise = rng.uniform(1, 10) if rng.random() < 0.3 else 0.0
    if noise:
        # Every frame has another part of one field, as drawing noise takes long.
        shape = 3, size[0] + NOISE_SHIFT, size[1] + NOISE_SHIFT
        field = torch.from_numpy(rng.standard_normal(shape, np.float32)).mul_(noise)
    for image in frames:
        if flicker:
            image *= rng.normal(1, flicker)
        if coarse:
            image = F.interpolate(image[None], coarse, mode="bilinear", antialias=True)
            image = F.interpolate(image, size, mode="bilinear")[0]
        if noise:
            top, left = rng.integers(NOISE_SHIFT + 1, size=2).tolist()
            image += field[:, top : top + size[0], left : left + size[1]]
        yield image.clamp_(0, 255)


class _Synthesis:
    """Draws the shots of one clip of so many frames of a size, of stills with fixations in Arrow's format."""

    def __init__(self, dataset: Dataset, num_frames: int, size: tuple[int, int], rng: np.random.Generator):
        self.dataset, self.num_frames, self.size, self.rng = dataset, num_frames, size, rng
        self.half = np.array([size[1], size[0]]) / 2
        self.recolor = recoloring(rng)

    def clip(self, index: int) -> tuple[Iterator[torch.Tensor], Shot]:
        """The frames of a clip, as of [`Shot.frames`], and its last shot, which is of that still."""
        kind = self.rng.choice(list(KINDS), p=list(KINDS.values()))
        if kind != "cut":
            shot = self._shot(kind, index)
            return shot.frames(0, self.num_frames), shot
        margin = max(1, self.num_frames // 8)
        cut = int(self.rng.integers(margin, max(margin + 1, self.num_frames - margin)))
        before = self._shot(self.rng.choice(["camera", "object", "rest"]), self._other(index))
        after = self._shot(self.rng.choice(["camera", "object"]), index)
        return itertools.chain(before.frames(0, cut), after.frames(cut, self.num_frames)), after

    def _shot(self, kind: str, index: int) -> Shot:
        still = self._still(index)
        rests = kind == "rest" or (kind == "object" and self.rng.random() < 0.4)
        make_camera = resting_camera if rests else moving_camera
        shot = Shot(make_camera(still, self.half, self.num_frames, self.rng), self.size)
        if kind == "object":
            # Half of the time there is one that just lies there, so that having been pasted tells nothing.
            if self.rng.random() < 0.5:
                self._add_object(shot, index, lying_object, self.rng.uniform(0.1, 0.3))
            self._add_object(shot, index, moving_object, self.rng.uniform(0.6, 0.9))
        return shot

    def _add_object(self, shot: Shot, index: int, make_view: Callable[..., View], share: float) -> None:
        """Put a cut-out of another still than that of an index into a shot."""
        still = self._still(self._other(index))
        zoom = shot.camera.scale[-1] / shot.camera.picture.largest_scale(self.half)
        scale = zoom * still.largest_scale(self.half) * self.rng.uniform(0.7, 1.4)
        shot.add(make_view(*cut_out(still, self.rng), scale, shot.camera, self.half, self.rng), share)

    def _other(self, index: int) -> int:
        """Another still than that of an index, if there is one."""
        count = len(self.dataset)
        return (index + int(self.rng.integers(1, max(2, count)))) % count

    def _still(self, index: int) -> Picture:
        """A still, flipped half of the time, recoloured, and reduced if it is larger than the clip needs."""
        sample = GazeStill(lazy_row(self.dataset[index]))
        (image,) = sample.frames()
        still = Picture(pixels_of(image)[0], np.stack([sample.x, sample.y], axis=1).astype(np.float64))
        # Fixations on or beyond the border belong to the outermost pixel.
        pixels, points = still.pixels, np.clip(still.points, 0.5, still.extent - 0.5)
        shrink = LARGEST_STILL / still.largest_scale(self.half)
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in image.shape[:2]]
            pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0]
            points = points * (np.array(size[::-1]) / still.extent)
        if self.rng.random() < 0.5:
            pixels = pixels.flip(2)
            points = np.stack([pixels.shape[2] - points[:, 0], points[:, 1]], axis=1)
        return Picture(self.recolor(pixels.float().contiguous()), points)


class MotionDataset(EpochDataset):
    """
    Moving pictures made of stills, with the gaze on their last frame.

    A clip shows, from a moving camera, one of the stills (33 %); has cut-outs of others moving over it or lying in it,
    which hide what is behind them and draw gaze to what is fixated in them (50 %); is cut from one such shot to
    another, of which only the latter counts (12 %); or rests (5 %). Colours vary, and some clips flicker or are noisy
    or coarse. The density is drawn closer to the fixations and to the centre than that of stills, as gaze on videos
    is.

    Args:
        dataset: stills with fixations; those without are left out.
        processor: normalises the frames and gives their size.
        num_frames: frames of a clip, at least 2.
        size: (height, width) of the clips, in pixels. By default, each clip has the size that the processor gives
            either to pictures of 4:3 or to those of 16:9, which differ where it keeps the aspect ratio.
        seed: of everything that is drawn, at least 0.

    Items are dicts as those of [`ClipDataset`], with the still's id as `video_id`; the density has a maximum of 1, and
    at least one pixel is fixated.

    Raises:
        TypeError: the dataset is streamed.
        ValueError: an argument is outside its range, or there are no stills with fixations.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: SalFoMVideoProcessor,
        *,
        num_frames: int = 16,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ):
        if isinstance(dataset, IterableDataset):
            raise TypeError("A streamed dataset has no rows to choose from; load the stills without streaming.")
        if "image_id" not in dataset.column_names:
            raise ValueError("Moving pictures are made of stills; this dataset has no column image_id.")
        if num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, not {num_frames}; a single frame does not move.")
        points = dataset.select_columns("fixation_x").with_format("arrow")[:]["fixation_x"]
        rows = np.flatnonzero(pc.list_value_length(points).to_numpy())
        if not len(rows):
            raise ValueError("Moving pictures are made of stills with fixations; this dataset has none.")
        self.dataset = dataset.select(rows).with_format("arrow")
        self.processor = processor
        self.num_frames = num_frames
        self.sizes = [size] if size else [processor.target_size(*shape) for shape in SHAPES]
        super().__init__(seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def clip(self, index: int, epoch: int) -> dict:
        index = range(len(self))[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        size = self.sizes[rng.integers(len(self.sizes))]
        synthesis = _Synthesis(self.dataset, self.num_frames, size, rng)
        frames, shot = synthesis.clip(index)
        while not len(shot.points):  # Objects may hide all that was looked at.
            frames, shot = synthesis.clip(index)
        images = [self.processor.prepare_frames(frame[None], do_resize=False) for frame in degraded(frames, size, rng)]
        density, fixations = shot.labels()
        return {
            "pixel_values_videos": torch.cat(images),
            "labels": density,
            "fixations": fixations,
            "video_id": self.dataset[index]["image_id"][0].as_py(),
            "frame": self.num_frames - 1,
        }
