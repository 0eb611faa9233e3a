"""SaliencyPredictor: a video in, a saliency map for every frame out."""

import os
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import CutOffError, LoadError, MapError, until_cut_off
from ..models.loading import loading
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor, frames_of, pixels_of, resize_map
from ..video.reading import Frame
from .cpu import prepare_for_inference, pytorch_threads
from .cuts import shots
from .encoder_graph import FrameEncoder
from .profiling import stage, within
from .shared_windows import can_share_windows, encoder_threads, shared_maps
from .sliding_window import is_still, sees_single_frames, still_maps, window_maps


class SaliencyFrame(NamedTuple):
    """
    One frame and where people look in it.

    Attributes:
        image: uint8 `(height, width, 3)`, RGB.
        timestamp: seconds on the source's clock.
        saliency: float32 `(height, width)`, values in 0…1.
        duration: seconds for which the frame is shown, where that is known.
    """

    image: np.ndarray
    timestamp: Fraction
    saliency: np.ndarray
    duration: Fraction | None = None


def usable_device(device: str | torch.device | None) -> str | torch.device:
    """The device, or without one cuda if it is there, else cpu; a `ValueError` if this machine does not have it."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"The device '{device}' cannot be used on this machine; give cpu as the device.") from error
    return device


def saliency_maps(
    model: SalFoMForVideoSaliencyPrediction,
    frames: Iterator[torch.Tensor],
    stride: int = 1,
    batch_size: int = 1,
    still: bool = False,
    after_cut: bool = False,
    encoders: dict[int, FrameEncoder] | None = None,
) -> Generator[torch.Tensor]:
    """
    One map for every frame of a video's shot, or that of a still, in the fastest way that the model allows; as
    [`window_maps`][salfom_hf.inference.sliding_window.window_maps], but after up to `(stride + 2) · batch_size` later
    frames. `encoders` are those of the model that are ready, by number of threads; one that is missing is added.
    """
    encode, encoders = None, {} if encoders is None else encoders
    if can_share_windows(model):
        threads = encoder_threads(still)
        if threads not in encoders:
            encoders[threads] = FrameEncoder(model.salfom, threads)
        encode = encoders[threads]
    if still:
        stills = torch.stack(list(frames))
        features = encode(torch.cat([stills, stills.flip(-1)])) if encode else None
        with stage("network"):
            maps = still_maps(model, stills, features)
        yield from maps
    elif encode:
        yield from shared_maps(model, frames, stride, batch_size, encode, after_cut)
    else:
        yield from window_maps(model, frames, stride, batch_size, stage, after_cut)


class SaliencyPredictor:
    """
    Predicts saliency with a model and its processor, by a causal sliding window that starts again at hard cuts.

    Args:
        model: the network, on the device and in the dtype to compute with. It is prepared in place
            (`salfom_hf.inference.cpu`), and can be trained and saved as before; then make a new predictor of it.
        processor: the processor saved with it.
        stride: the network runs on every `stride`-th frame; maps between are interpolated. 1 as in the paper.
        batch_size: windows per call of the network.
        compile: run the network by `torch.compile`, which takes minutes at first; for models that see whole windows.

    Raises:
        ValueError: `compile` for a model whose encoder sees single frames: those run in parts, frame by frame.

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
    ) -> None:
        if compile and sees_single_frames(model):
            raise ValueError("compile is for models that see whole windows, such as salfom-large; leave it out.")
        self.model = prepare_for_inference(model.eval())
        if compile:
            self.model.compile(dynamic=False)
        self.processor, self.stride, self.batch_size = processor, stride, batch_size
        self.encoders: dict[int, FrameEncoder] = {}  # by number of threads; each takes a fifth of a second to make

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "encoders": {}}  # onnxruntime's sessions cannot be pickled.

    def check_sides(self, height: int, width: int) -> None:
        """Refuse frames whose sides, in pixels, the network cannot take: its processor does not fit it."""
        divisor = self.model.config.encoder_stride
        if height % divisor or width % divisor:
            raise LoadError(
                f"The processor of the model '{self.model.config._name_or_path}' makes frames of {height}×{width} "
                f"pixels, and its network needs sides that {divisor} divides; correct size and size_divisor in its "
                "video_preprocessor_config.json."
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike = "salfom",
        device: str | torch.device | None = "cpu",
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
            device: where to compute; `None` is cuda if there is one, else cpu.
            dtype: precision to compute in; maps are float32 whatever it is.
            stride, batch_size, compile: see the class.

        Raises:
            ValueError: the machine does not have the device.
            NotInstalledError: the paper's model is not on this machine.
            LoadError: there is no such model, or its configuration, its processor or its weights cannot be used.
        """
        device = usable_device(device)
        with loading(name):
            model = SalFoMForVideoSaliencyPrediction.from_pretrained(name, dtype=dtype)
            processor = SalFoMVideoProcessor.from_pretrained(name)
        model.to(device)  # type: ignore[arg-type]  # transformers' wrapper hides `self`.
        return cls(model, processor, stride, batch_size, compile)

    def stream(self, video: Any, start: float = 0.0, duration: float | None = None) -> Generator[SaliencyFrame]:
        """
        Frames and their maps, one by one, in constant memory.

        Args:
            video: path of a video, an image or a folder of images; uint8 array or tensor `(frames, height, width, 3)`;
                or an iterable of images (PIL, numpy, torch), from which another thread may take them.
            start, duration: part of the video, in seconds.

        Yields:
            [`SaliencyFrame`] with the map at the frame's size.

        Raises:
            VideoError: the file cannot be read.
            ValueError: the frames are not images of one size.
            LoadError: the processor makes frames of a size that the network cannot take.
            MapError: the model gives values that are not numbers, such as where float16 overflows.
        """
        with closing(within(partial(stage, "decode"), frames_of(video, start, duration))) as frames:
            still, all_frames = is_still(frames)
            waiting: deque[Frame] = deque()
            ended: list[CutOffError] = []

            def prepared(frame: Frame) -> torch.Tensor:
                waiting.append(frame)
                with stage("preprocess"):
                    # Resized on the CPU, whose rounding no GPU has: so all devices see the same picture.
                    pixels = self.processor.prepare_frames(pixels_of(frame.image), still=still)[0]
                    self.check_sides(*pixels.shape[-2:])
                    return pixels.to(self.model.device, self.model.dtype)

            def shot_by_shot() -> Generator[torch.Tensor]:
                how = self.stride, self.batch_size, still
                for number, shot in enumerate(shots(until_cut_off(all_frames, ended), lambda frame: frame.image)):
                    yield from saliency_maps(self.model, map(prepared, shot), *how, number > 0, self.encoders)

            with closing(shot_by_shot()) as maps:
                for saliency in maps:
                    frame = waiting.popleft()
                    # On one thread: others would go on waiting busily, and slow down those that predict and encode.
                    with stage("fusion"), pytorch_threads(1):
                        finite = saliency.isfinite().all()
                        resized = resize_map(saliency, frame.image.shape[:2]).clamp(0, 1).cpu().numpy()
                    if not finite:
                        of = f" of {video}" if isinstance(video, (str, os.PathLike)) else ""
                        raise MapError(
                            f"The model '{self.model.config._name_or_path}' gives values that are not numbers for the "
                            f"frame at {float(frame.timestamp):g} s{of}; compute in float32, or take another model."
                        )
                    yield SaliencyFrame(frame.image, frame.timestamp, resized, frame.duration)
            for error in ended:
                raise error

    def predict(self, video: Any, start: float = 0.0, duration: float | None = None) -> np.ndarray:
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
