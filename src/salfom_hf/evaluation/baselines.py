"""Baselines: the centre, spectral residual saliency of each frame, and other observers."""

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from tqdm import tqdm

from ..data.augmentation import fixated_points
from ..data.samples import GazeStill, open_sample
from ..models.losses import gaussian_blur
from .methods import EvaluationError, Method, Sample, frames_at, resized

CENTER_SIGMA = 0.22  # of each side
KDE_SIGMA = 24 / 512  # of the width
KDE_WIDTH = 512  # pixels
KDE_FRAMES = 20  # per video: neighbouring frames share most of their fixations

ENOUGH_OBSERVERS = 10  # of a frame, for half of them to predict the others well
MOST_LEFT_OUT = 10  # observers of a frame, each of whom all others predict

RESIDUAL_WIDTH, RESIDUAL_SIGMA = 64, 3.0  # pixels to which the image is reduced; of the blur there


class Center(Method):
    """
    One map for all frames, whatever they show.

    Args:
        gaze: by video or still, its fixations as (y, x) in 0…1 of the frame, float `(n, 2)`: their density is the map
            of all others, and for a video or still among them that of the others alone. `None` for a Gaussian in the
            middle whose standard deviations are .22 of the width and of the height.
        aspect: height over width of that density.
        source: what the map was made of.
    """

    name = "center"

    def __init__(self, gaze: dict[str, np.ndarray] | None = None, aspect: float = 0.75, source: str = ""):
        self.gaze = gaze
        if gaze is None:
            self.description = f"Gaussian in the middle, sigma {CENTER_SIGMA} of each side{source and f' ({source})'}"
        else:
            self.description = f"density of {source}, blurred with sigma 24/512 of the width"
            self.shape = max(1, round(KDE_WIDTH * aspect)), KDE_WIDTH
            self.counts = sum(map(self._count, gaze.values()), np.zeros(self.shape))
            self.prior = self._density(self.counts)
        digest = hashlib.sha256(self.description.encode())
        for points in (gaze or {}).values():
            digest.update(points.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    @classmethod
    def fitted(cls, dataset: Dataset, split: str, left_out: bool = False) -> "Center":
        """
        The density of all fixations of a dataset with labels, in coordinates relative to the frame; one more is spread
        evenly. Of each video up to 20 frames are read, evenly spaced. `left_out`: the dataset is itself scored: each
        video, or image, has the density of all others.
        """
        aspect = float(np.median(np.divide(dataset["height"][:], dataset["width"][:])))
        open_row, gaze = gaze_alone(dataset), {}
        for row in tqdm(range(len(dataset)), desc="center", unit="row", disable=None, dynamic_ncols=True):
            sample = open_row(row)
            if isinstance(sample, GazeStill):
                points = [np.stack([sample.y, sample.x], axis=1) / sample.size]
            else:
                frames = np.linspace(0, sample.num_frames - 1, min(KDE_FRAMES, sample.num_frames)).round().astype(int)
                points = [fixated_points(sample.fixations(int(index)), (1, 1)) for index in frames]
            gaze[sample.id if left_out else f"{row}"] = np.concatenate(points)
        stills = "image_id" in dataset.features
        others = f"the other {'images' if stills else 'videos'}' fixations"
        of = "all images" if stills else f"up to {KDE_FRAMES} frames per video"
        return cls(gaze, aspect, f"{others if left_out else f'the fixations of the split {split}'} ({of})")

    def _count(self, points: np.ndarray) -> np.ndarray:
        counts = np.zeros(self.shape)
        places = np.floor(points * self.shape).astype(int).clip(0, np.array(self.shape) - 1)
        np.add.at(counts, tuple(places.T), 1)
        return counts

    @staticmethod
    def _density(counts: np.ndarray) -> np.ndarray:
        prior = gaussian_blur(torch.from_numpy(counts), KDE_SIGMA * KDE_WIDTH).numpy()
        # Without one more, spread evenly, few fixations would leave places where no one is ever expected to look.
        prior += 1 / prior.size
        return prior / prior.sum()

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self.gaze is None:
            y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in sample.size)
            saliency = np.exp(-0.5 * ((y[:, None] / CENTER_SIGMA) ** 2 + (x / CENTER_SIGMA) ** 2))
        else:
            own = self.gaze.get(sample.id)
            prior = self.prior if own is None else self._density(self.counts - self._count(own))
            saliency = resized(prior, sample.size, antialias=True)
        for _ in indices:
            yield saliency


def gaze_alone(dataset: Dataset) -> Callable[[int], Sample]:
    """Opens rows of a dataset, which may hold whole videos, for their fixations: nothing else is read."""
    light = dataset.remove_columns(sorted({"image", "video", "frames", "maps"} & set(dataset.features)))

    def open_row(index: int) -> Sample:
        row = light[index]
        # Videos without maps count as unlabelled; these are not looked at.
        return open_sample({"image": None, "video": None, "frames": [], "maps": row.get("fixations"), **row})

    return open_row


class SpectralResidual(Method):
    """Spectral residual saliency (Hou and Zhang, 2007) of each frame by itself."""

    name = "spectral-residual"
    description = "of the grey frame at a width of 64, blurred with sigma 3"
    fingerprint = description

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        return map(spectral_residual, frames_at(sample, indices))


def spectral_residual(image: np.ndarray) -> np.ndarray:
    """Of an image, uint8 `(height, width, 3)`: non-negative float64 `(height, width)`."""
    height, width = image.shape[:2]
    rows = max(1, (RESIDUAL_WIDTH * height + width // 2) // width)
    grey = resized(image @ np.array([0.299, 0.587, 0.114]), (rows, RESIDUAL_WIDTH), antialias=True)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    surroundings = torch.from_numpy(np.pad(log_amplitude, 1, mode="wrap"))[None, None]
    residual = log_amplitude - F.avg_pool2d(surroundings, 3, stride=1)[0, 0].numpy()
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    blurred = gaussian_blur(torch.from_numpy(saliency), RESIDUAL_SIGMA, border="reflect").numpy()
    return resized(blurred, (height, width), antialias=True).clip(min=0)


class InterObserver(Method):
    """
    Observers predict one another: the bound of what a model can be expected to reach.

    Args:
        one: all others predict one observer, each in turn or, of more than 10, 10 drawn from the frame's seed;
            otherwise one half predicts the other. Of stills, the halves are every other observer; of videos, every
            frame has halves of its own, drawn from its seed, so that the mean over frames is one over many splits.
    """

    def __init__(self, one: bool = False):
        self.one = one
        self.name = "one-observer" if one else "inter-observer"
        halves = ("all observers but one", "that one") if one else ("half of the observers", "the other half")
        drawn = "drawn again for every frame of a video"
        if one:
            drawn = f"each in turn, or {MOST_LEFT_OUT} drawn for every frame that has more, of whose scores the mean"
        self.description = f"the density of {halves[0]}, scored against {halves[1]}, {drawn}"
        self.fingerprint = self.description
        if not one:
            self.description += "; a mark for NSS: in other metrics a model may exceed it"

    def check(self, dataset: Dataset) -> None:
        if "observer" not in dataset.features or all(len(set(who)) < 2 for who in dataset["observer"]):
            raise EvaluationError(
                f"The baseline {self.name} needs to know who made each fixation, and two observers of the same video "
                "or image, which this dataset does not have; leave it out."
            )
        if not self.one:
            open_row = gaze_alone(dataset)
            # Of each video the frames that are looked at, once for every observer.
            looked_at = (np.unique(open_row(row).gaze[:, [0, 3]], axis=0)[:, 0] for row in range(len(dataset)))
            counts = [np.unique(frames, return_counts=True)[1] for frames in looked_at]
            median = int(np.median(np.concatenate(counts)))
            if median < ENOUGH_OBSERVERS:
                few = f"the median frame has {median}, fewer than {ENOUGH_OBSERVERS}"
                self.description = f"{self.fingerprint}; {few}: this is no bound, and one-observer is the better one"

    def splits(self, sample: Sample, index: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The observers that predict, and those that are predicted, of every round."""
        observers = sample.observers(index)
        if len(observers) < 2:
            return [(observers, observers[:0])]
        if self.one or not isinstance(sample, GazeStill):
            seed = zlib.crc32(f"{sample.id} {index}".encode())
            observers = np.random.default_rng(seed).permutation(observers)
        if self.one:
            return [(np.delete(observers, n), observers[[n]]) for n in range(min(len(observers), MOST_LEFT_OUT))]
        return [(observers[::2], observers[1::2])]

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        return (self._prediction(sample, index, self.splits(sample, index)[0][0]) for index in indices)

    def rounds(
        self, sample: Sample, index: int, saliency: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for number, (observers, predicted) in enumerate(self.splits(sample, index)):
            prediction = self._prediction(sample, index, observers) if number else saliency
            yield prediction, sample.fixations(index, predicted), sample.density(index, predicted)

    @staticmethod
    def _prediction(sample: Sample, index: int, observers: np.ndarray) -> np.ndarray:
        density = sample.density(index, observers)
        # One more observer looks anywhere: KLD and information gain forgive no place that is impossible.
        return density / max(density.sum(), 1e-9) + 1 / (max(len(observers), 1) * density.size)
