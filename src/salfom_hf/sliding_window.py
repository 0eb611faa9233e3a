"""The sliding window: a stream of frames to a stream of maps, one per frame.

The map of frame i comes from the window of frames i−n+1 … i (causal, as in the paper); before the first frame stand
copies of it. With a stride k only every k-th frame, and the last one, gets a map of its own; those between are
interpolated linearly. Nothing but one batch of windows is held, however long the video.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

import torch

from .modeling_salfom import SalFoMForVideoSaliencyPrediction


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def encoded(model: SalFoMForVideoSaliencyPrediction, frames: Iterable, batch_size: int) -> Iterator[torch.Tensor]:
    """Each frame's features `(channels, rows, columns)`, every frame encoded once."""
    for batch in batched(frames, batch_size):
        yield from model.encode_frames(torch.stack(batch).contiguous(memory_format=torch.channels_last))


def windows(frames: Iterable[torch.Tensor], length: int, stride: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(index of its last frame, window `(length, …)`) for every `stride`-th frame and the last one."""
    window: deque[torch.Tensor] = deque(maxlen=length)
    index = -1
    for index, frame in enumerate(frames):
        if index == 0:
            window.extend([frame] * length)
        window.append(frame)
        if index % stride == 0:
            yield index, torch.stack(tuple(window))
    if index % stride and index > 0:
        yield index, torch.stack(tuple(window))


def interpolated(maps: Iterable[tuple[int, torch.Tensor]]) -> Iterator[torch.Tensor]:
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
        model: in evaluation mode.
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
    framewise = model.salfom.adapter.framewise
    size: tuple[int, int] | None = None

    def noting_size():
        nonlocal size
        for frame in frames:
            size = tuple(frame.shape[-2:])
            yield frame

    def maps():
        slices = encoded(model, noting_size(), batch_size) if framewise else frames
        for batch in batched(windows(slices, model.config.num_frames, stride), batch_size):
            clips = torch.stack([window for _, window in batch])
            if framewise:
                saliency = model.decode(clips.transpose(1, 2), size).sigmoid()
            else:
                saliency = model(clips).saliency
            yield from zip([index for index, _ in batch], saliency.float(), strict=True)

    yield from interpolated(maps())


__all__ = ["saliency_maps"]
