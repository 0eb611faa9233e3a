"""What gives maps to score: the interface of all methods, and a model."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F

from ..data.samples import GazeStill, GazeVideo
from ..inference.predictor import SaliencyPredictor
from ..inference.sliding_window import sees_single_frames

RUN_GAP = 16  # frames that are rather decoded than skipped by seeking

Sample = GazeVideo | GazeStill
Item = TypeVar("Item")


class EvaluationError(Exception):
    """What the user asked for cannot be scored; the message is one sentence that says what to do."""


class Method:
    """
    Gives a map for any frame of a sample. Objects are sent to other processes, so they pickle.

    Attributes:
        name: in tables.
        description: what exactly it is, in one line.
        fingerprint: text that changes when the maps may change.
        in_main: whether the maps are made in the main process, with all threads.
    """

    name: str
    description: str
    fingerprint: str
    in_main = False

    def check(self, dataset: Dataset) -> None:
        """Raise an EvaluationError if the method has no maps for the dataset."""

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The maps of some frames, of ascending indices: each float `(height, width)` of any size and scale."""
        raise NotImplementedError

    def available(self, sample: Sample, indices: Sequence[int]) -> Sequence[int]:
        """Those of the frames that the method has maps for."""
        return indices

    def finite_maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """What [`maps`] yields; a map with NaN or infinity is an EvaluationError."""
        for index, saliency in zip(indices, self.maps(sample, indices), strict=True):
            if not np.isfinite(saliency).all():
                raise EvaluationError(
                    f"The map of {self.name} for frame {index} of {sample.id} (counted from 0) holds NaN or infinity; "
                    "fix what makes it, or compute it in float32."
                )
            yield saliency

    def rounds(
        self, sample: Sample, index: int, saliency: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """
        What is scored of a frame, whose score is the mean over them: a map, of which the first is what [`maps`] gave,
        and what it is scored against: fixations, bool, and density, float32, each `(height, width)`.
        """
        yield saliency, sample.fixations(index), sample.density(index)


class Model(Method):
    """
    A SalFoM model with its causal sliding window; a still is a clip of one frame.

    Args:
        name: what `from_pretrained` of the predictor's class takes; other processes load it again.
        predictor: the model, loaded.
        last_frame_alone: predict every frame of a video by itself, as a still. What the window does better than that
            is what the model gains from time.
    """

    in_main = True

    def __init__(self, name: str, predictor: SaliencyPredictor, last_frame_alone: bool = False):
        model, stride = predictor.model, predictor.stride
        self.predictor, self._last_frame_alone = predictor, last_frame_alone
        how = str(model.device), model.dtype, stride, predictor.batch_size
        self._load = partial(type(predictor).from_pretrained, name, *how)
        if last_frame_alone:
            self.name, self.description = f"{name}, last frame alone", "every frame by itself, as a still"
        else:
            self.name, self.description = name, f"causal sliding window of {model.config.num_frames} frames"
            if stride > 1:
                self.description += f", maps between every {stride}th frame interpolated"
        if sees_single_frames(model):
            self.description += (
                "; of stills, the mean of the maps of the image and of its mirror image, blurred by 1.2 % of the width"
            )
        digest = hashlib.sha256()
        for key, weight in model.state_dict().items():
            digest.update(key.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        config = {**model.config.to_dict(), "_name_or_path": None, "transformers_version": None}
        digest.update(repr((self.description, str(model.dtype), config)).encode())
        digest.update(predictor.processor.to_json_string().encode())
        self.fingerprint = digest.hexdigest()[:16]

    @cached_property
    def predictor(self) -> SaliencyPredictor:
        return self._load()

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "predictor"}

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self._last_frame_alone:
            for image in frames_at(sample, indices):
                yield self.predictor.predict([image])[0]
            return
        window, stride = self.predictor.model.config.num_frames, self.predictor.stride
        # A map depends on its window alone: with gaps longer than that, what lies between is not computed.
        for run in runs(indices, window) if stride == 1 else [indices]:
            first = max(0, run[0] - window + 1) if stride == 1 else 0
            # Maps between two key frames need the second one, and a video's first frame without the next is a still.
            stop = min(sample.num_frames, max(run[-1] + stride, 2))
            for frame in picked(self.predictor.stream(sample.frames(first, stop)), first, run):
                yield frame.saliency


def frames_at(sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a sample: uint8 `(height, width, 3)`."""
    for run in runs(indices, RUN_GAP):
        yield from picked(sample.frames(run[0], run[-1] + 1), run[0], run)


def picked(items: Iterable[Item], first: int, indices: Sequence[int]) -> Iterator[Item]:
    """Those of the items, counted from `first`, of these indices."""
    wanted = set(indices)
    return (item for index, item in enumerate(items, first) if index in wanted)


def runs(indices: Sequence[int], gap: int) -> list[list[int]]:
    """Ascending indices in groups with steps of at most `gap`."""
    groups = np.split(np.asarray(indices), np.flatnonzero(np.diff(indices) > gap) + 1)
    return [group.tolist() for group in groups if len(group)]


def resized(saliency: np.ndarray, size: tuple[int, ...], antialias: bool = False) -> np.ndarray:
    """One map, resized bilinearly: float64 of that (height, width)."""
    saliency = np.ascontiguousarray(saliency, np.float64)
    if saliency.shape == size:
        return saliency
    tensor = torch.from_numpy(saliency)[None, None]
    return F.interpolate(tensor, size=size, mode="bilinear", antialias=antialias)[0, 0].numpy()
