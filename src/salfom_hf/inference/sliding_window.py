"""The sliding window: a stream of frames to a stream of maps, one per frame.

The map of frame i comes from the window of frames i−n+1 … i (causal, as in the paper); before the first frame stand
copies of it. With a stride k only every k-th frame, and the last one, gets a map of its own; those between are
interpolated linearly. Nothing but one batch of windows is held, however long the video.
"""

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice

import torch

from ..models.configuration_salfom import encoder_facts
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import mirror_averaged
from .profiling import stage
from .shared_windows import FrameEncoder, StreamingDecoder, can_stream
from .threads import in_background

Map = tuple[int, torch.Tensor]


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def encoded(
    encode: Callable[[torch.Tensor], torch.Tensor], frames: Iterable[torch.Tensor], batch_size: int
) -> Iterator[torch.Tensor]:
    """Each frame's features `(channels, rows, columns)`, every frame encoded once."""
    for batch in batched(frames, batch_size):
        with stage("encoder"):
            # Channels-last, as frames come from decoding and as convolutions take them.
            features = encode(torch.stack([frame.movedim(0, -1) for frame in batch]).movedim(-1, 1))
        yield from features


def encoded_beside(
    encode: Callable[[torch.Tensor], torch.Tensor], frames: Iterable[torch.Tensor], ahead: int, threads: int
) -> Iterator[torch.Tensor]:
    """
    [`encoded`] beside what the caller does, in a thread of its own, up to `ahead` frames ahead, on half of PyTorch's
    `threads`; the caller, who has the others, encodes frames, too, when it would wait for one. Frames go one by one:
    what a CPU computes of one stays in its caches.
    """

    @torch.inference_mode()
    def encode_one(frame: torch.Tensor) -> torch.Tensor:
        with stage("encoder"):
            return encode(frame.unsqueeze(0))[0]

    def encode_there(frame: torch.Tensor) -> torch.Tensor:
        with pytorch_threads(threads // 2):
            return encode_one(frame)

    with closing(in_background(encode_there, frames, ahead, helper=encode_one)) as features:
        yield from features


def key_frames(frames: Iterable[torch.Tensor], stride: int, take: Callable[[torch.Tensor], None]) -> Iterator[int]:
    """Indices of every `stride`-th frame and of the last one; `take` gets every frame before its index comes."""
    index = 0
    for index, frame in enumerate(frames):
        take(frame)
        if index % stride == 0:
            yield index
    if index % stride:
        yield index


def pytorch_function(name: str) -> Callable[[int], int]:
    """A function of the C libraries that PyTorch computes with; one that does nothing where there is none."""
    try:
        return getattr(ctypes.CDLL("libtorch_cpu.so"), name)  # Loaded by now, and found by its name wherever it lies.
    except (AttributeError, OSError):
        return lambda _: 0


# For the calling thread alone: `torch.set_num_threads` sets the number of threads that start later, too.
set_openmp_threads = pytorch_function("omp_set_num_threads")

set_mkl_threads = pytorch_function("MKL_Set_Num_Threads_Local")


@contextmanager
def pytorch_threads(count: int) -> Iterator[None]:
    """
    Let PyTorch compute on `count` threads where this thread calls it, and as before thereafter. On other systems than
    Linux nothing changes: what runs side by side shares all threads.
    """
    # A thread takes its number with its first look at it, which would come too late.
    before = torch.get_num_threads()
    set_openmp_threads(count)
    before_mkl = set_mkl_threads(count)
    try:
        yield
    finally:
        set_openmp_threads(before)
        set_mkl_threads(before_mkl)


def on_threads(maps: Iterator[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """The same maps, each computed on `count` of PyTorch's threads; between them the caller has all of its own."""
    while True:
        with pytorch_threads(count):
            saliency = next(maps, None)
        if saliency is None:
            return
        yield saliency


def is_compiled(model: SalFoMForVideoSaliencyPrediction) -> bool:
    """Whether a model, or an exported one, runs by `torch.compile` when it is called."""
    return getattr(model, "_compiled_call_impl", None) is not None


def window_maps(
    model: SalFoMForVideoSaliencyPrediction, frames: Iterator[torch.Tensor], stride: int, batch_size: int
) -> Iterator[Map]:
    """
    (index, map) of the key frames, from windows that the network sees one by one; of a frame-wise encoder, its decoder
    does, and every frame is encoded once.
    """
    if isinstance(model, torch.nn.Module) and sees_stills(model):
        first = next(frames)
        size, frames = tuple(first.shape[-2:]), encoded(model.encode_frames, chain([first], frames), batch_size)

        def compute(features: torch.Tensor) -> torch.Tensor:
            return model.decode(features.transpose(1, 2), size).sigmoid()
    else:

        def compute(clips: torch.Tensor) -> torch.Tensor:
            return model(clips).saliency

    window: deque[torch.Tensor] = deque(maxlen=model.config.num_frames)

    def take(frame: torch.Tensor) -> None:
        window.extend([frame] * (1 if window else window.maxlen))

    keys = key_frames(frames, stride, take)
    for batch in batched(((index, torch.stack(tuple(window))) for index in keys), batch_size):
        indices, clips = zip(*batch, strict=True)
        if is_compiled(model):  # A batch of another size would be compiled anew.
            clips += clips[-1:] * (batch_size - len(clips))
        with stage("network"):
            maps = compute(torch.stack(clips)).float()
        yield from zip(indices, maps, strict=False)


def sees_stills(model: SalFoMForVideoSaliencyPrediction) -> bool:
    """Whether a model, or an exported one, takes a still for one frame, at a fraction of the cost of a clip."""
    return encoder_facts(model.config.encoder_config).framewise


@torch.inference_mode()
def still_maps(model: SalFoMForVideoSaliencyPrediction, stills: torch.Tensor) -> torch.Tensor:
    """
    The maps of stills. Of a model that [`sees_stills`], the mean of the map of the image and that of its mirror image,
    slightly blurred, which predicts gaze better than either map (`docs/default-model.md`).

    Args:
        model: in evaluation mode; or an exported one.
        stills: prepared images `(stills, 3, height, width)` on the model's device and in its dtype.

    Returns:
        float32 `(stills, height, width)` at input size, values in 0…1.
    """
    clips = stills.unsqueeze(1)
    with stage("network"):
        if not sees_stills(model):
            return model(clips).saliency.float()
        maps, mirrored = model(torch.cat([clips, clips.flip(-1)])).saliency.chunk(2)
    return mirror_averaged(maps, mirrored)


def open_stream(
    model: SalFoMForVideoSaliencyPrediction, size: tuple[int, int]
) -> tuple[Callable[[torch.Tensor], torch.Tensor], StreamingDecoder] | None:
    """What encodes and what decodes one stream of frames, if windows can share what they have in common."""
    if not isinstance(model, torch.nn.Module):  # An exported one, which brings its own.
        return model.open_stream()
    return (FrameEncoder(model.salfom), StreamingDecoder(model, size)) if can_stream(model) else None


def streamed_maps(
    decoder: StreamingDecoder, features: Iterable[torch.Tensor], stride: int, batch_size: int
) -> Iterator[Map]:
    """(index, map) of the key frames, where windows share what they can; see `salfom_hf.inference.shared_windows`."""
    keys = key_frames(features, stride, decoder.add_frame)
    for batch in batched(keys, batch_size):
        yield from zip(batch, decoder.maps(batch), strict=True)


def interpolated(maps: Iterable[Map]) -> Iterator[torch.Tensor]:
    """Fill the gaps between (index, map) pairs linearly, beginning at index 0."""
    previous_index, previous = -1, None
    for index, saliency in maps:
        gap = index - previous_index
        for step in range(1, gap):
            yield torch.lerp(previous, saliency, step / gap)
        yield saliency
        previous_index, previous = index, saliency


@torch.inference_mode()
def saliency_maps(
    model: SalFoMForVideoSaliencyPrediction, frames: Iterable[torch.Tensor], stride: int = 1, batch_size: int = 1
) -> Iterator[torch.Tensor]:
    """
    One map for every frame of a stream.

    Args:
        model: in evaluation mode; or an exported one ([`OnnxModel`][salfom_hf.export.onnx_runtime.OnnxModel]).
        frames: prepared frames `(3, height, width)` on the model's device and in its dtype, all of one size.
        stride: every how many frames the network runs.
        batch_size: windows (and, for frame-wise encoders, frames) per call of the network.

    Yields:
        float32 `(height, width)` at input size, values in 0…1; up to `(stride + 1) · batch_size` frames late.

    Raises:
        ValueError: stride or batch size is below 1.
    """
    if stride < 1 or batch_size < 1:
        raise ValueError(f"stride and batch_size must be at least 1, not {stride} and {batch_size}.")
    frames = iter(frames)
    first = list(islice(frames, 2))
    if len(first) < 2:
        yield from (still_maps(model, frame[None])[0] for frame in first)
        return
    frames = chain(first, frames)
    stream = open_stream(model, tuple(first[0].shape[-2:]))
    if stream is None:
        maps = window_maps(model, frames, stride, batch_size)
    else:
        encode, decoder = stream
        threads = torch.get_num_threads()
        on_cpu = isinstance(model, torch.nn.Module) and model.device.type == "cpu"
        if on_cpu and threads > 1 and batch_size > 1:
            # Two networks side by side, each on half of the threads, wait less for another than one on all of them.
            with closing(encoded_beside(encode, frames, batch_size, threads)) as features:
                maps = interpolated(streamed_maps(decoder, features, stride, batch_size))
                yield from on_threads(maps, threads - threads // 2)
            return
        maps = streamed_maps(decoder, encoded(encode, frames, batch_size), stride, batch_size)
    yield from interpolated(maps)


__all__ = ["pytorch_threads", "saliency_maps", "sees_stills", "still_maps"]
