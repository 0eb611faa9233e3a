"""Training clips of videos and stills with gaze: torch datasets over the rows that the loaders give.

The labels of a clip belong to its last frame. Everything random is drawn from the seed, the epoch and the clip's
index, so a clip is the same in whichever worker process or rank it is made.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from torch.utils import data
from torch.utils.data import default_collate
from transformers.image_utils import SizeDict

from ..models.video_processing_salfom import SalFoMVideoProcessor, pixels_of
from .augmentation import Augmentation, Transform
from .features import DataError
from .samples import GazeStill, GazeVideo, open_sample

FRAME_DRAWS = 5  # Some frames have no fixations; one that has is looked for among this many.
RESIZE_ALONE = {"do_resize": True, "do_rescale": False, "do_normalize": False}


class LazyList(Sequence):
    """A list in an Arrow table, whose elements become Python objects only when they are asked for."""

    def __init__(self, values: pa.Array):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Any:
        return self.values[index].as_py()


def lazy_row(table: pa.Table) -> dict:
    """The only row of a table; its lists of thousands of paths, or of whole image files, stay in the table."""
    row = {name: table.column(name)[0] for name in table.column_names}
    return {
        name: LazyList(value.values) if isinstance(value, pa.ListScalar) and value.is_valid else value.as_py()
        for name, value in row.items()
    }


class EpochDataset(data.Dataset):
    """A dataset whose items are drawn again for every epoch, from a seed."""

    def __init__(self, seed: int):
        self.seed = seed
        # In shared memory, so that worker processes that live on also see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draw again; running workers take it up with the next pass over their loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        return self.clip(index, int(self._epoch))

    def clip(self, index: int, epoch: int) -> dict:
        """Item `index` as it is in an epoch, whichever is set."""
        raise NotImplementedError


class ClipDataset(EpochDataset):
    """
    Clips of a dataset of videos or stills, with the gaze on their last frame.

    A frame near the beginning of its video has a clip padded in front with copies of the first frame, as in inference.
    A still is a clip of one frame, which the network takes for that frame repeated.

    Args:
        dataset: any of this package's datasets, with labels.
        processor: resizes and normalises the frames.
        num_frames: frames of a video's clip.
        sampling: `"random"` labels one random frame per video and epoch, preferring frames with fixations;
            `"regular"` every `spacing`-th frame, counted back from the last.
        clips_per_video: clips of each video in an epoch, with `"random"`.
        spacing: frames from one label to the next, with `"regular"`; `num_frames`, the default, gives clips that do
            not overlap and together hold every frame.
        augmentation: changes drawn for each clip; none by default.
        size: (height, width) of the clips, in pixels; the processor's by default, which follows each video's shape
            where the processor keeps the aspect ratio.
        seed: of everything that is drawn, at least 0.

    Items are dicts, which torch's default collation makes a batch of if they have one shape, and [`collate_by_shape`]
    several batches otherwise:
        `pixel_values_videos`: float32 `(frames, 3, height, width)`, normalised by the processor.
        `labels`: float32 `(height, width)`, the density as stored, in 0…1, resized.
        `fixations`: bool `(height, width)`.
        `video_id`: str.
        `frame`: int, index of the labelled frame in its video.

    Raises:
        TypeError: the dataset is streamed.
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: SalFoMVideoProcessor,
        *,
        num_frames: int = 16,
        sampling: str = "random",
        clips_per_video: int = 1,
        spacing: int | None = None,
        augmentation: Augmentation | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
    ):
        if isinstance(dataset, IterableDataset):
            raise TypeError("A streamed dataset has no rows to choose from; load it without streaming.")
        spacing = num_frames if spacing is None else spacing
        if sampling not in ("random", "regular"):
            raise ValueError(f'sampling must be "random" or "regular", not {sampling!r}.')
        if min(num_frames, clips_per_video, spacing) < 1:
            raise ValueError("num_frames, clips_per_video and spacing must be at least 1.")
        super().__init__(seed)
        self.dataset = dataset.with_format("arrow")
        self.processor = processor
        self.num_frames = num_frames
        self.augmentation = augmentation or Augmentation()
        self.size = size
        lengths = np.ones(len(dataset), np.int64)
        if "num_frames" in dataset.column_names:
            lengths = self.dataset.select_columns("num_frames")[:]["num_frames"].to_numpy()
        if sampling == "random":
            labelled = [np.full(clips_per_video, -1)] * len(lengths)
        else:
            # Counted from the end, so that every frame is in a clip; it is the first clip that may need padding.
            labelled = [np.arange((length - 1) % spacing, length, spacing) for length in lengths]
        # Of each clip: its video, and its labelled frame, or −1 where it is to be drawn. Arrays, not lists: reading a
        # list writes its reference counts, which copies it into every worker's memory.
        self._video = np.repeat(np.arange(len(lengths)), [len(frames) for frames in labelled])
        self._labelled = np.concatenate([np.empty(0, np.int64), *labelled])

    def __len__(self) -> int:
        return len(self._video)

    def clip(self, index: int, epoch: int) -> dict:
        """
        Item `index` as it is in an epoch, whichever is set.

        Raises:
            DataError: there are no labels, or a file is unreadable or of another size than the row says.
            VideoError: a frame is missing or cannot be read.
        """
        index = range(len(self))[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = open_sample(lazy_row(self.dataset[int(self._video[index])]))
        labelled = int(self._labelled[index])
        if labelled < 0:
            # Any frame of the video, if possible one with fixations.
            drawn = rng.integers(sample.num_frames, size=FRAME_DRAWS)
            labelled = int(next((frame for frame in drawn if sample.fixations(int(frame)).any()), drawn[-1]))
        fixations = sample.fixations(labelled)
        transform = self.augmentation.draw(rng, fixations, sample.size)
        still = isinstance(sample, GazeStill)
        size = self.size or self.processor.target_size(*sample.size, still=still)
        density = torch.from_numpy(sample.density(labelled))
        frames = self._frames(sample, labelled, transform, 1 if still else self.num_frames, size)
        if not still and rng.random() < self.augmentation.cut:
            other = open_sample(lazy_row(self.dataset[int(rng.integers(len(self.dataset)))]))
            count, last = int(rng.integers(1, self.num_frames)), int(rng.integers(other.num_frames))
            another = self.augmentation.draw(rng, other.fixations(last), other.size)
            frames = torch.cat([self._frames(other, last, another, count, size), frames[count:]])
        return {
            "pixel_values_videos": frames,
            "labels": transform.density(density, sample.size, size),
            "fixations": transform.fixations(fixations, sample.size, size),
            "video_id": sample.id,
            "frame": labelled,
        }

    def _frames(
        self, sample: GazeVideo | GazeStill, labelled: int, transform: Transform, length: int, size: tuple[int, int]
    ) -> torch.Tensor:
        target = SizeDict(height=size[0], width=size[1])
        window = transform.window(labelled, sample.num_frames, length)
        in_time = window[::-1] if transform.backward else window
        frames = []
        for frame in sample.frames(in_time.start, in_time.stop, in_time.step):
            if frame.shape[:2] != sample.size:
                raise DataError(
                    f"{sample.id} has a frame of {frame.shape[1]}×{frame.shape[0]} pixels where the dataset says "
                    f"{sample.size[1]}×{sample.size[0]}; load the dataset again."
                )
            # Frames are worked on one by one, as a whole clip would not stay in the processor's cache.
            pixels = transform.crop(pixels_of(frame))
            frames.append(self.processor.prepare_frames(pixels, size=target, keep_aspect_ratio=False, **RESIZE_ALONE))
        frames = transform.recolor(frames[::-1] if transform.backward else frames)
        frames = [self.processor.prepare_frames(transform.mirror(frame), do_resize=False) for frame in frames]
        return torch.cat([frames[0]] * (length - len(frames)) + frames)


class MixtureDataset(EpochDataset):
    """
    Clips of several datasets in given shares, as for joint training.

    Each dataset is gone through in random order without repetition; where it ends, within an epoch or a later one, it
    begins again in another order and with other random clips. Set the epoch here, not on the datasets.

    The clips are in the order in which to train on them, not to be shuffled: those of each dataset are spread evenly
    over the epoch, so that every stretch of it, and so every batch, has the shares as nearly as whole clips can.

    Args:
        datasets: what to mix.
        weights: share of each, of any sum.
        length: clips in an epoch; that of all datasets together by default.
        seed: of the order, at least 0.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self, datasets: Sequence[EpochDataset], weights: Sequence[float], length: int | None = None, seed: int = 0
    ):
        if len(datasets) != len(weights) or not datasets:
            raise ValueError(f"{len(datasets)} datasets need as many weights, not {len(weights)}.")
        shares = np.asarray(weights, np.float64)
        if not (np.isfinite(shares).all() and shares.min() >= 0 and shares.sum() > 0):
            raise ValueError(f"Weights must be finite, not below 0, and not all 0; these are {list(weights)}.")
        for number, (dataset, share) in enumerate(zip(datasets, shares, strict=True)):
            if share and not len(dataset):
                raise ValueError(f"Dataset {number} of the mixture is empty; leave it out.")
        self.datasets = list(datasets)
        self.length = sum(map(len, datasets)) if length is None else length
        if self.length < 1:
            raise ValueError(f"length must be at least 1, not {length}.")
        super().__init__(seed)
        # Rounding the cumulated shares makes the counts sum to the length.
        ends = np.round(shares.cumsum() / shares.sum() * self.length).astype(np.int64)
        self._counts = np.diff(ends, prepend=0)
        self._planned: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.length

    def plan(self, epoch: int) -> np.ndarray:
        """For every index of an epoch: which dataset, which of its items, how often it was gone through before."""
        plan = np.empty((self.length, 3), np.int64)
        numbers = np.repeat(np.arange(len(self.datasets)), self._counts)
        starts = np.random.default_rng((self.seed, len(self.datasets), epoch)).random(len(self.datasets))
        times = [(np.arange(count) + start) / count for count, start in zip(self._counts, starts, strict=True)]
        plan[:, 0] = numbers[np.concatenate(times).argsort(kind="stable")]
        for number, (dataset, count) in enumerate(zip(self.datasets, self._counts, strict=True)):
            if not count:
                continue
            passes, places = np.divmod(epoch * count + np.arange(count), len(dataset))
            items = np.empty(count, np.int64)
            for done in np.unique(passes):
                order = np.random.default_rng((self.seed, number, done)).permutation(len(dataset))
                items[passes == done] = order[places[passes == done]]
            plan[plan[:, 0] == number, 1:] = np.stack([items, passes], axis=1)
        return plan

    def clip(self, index: int, epoch: int) -> dict:
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self.plan(epoch)
        number, item, done = self._planned[1][index].tolist()
        return self.datasets[number].clip(item, done)


def collate_by_shape(clips: list[dict]) -> list[dict]:
    """
    Clips of any shapes as batches of one shape each, for `DataLoader(…, collate_fn=collate_by_shape)`.

    Args:
        clips: items of the datasets above.

    Returns:
        For every shape `(frames, 3, height, width)`, in the order in which they occur, a batch as torch's default
        collation makes it, with one entry more: `place`, int64 `(batch,)`, where among all the clips each was.
    """
    groups = {}
    for place, clip in enumerate(clips):
        groups.setdefault(clip["pixel_values_videos"].shape, []).append({**clip, "place": place})
    return [default_collate(group) for group in groups.values()]
