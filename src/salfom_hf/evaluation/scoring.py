"""Scores of saliency maps, frame by frame, as the field computes them."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..data.features import DataError
from ..data.samples import open_sample
from ..metrics import Map, score_of
from .baselines import Center, gaze_alone
from .methods import EvaluationError, Method, Sample, resized

# Name → heading in tables, and definition.
_METRICS = {
    "auc_judd": ("AUC-J", "AUC-Judd as in the MIT benchmark, without jitter"),
    "auc_shuffled": ("s-AUC", "shuffled AUC as published (sampled: 100 splits, thresholds in steps of 0.1)"),
    "auc_shuffled_exact": ("s-AUC (exact)", "exact area of shuffled AUC"),
    "nss": ("NSS", "standard deviation with ddof 1, as the MIT benchmark; each fixated pixel once"),
    "cc": ("CC", "Pearson's correlation with the density"),
    "sim": ("SIM", "histogram intersection with the density, both scaled to 0…1, then divided by their sums"),
    "kldiv": ("KLD", "Kullback-Leibler divergence from the density in nats, epsilon 2^-52"),
    "information_gain": ("IG", "information gain in bits per fixation"),
}
METRICS = {name: heading for name, (heading, _) in _METRICS.items()}
DEFINITIONS = {name: definition for name, (_, definition) in _METRICS.items()}
DEFAULT_METRICS = ("auc_judd", "auc_shuffled", "nss", "cc", "sim", "kldiv")

STILLS_AT_ONCE = 10  # images per unit of work
OTHER_FRAMES = 10  # from which the negatives of shuffled AUC come

WITHOUT_FIXATIONS, WITHOUT_PREDICTION = "without fixations", "without a prediction"
RECORD = ("video_id", "frames", "scores", "left_out")  # of one video
# By frame a number per metric of the protocol, None where the truth does not define it; None without fixations.
FrameScores = dict[int, list[float | None] | None]
# Raised when scores of the same maps change, so that no run goes on with scores of another kind.
VERSION = 2


@dataclass(frozen=True)
class Protocol:
    """
    How maps are scored.

    Args:
        metrics: names in `METRICS`.
        blur: standard deviation, in pixels of the native size, of a Gaussian that every map is blurred with before it
            is scored; its kernel reaches 2.5 standard deviations. 2 is the 11×11 kernel of the field's code.
        first, every: of each video, the frames `first`, `first + every`, … are scored, counted from 0.
        max_frames: of more frames than that, so many are drawn at random; the official DHF1K script takes 50,000.
        seed: of the frames drawn and of the negatives of shuffled AUC.

    Raises:
        EvaluationError: a value is outside its range.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    blur: float = 0.0
    first: int = 0
    every: int = 1
    max_frames: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.metrics or not set(self.metrics) <= set(METRICS):
            raise EvaluationError(f"metrics must be some of {', '.join(METRICS)}, not {', '.join(self.metrics)}.")
        if not 0 <= self.blur < np.inf or self.seed < 0 or (self.max_frames is not None and self.max_frames < 1):
            raise EvaluationError("blur and seed must be at least 0, and max_frames at least 1.")
        if self.first < 0 or self.every < 1:
            raise EvaluationError("first must be at least 0, and every at least 1.")


@dataclass(frozen=True)
class Scores:
    """
    The scores of one method.

    Attributes:
        name, description, fingerprint: of the method.
        videos: one record per video or still: `video_id`; `frames`, the indices of the scored frames; `scores`, by
            metric one number or None per scored frame; `left_out`, the number of frames by reason.
    """

    name: str
    description: str
    fingerprint: str
    videos: list[dict] = field(repr=False)

    def values(self, metric: str) -> list[np.ndarray]:
        """Per video, float64 `(scored frames,)`; NaN where the metric is undefined."""
        return [np.array(video["scores"][metric], dtype=np.float64) for video in self.videos]

    def mean_over_frames(self, metric: str) -> float:
        """One mean over all frames of all videos, as in the official DHF1K script; undefined values are left out."""
        return mean(np.concatenate(self.values(metric)))

    def mean_over_videos(self, metric: str) -> float:
        """The mean of the videos' own means; videos without a defined value are left out."""
        return mean(self.video_means(metric))

    def video_means(self, metric: str) -> np.ndarray:
        """Each video's mean over its frames, float64 `(videos,)`; NaN where no frame has a defined value."""
        return np.array([mean(values) for values in self.values(metric)])

    def standard_error(self, metric: str) -> float:
        """Standard error of the mean over videos, how far others of the kind would move it; NaN for fewer than two."""
        values = defined(self.video_means(metric))
        return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan

    @property
    def num_frames(self) -> int:
        """Frames that were scored."""
        return sum(len(video["frames"]) for video in self.videos)

    @property
    def num_videos(self) -> int:
        """Videos with at least one scored frame."""
        return sum(bool(video["frames"]) for video in self.videos)

    def undefined(self, metric: str) -> int:
        """Scored frames whose ground truth does not define the metric, such as CC with an empty density map."""
        return int(np.isnan(np.concatenate(self.values(metric))).sum())

    @property
    def left_out(self) -> dict[str, int]:
        """Number of frames that were not scored, by reason."""
        return dict(sum((Counter(video["left_out"]) for video in self.videos), Counter()))

    @property
    def partial(self) -> dict[str, int] | None:
        """Of partial predictions, how many there are and of how many: `frames`, `of_frames`, `videos`, `of_videos`."""
        if WITHOUT_PREDICTION not in self.left_out:
            return None
        total = np.array([len(video["frames"]) + sum(video["left_out"].values()) for video in self.videos])
        there = total - [video["left_out"].get(WITHOUT_PREDICTION, 0) for video in self.videos]
        counts = {
            "frames": there.sum(),
            "of_frames": total.sum(),
            "videos": (there > 0).sum(),
            "of_videos": (total > 0).sum(),
        }
        return {name: int(count) for name, count in counts.items()}

    def difference(self, base: "Scores", metric: str) -> np.ndarray:
        """By how much each video's mean is above that of `base` on the frames that both have, float64 `(videos,)`."""
        found = []
        for video, other in zip(self.videos, base.videos, strict=True):
            theirs = dict(zip(other["frames"], other["scores"][metric], strict=True))
            pairs = [(own, theirs.get(at)) for at, own in zip(video["frames"], video["scores"][metric], strict=True)]
            found.append(mean(np.array([own - base for own, base in pairs if None not in (own, base)])))
        return np.array(found)


def defined(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def mean(values: np.ndarray) -> float:
    """The mean without NaN; NaN if nothing else is there."""
    values = defined(values)
    return float(values.mean()) if len(values) else math.nan


class Scorer:
    """Scores the rows of a dataset with labels; the same numbers in any process and order. `prior`: see `evaluate`."""

    def __init__(self, dataset: Dataset, protocol: Protocol, prior: Center | None = None):
        self.to_score = dataset, protocol, prior
        self.protocol, self.prior = protocol, prior
        self.rows_at_once, counts = STILLS_AT_ONCE, [1] * len(dataset)
        if "num_frames" in dataset.features:
            self.rows_at_once, counts = 1, list(dataset["num_frames"])
        self.chosen = chosen_frames(counts, protocol)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.sample: Callable[[int], Sample] = lru_cache(1)(lambda row: open_sample(dataset[row]))
        # Negatives come from all over the dataset; every frame is drawn about ten times.
        self._gaze = lru_cache(256)(gaze_alone(dataset))
        # DHF1K's validation split as a whole; of larger ones as much as some 200 MB hold.
        self._fixated = lru_cache(2**16)(self._read_fixated)
        self._prior_map = lru_cache(1)(self._make_prior_map)

    def score_frames(
        self, method: Method, row: int, indices: Sequence[int], maps: Iterable[np.ndarray] | None = None
    ) -> FrameScores:
        """
        Score some frames of one video or still; `maps`: of these frames, if the method is not to give them here. Maps
        that cannot be scored, as negative ones by KLD and information gain, are an EvaluationError.
        """
        sample, scores = self.sample(row), FrameScores()
        maps = method.finite_maps(sample, indices) if maps is None else maps
        for index, saliency in zip(indices, maps, strict=True):
            rounds = (one for one in method.rounds(sample, index, saliency) if one[1].any())
            try:
                each = np.array([self._score_frame(row, index, *one) for one in rounds])
                means = map(mean, each.T)
                scores[index] = [None if math.isnan(value) else value for value in means] if each.size else None
            except DataError:
                raise
            except ValueError as error:
                told = f"{error}".removesuffix(".")
                raise EvaluationError(
                    f"Cannot score {method.name} on {sample.id}: {told} (frame {index}, {sample.frame_names[index]})."
                ) from error
        return scores

    def _score_frame(
        self, row: int, index: int, predicted: np.ndarray, fixated: np.ndarray, looked_at: np.ndarray
    ) -> list[float]:
        size, wanted = fixated.shape, self.protocol.metrics
        saliency = Map(self.prepare(predicted, size))
        density = Map(resized(looked_at, size).clip(min=0), "density")
        truth: dict[str, Any] = {"fixations": np.flatnonzero(fixated), "density": density}
        if "information_gain" in wanted:
            truth["prior"] = self._prior_map(row, size)
        if any(metric.startswith("auc_shuffled") for metric in wanted):
            truth["other"], truth["generator"] = self.negatives(row, index, size)
        return [score_of(metric, saliency, truth) for metric in wanted]

    def record(self, row: int, found: FrameScores) -> dict:
        """What [`Scores`] has of one video or still, of which these frames have maps."""
        scored = {index: values for index, values in found.items() if values is not None}
        left_out = {
            WITHOUT_FIXATIONS: len(found) - len(scored),
            WITHOUT_PREDICTION: len(self.chosen[row]) - len(found),
        }
        return {
            "video_id": self.sample(row).id,
            "frames": list(scored),
            "scores": {
                metric: [values[n] for values in scored.values()] for n, metric in enumerate(self.protocol.metrics)
            },
            "left_out": {reason: count for reason, count in left_out.items() if count},
        }

    def prepare(self, saliency: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """A method's map as it is scored: resized bilinearly to `size`, blurred if the protocol says so, float64."""
        saliency = resized(saliency, size)
        return opencv_blur(saliency, self.protocol.blur) if self.protocol.blur else saliency

    def _make_prior_map(self, row: int, size: tuple[int, ...]) -> Map:
        assert self.prior is not None
        return Map(self.prepare(next(self.prior.maps(self.sample(row), [0])), size), "prior").non_negative()

    def negatives(
        self, row: int, index: int, size: tuple[int, ...]
    ) -> tuple[tuple[np.ndarray, np.ndarray], torch.Generator]:
        """
        What shuffled AUC of a frame draws from: the numbers of the pixels that were fixated in 10 random other frames
        of the dataset, moved in proportion to the frame's `size`, and how often; and the frame's own source of chance.
        """
        rng = np.random.default_rng([self.protocol.seed, row, index])
        total, own = int(self._starts[-1]), int(self._starts[row]) + index
        drawn = rng.choice(total - 1, min(OTHER_FRAMES, total - 1), replace=False)
        pixels = [np.empty(0, int)]
        for frame in drawn + (drawn >= own):
            other_row = int(np.searchsorted(self._starts, frame, side="right")) - 1
            (height, width), rows, columns = self._fixated(other_row, int(frame - self._starts[other_row]))
            y, x = ((rows + 0.5) * size[0] / height).astype(int), ((columns + 0.5) * size[1] / width).astype(int)
            pixels.append(y * size[1] + x)
        places, counts = np.unique(np.concatenate(pixels), return_counts=True)
        return (places, counts), torch.Generator().manual_seed(int(rng.integers(2**62)))

    def _read_fixated(self, row: int, index: int) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
        fixations = self._gaze(row).fixations(index)
        rows, columns = np.divmod(np.flatnonzero(fixations).astype(np.int32), fixations.shape[1])
        return fixations.shape, rows, columns


def opencv_blur(saliency: np.ndarray, sigma: float) -> np.ndarray:
    """
    One map `(height, width)` blurred as OpenCV does in the field's code: a Gaussian kernel that ends at 2.5 standard
    deviations, and the mirror image outside, which begins next to the outermost pixel.
    """
    radius = blur_radius(sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for _ in range(2):
        # Along the first axis; after turning the map, along the other.
        padded = np.pad(saliency, ((radius, radius), (0, 0)), mode="reflect")
        shifted = (weight * padded[n : n + len(saliency)] for n, weight in enumerate(kernel / kernel.sum()))
        saliency = np.ascontiguousarray(sum(shifted).T)
    return saliency


def blur_radius(sigma: float) -> int:
    """Pixels that the kernel of `opencv_blur` reaches in every direction."""
    return max(1, round(2.5 * sigma))


def chosen_frames(counts: Sequence[int], protocol: Protocol) -> list[list[int]]:
    """The indices, ascending, of the frames of each row that are scored."""
    chosen = [list(range(protocol.first, count, protocol.every)) for count in counts]
    total, most = sum(map(len, chosen)), protocol.max_frames
    if most is None or total <= most:
        return chosen
    drawn, numbers = set(np.random.default_rng(protocol.seed).choice(total, most, replace=False)), itertools.count()
    return [[frame for frame in frames if next(numbers) in drawn] for frames in chosen]
