"""SaliencyPredictor: a video in, a saliency map for every frame out."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain, islice, repeat, takewhile
from typing import NamedTuple

import numpy as np
import torch

from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor, frames_of, resize_map
from ..video.reading import Frame
from .cpu import prepare_for_inference
from .profiling import stage
from .sliding_window import pytorch_threads, saliency_maps, sees_stills
from .threads import in_background


class SaliencyFrame(NamedTuple):
    """
    One frame and where people look in it.

    Attributes:
        image: uint8 `(height, width, 3)`, RGB.
        timestamp: seconds on the source's clock.
        saliency: float32 `(height, width)`, values in 0…1.
    """

    image: np.ndarray
    timestamp: Fraction
    saliency: np.ndarray


def decoded_ahead(video: str | os.PathLike, start: float, duration: float | None, size: int) -> Iterator[Frame]:
    """[`frames_of`] a file or folder, up to `size` frames ahead in a thread of their own."""
    frames = frames_of(video, start, duration)

    def decode(_) -> Frame | None:
        with stage("decode"):
            return next(frames, None)

    with closing(frames), closing(in_background(decode, repeat(None), size)) as ahead:
        yield from takewhile(lambda frame: frame is not None, ahead)


def uploaded(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """
    A frame, uint8 `(height, width, 3)`, on a device: `(1, 3, height, width)`. To a GPU it goes from page-locked
    memory, while that still computes what it was asked before.
    """
    pixels = torch.from_numpy(image)
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return pixels.to(device, non_blocking=True).permute(2, 0, 1).unsqueeze(0)


def fetched(maps: Iterable[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
    """
    Maps on the CPU. From a GPU they come up to `ahead` maps late, into page-locked memory: it has got its next batch
    to do before the program waits for this one.
    """
    waiting: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
    for saliency in maps:
        if saliency.device.type != "cuda":
            yield saliency.cpu()
            continue
        copy = torch.empty(saliency.shape, dtype=saliency.dtype, pin_memory=True)
        copy.copy_(saliency, non_blocking=True)
        there = torch.cuda.Event()
        there.record()
        waiting.append((copy, there))
        if len(waiting) > ahead:
            yield arrived(*waiting.popleft())
    for copy, there in waiting:
        yield arrived(copy, there)


def arrived(copy: torch.Tensor, there: torch.cuda.Event) -> torch.Tensor:
    there.synchronize()
    return copy


class SaliencyPredictor:
    """
    Predicts saliency with a model and its processor, by a causal sliding window.

    Args:
        model: the network, on the device and in the dtype to compute with. It is prepared in place
            (`salfom_hf.inference.cpu`), and can be trained and saved as before.
        processor: the processor saved with it.
        stride: every how many frames the network runs; maps between are interpolated. 1 as in the paper.
        batch_size: windows per call of the network.
        compile: run the network by `torch.compile`, which takes minutes at first; for models that see whole windows.

    Raises:
        ValueError: `compile` for a model whose encoder sees single frames: those run by parts, from frame to frame.

    Example:

    ```python
    >>> from salfom_hf import SaliencyPredictor
    >>> predictor = SaliencyPredictor.from_pretrained("salfom")
    >>> maps = predictor.predict("video.mp4")  # float32 (frames, height, width)
    >>> for frame in predictor.stream("hours.mp4"):  # never holds the video
    ...     print(float(frame.timestamp), frame.saliency.shape)
    ```
    """

    def __init__(
        self,
        model: SalFoMForVideoSaliencyPrediction,
        processor: SalFoMVideoProcessor,
        stride: int = 1,
        batch_size: int = 4,
        compile: bool = False,
    ):
        if compile and sees_stills(model):
            raise ValueError("compile is for models that see whole windows, such as salfom-large; leave it out.")
        self.model = prepare_for_inference(model.eval())
        if compile:
            self.model.compile(dynamic=False)
        self.processor = processor
        self.stride = stride
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike = "salfom",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        stride: int = 1,
        batch_size: int = 4,
        compile: bool = False,
    ) -> "SaliencyPredictor":
        """
        Load model and processor.

        Args:
            name: `"salfom"` (the weights in this package), `"salfom-large"` (the paper's model, once converted), a
                folder, or a model on the Hub.
            device: where to compute.
            dtype: precision to compute in; maps are float32 whatever it is.
            stride, batch_size, compile: see the class.
        """
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(name, dtype=dtype).to(device)
        return cls(model, SalFoMVideoProcessor.from_pretrained(name), stride, batch_size, compile)

    def stream(self, video, start: float = 0.0, duration: float | None = None) -> Iterator[SaliencyFrame]:
        """
        Frames and their maps, one by one, in constant memory. Files are decoded in a thread, up to `batch_size` frames
        ahead; closing the iterator, or an error, ends it.

        Args:
            video: path of a video, an image or a folder of images; uint8 array or tensor `(frames, height, width, 3)`;
                or an iterable of images (PIL, numpy, torch).
            start, duration: part of the video, in seconds.

        Yields:
            [`SaliencyFrame`] with the map at the frame's size.

        Raises:
            VideoError: the file cannot be read.
            ValueError: the frames are not images of one size.
        """
        waiting: deque[Frame] = deque()
        if isinstance(video, (str, os.PathLike)):
            frames = decoded_ahead(video, start, duration, self.batch_size)
        else:
            # In the caller's thread and no sooner than needed: who knows what the images come from.
            frames = frames_of(video, start, duration)

        def prepared() -> Iterator[torch.Tensor]:
            first = list(islice(frames, 2))
            still, shapes = len(first) == 1, {frame.image.shape for frame in first[:1]}
            all_frames = chain(first, frames)
            del first  # No frame is held for longer than needed.
            for frame in all_frames:
                if frame.image.shape not in shapes:
                    raise ValueError("All frames of a video must have one size; resize them to the first one's.")
                waiting.append(frame)
                with stage("preprocess"):
                    pixels = self.processor.prepare_frames(uploaded(frame.image, self.model.device), still=still)
                    pixels = pixels[0].to(self.model.dtype)
                yield pixels

        maps = saliency_maps(self.model, prepared(), self.stride, self.batch_size)

        def resized() -> Iterator[torch.Tensor]:
            for saliency in maps:
                # Threads that were woken for so little would spin on, and take from those that predict and encode.
                with stage("fusion"), pytorch_threads(1):
                    saliency = resize_map(saliency, waiting[0].image.shape[:2]).clamp(0, 1)
                yield saliency

        # One frame at a time, as of a camera, nothing may wait for a later one.
        ahead = self.batch_size if self.batch_size > 1 else 0
        with closing(frames), closing(maps):
            for saliency in fetched(resized(), ahead):
                frame = waiting.popleft()
                yield SaliencyFrame(frame.image, frame.timestamp, saliency.numpy())

    def predict(self, video, start: float = 0.0, duration: float | None = None) -> np.ndarray:
        """
        The maps of all frames at once; arguments and errors as in [`stream`].

        Returns:
            float32 `(frames, height, width)`, values in 0…1.

        Raises:
            ValueError: the video has no frames.
        """
        maps = [frame.saliency for frame in self.stream(video, start, duration)]
        if not maps:
            raise ValueError("The video has no frames.")
        return np.stack(maps)


__all__ = ["SaliencyFrame", "SaliencyPredictor"]
