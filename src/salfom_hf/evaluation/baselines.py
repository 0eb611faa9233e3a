"""Baselines: the centre, spectral residual saliency of each frame, and other observers."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from tqdm import tqdm

from ..data.augmentation import fixated_points
from ..data.samples import GazeStill, open_sample
from ..models.losses import gaussian_blur
from .methods import EvaluationError, Method, Sample, frames_at

CENTER_SIGMA = 0.22  # of each side
KDE_SIGMA = 24 / 512  # of the width
KDE_WIDTH = 512  # pixels
KDE_FRAMES = 20  # per video: neighbouring frames share most of their fixations

RESIDUAL_WIDTH, RESIDUAL_SIGMA = 64, 3.0  # pixels to which the image is reduced; of the blur there


class Center(Method):
    """
    One map for all frames, whatever they show.

    Args:
        prior: float `(height, width)` to be resized to each frame; `None` for a Gaussian in the middle whose standard
            deviations are .22 of the width and of the height.
        source: what the prior was made of.
    """

    name = "center"

    def __init__(self, prior: np.ndarray | None = None, source: str = ""):
        self.prior = prior
        if prior is None:
            self.description = f"Gaussian in the middle, sigma {CENTER_SIGMA} of each side{source and f' ({source})'}"
        else:
            self.description = f"density of {source}, blurred with sigma 24/512 of the width"
        data = self.description.encode() if prior is None else prior.tobytes()
        self.fingerprint = hashlib.sha256(data).hexdigest()[:16]

    @classmethod
    def fitted(cls, dataset: Dataset, split: str) -> "Center":
        """
        The density of all fixations of a dataset, in coordinates relative to the frame; one more is spread evenly.

        Args:
            dataset: with labels; of each video up to 20 frames are read, evenly spaced.
            split: its name.
        """
        shape = dataset.select_columns(["width", "height"])[:]
        aspect = float(np.median(np.array(shape["height"]) / np.array(shape["width"])))
        height = max(1, round(KDE_WIDTH * aspect))
        counts = np.zeros((height, KDE_WIDTH))
        open_row = gaze_alone(dataset)
        for row in tqdm(range(len(dataset)), desc="center", unit="row", disable=None, dynamic_ncols=True):
            for y, x in relative_fixations(open_row(row)):
                rows = np.clip(np.floor(y * height), 0, height - 1).astype(int)
                columns = np.clip(np.floor(x * KDE_WIDTH), 0, KDE_WIDTH - 1).astype(int)
                np.add.at(counts, (rows, columns), 1)
        prior = gaussian_blur(torch.from_numpy(counts), KDE_SIGMA * KDE_WIDTH).numpy()
        # Without one more, spread evenly, few fixations would leave places where no one is ever expected to look.
        prior += 1 / prior.size
        frames = "all images" if "image_id" in dataset.features else f"up to {KDE_FRAMES} frames per video"
        return cls(prior / prior.sum(), f"the fixations of the split {split} ({frames})")

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        height, width = sample.size
        if self.prior is None:
            y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
            saliency = np.exp(-0.5 * ((y[:, None] / CENTER_SIGMA) ** 2 + (x / CENTER_SIGMA) ** 2))
        else:
            saliency = resized(self.prior, (height, width))
        for _ in indices:
            yield saliency


def gaze_alone(dataset: Dataset) -> Callable[[int], Sample]:
    """Opens rows of a dataset, which may hold whole videos, for their fixations: nothing else is read."""
    unneeded = {"image", "video", "frames", "maps"} & set(dataset.features)
    light = dataset.remove_columns(sorted(unneeded))

    def open_row(index: int) -> Sample:
        row = light[index]
        # Videos without maps count as unlabelled; these are not looked at.
        return open_sample({"image": None, "video": None, "frames": [], "maps": row.get("fixations"), **row})

    return open_row


def relative_fixations(sample: Sample) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The fixations of a still, or those of evenly spaced frames of a video: (y, x) in 0…1 of the frame."""
    if isinstance(sample, GazeStill):
        height, width = sample.size
        yield sample.y.astype(float) / height, sample.x.astype(float) / width
        return
    count = min(KDE_FRAMES, sample.num_frames)
    for index in np.linspace(0, sample.num_frames - 1, count).round().astype(int):
        yield fixated_points(sample.fixations(int(index)), (1, 1))


class SpectralResidual(Method):
    """Spectral residual saliency (Hou and Zhang, 2007) of each frame by itself."""

    name = "spectral-residual"
    description = "of the grey frame at a width of 64, blurred with sigma 3"
    fingerprint = description

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for image in frames_at(sample, indices):
            yield spectral_residual(image)


def spectral_residual(image: np.ndarray) -> np.ndarray:
    """Of an image, uint8 `(height, width, 3)`: non-negative float64 `(height, width)`."""
    height, width = image.shape[:2]
    rows = max(1, (RESIDUAL_WIDTH * height + width // 2) // width)
    grey = resized(image @ np.array([0.299, 0.587, 0.114]), (rows, RESIDUAL_WIDTH))
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    surroundings = torch.from_numpy(np.pad(log_amplitude, 1, mode="wrap"))[None, None]
    residual = log_amplitude - F.avg_pool2d(surroundings, 3, stride=1)[0, 0].numpy()
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    blurred = gaussian_blur(torch.from_numpy(saliency), RESIDUAL_SIGMA, border="reflect")
    return resized(blurred, (height, width)).clip(min=0)


def resized(saliency: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """One map, resized bilinearly, with antialiasing: float64 of that (height, width)."""
    tensor = torch.as_tensor(saliency, dtype=torch.float64)[None, None]
    return F.interpolate(tensor, size=size, mode="bilinear", antialias=True)[0, 0].numpy()


class InterObserver(Method):
    """Every other observer of a still predicts the rest."""

    name = "inter-observer"
    description = "every other observer's density, scored against the other observers' fixations"
    fingerprint = description

    def check(self, dataset: Dataset) -> None:
        if "observer" not in dataset.features or not any(len(set(ids)) > 1 for ids in dataset["observer"]):
            raise EvaluationError(
                "The baseline inter-observer needs to know who made each fixation, which this dataset does not tell; "
                "leave it out."
            )

    def maps(self, sample: GazeStill, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for _ in indices:
            yield sample.density(observers=np.unique(sample.observer)[::2])

    def truth(self, sample: GazeStill, index: int) -> tuple[np.ndarray, np.ndarray]:
        others = np.unique(sample.observer)[1::2]
        return sample.fixations(observers=others), sample.density(observers=others)
