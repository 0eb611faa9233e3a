"""What gives maps to score: the interface of all methods, and a model."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset

from ..data.samples import GazeStill, GazeVideo
from ..inference.predictor import SaliencyPredictor
from ..inference.sliding_window import sees_single_frames

RUN_GAP = 16  # frames that are rather decoded than skipped by seeking

Sample = GazeVideo | GazeStill


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
        """
        The maps of some frames.

        Args:
            sample: a video or a still.
            indices: of the frames, ascending.

        Yields:
            float `(height, width)` of any size and scale, one per index.
        """
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

    def truth(self, sample: Sample, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What a frame's map is scored against: fixations, bool, and density, float32, each `(height, width)`."""
        return sample.fixations(index), sample.density(index)


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
        self.name = f"{name}, last frame alone" if last_frame_alone else name
        self._source, self._predictor, self._last_frame_alone = name, predictor, last_frame_alone
        self._load = type(predictor).from_pretrained
        self._options = {
            "device": str(predictor.model.device),
            "dtype": predictor.model.dtype,
            "stride": predictor.stride,
            "batch_size": predictor.batch_size,
        }
        if last_frame_alone:
            self.description = "every frame by itself, as a still"
        else:
            self.description = f"causal sliding window of {predictor.model.config.num_frames} frames"
            if predictor.stride > 1:
                self.description += f", maps between every {predictor.stride}th frame interpolated"
        if sees_single_frames(predictor.model):
            self.description += (
                "; of stills, the mean of the maps of the image and of its mirror image, blurred by 1.2 % of the width"
            )
        self.fingerprint = self._hash()

    def _hash(self) -> str:
        model, digest = self.predictor.model, hashlib.sha256()
        for name, weight in model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        config = {**model.config.to_dict(), "_name_or_path": None, "transformers_version": None}
        digest.update(repr((self.description, str(model.dtype), config)).encode())
        digest.update(self.predictor.processor.to_json_string().encode())
        return digest.hexdigest()[:16]

    @property
    def predictor(self) -> SaliencyPredictor:
        if self._predictor is None:
            self._predictor = self._load(self._source, **self._options)
        return self._predictor

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_predictor": None}

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self._last_frame_alone:
            for image in frames_at(sample, indices):
                yield self.predictor.predict([image])[0]
            return
        window, stride = self.predictor.model.config.num_frames, self.predictor.stride
        # A map depends on its window alone: with gaps longer than that, what lies between is not computed.
        for run in runs(indices, window) if stride == 1 else [indices]:
            wanted = set(run)
            first = max(0, run[0] - window + 1) if stride == 1 else 0
            # Maps between two key frames need the second one, and a video's first frame without the next is a still.
            stop = min(sample.num_frames, max(run[-1] + stride, 2))
            for index, frame in enumerate(self.predictor.stream(sample.frames(first, stop)), first):
                if index in wanted:
                    yield frame.saliency


def frames_at(sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a sample: uint8 `(height, width, 3)`."""
    for run in runs(indices, RUN_GAP):
        wanted = set(run)
        for index, image in enumerate(sample.frames(run[0], run[-1] + 1), run[0]):
            if index in wanted:
                yield image


def runs(indices: Sequence[int], gap: int) -> list[list[int]]:
    """Ascending indices in groups with steps of at most `gap`."""
    groups: list[list[int]] = []
    for index in indices:
        if groups and index - groups[-1][-1] <= gap:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
