"""The sliding window: a stream of frames to a stream of maps, one per frame.

The map of frame i comes from the window of frames i−n+1 … i (causal, as in the paper); at the start it is
filled with copies of the first frame. With a stride k only every k-th frame, and the last one, gets a map of its own;
those between are interpolated linearly. Nothing but one batch of windows is held, however long the video.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import TypeVar

import torch

from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import mirror_averaged
from .cuts import unseen_share

Item = TypeVar("Item")
Map = tuple[int, torch.Tensor]


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items; the last may be shorter."""
    if size < 1:
        raise ValueError(f"A batch size must be at least 1, not {size}.")
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def encoded(
    encode: Callable[[torch.Tensor], torch.Tensor], frames: Iterable[torch.Tensor], batch_size: int
) -> Generator[torch.Tensor]:
    """Each frame's features `(channels, rows, columns)`, every frame encoded once."""
    for batch in batched(frames, batch_size):
        # Channels-last, as frames come from decoding and as convolutions take them.
        yield from encode(torch.stack([frame.movedim(0, -1) for frame in batch]).movedim(-1, 1))


def key_frames(frames: Iterable[torch.Tensor], stride: int, take: Callable[[torch.Tensor], None]) -> Iterator[int]:
    """Indices of every `stride`-th frame and of the last one; `take` is called with every frame beforehand."""
    if stride < 1:
        raise ValueError(f"A stride must be at least 1, not {stride}.")
    index = 0
    for index, frame in enumerate(frames):
        take(frame)
        if index % stride == 0:
            yield index
    if index % stride:
        yield index


def interpolated(maps: Iterable[Map]) -> Generator[torch.Tensor]:
    """Fill the gaps between (index, map) pairs linearly, beginning at index 0."""
    previous: Map | None = None
    for index, saliency in maps:
        if previous is not None:
            gap = index - previous[0]
            yield from (torch.lerp(previous[1], saliency, step / gap) for step in range(1, gap))
        yield saliency
        previous = index, saliency


def sees_single_frames(model: SalFoMForVideoSaliencyPrediction) -> bool:
    """Whether the encoder of a model, or of an exported one, sees single frames: a still is one frame for it."""
    return model.config.encoder_facts()[0].framewise


def is_still(frames: Iterable[Item]) -> tuple[bool, Iterator[Item]]:
    """Whether there is exactly one frame, whatever it comes from, and all frames; reads up to two ahead."""
    frames = iter(frames)
    first = list(islice(frames, 2))
    return len(first) == 1, chain(first, frames)


@torch.inference_mode()
def still_maps(
    model: SalFoMForVideoSaliencyPrediction, stills: torch.Tensor, features: torch.Tensor | None = None
) -> torch.Tensor:
    """
    The maps `(stills, height, width)` of stills as [`window_maps`] takes frames. Of a model that
    [`sees_single_frames`], the mean of the map of the image and that of its mirror image, slightly blurred, which
    predicts gaze better than either map (`docs/default-model.md`); `features` are then what the encoder makes of all
    images and all mirror images, if known.
    """
    clips = stills.unsqueeze(1)
    if features is not None:
        logits = model.decode(features.unsqueeze(2), (stills.shape[-2], stills.shape[-1]))
        return mirror_averaged(*logits.sigmoid().chunk(2))
    if not sees_single_frames(model):
        return model(clips).saliency.float()
    return mirror_averaged(*model(torch.cat([clips, clips.flip(-1)])).saliency.chunk(2))


@torch.inference_mode()
def window_maps(
    model: SalFoMForVideoSaliencyPrediction,
    frames: Iterable[torch.Tensor],
    stride: int = 1,
    batch_size: int = 1,
    stage: Callable[[str], AbstractContextManager] = nullcontext,
    after_cut: bool = False,
) -> Generator[torch.Tensor]:
    """
    One map for every frame of a stream, float32 `(height, width)` in 0…1, from windows that the network sees one by
    one; at most `(stride + 1) · batch_size` later frames are read before it comes. A frame-wise encoder sees every
    frame once, and only the decoder runs for each window. Frames are prepared, `(3, height, width)`, of one size.
    `stage` gives, for a name, the context in which that part computes. In a shot `after_cut`, a frame-wise network
    takes the copies that fill the window for a moving picture
    ([`unseen_share`][salfom_hf.inference.cuts.unseen_share]).
    """
    framewise = isinstance(model, torch.nn.Module) and sees_single_frames(model)
    compiled = getattr(model, "_compiled_call_impl", None) is not None
    num_frames = model.config.num_frames
    window: deque[torch.Tensor] = deque(maxlen=num_frames)
    size = (0, 0)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal size
        size = pixels.shape[-2], pixels.shape[-1]
        with stage("encoder"):
            return model.encode_frames(pixels)

    def take(frame: torch.Tensor) -> None:
        window.extend([frame] * (1 if window else num_frames))

    def key_maps() -> Iterator[Map]:
        keys = key_frames(encoded(encode, frames, batch_size) if framewise else frames, stride, take)
        for batch in batched(((index, torch.stack(tuple(window))) for index in keys), batch_size):
            indices, clips = zip(*batch, strict=True)
            if compiled:  # A batch of another size would be compiled again.
                clips += clips[-1:] * (batch_size - len(clips))
            windows = torch.stack(clips)
            with stage("network"):
                if framewise:
                    shares = [unseen_share(index, num_frames) for index in indices]
                    unseen = windows.new_tensor(shares) if after_cut else None
                    maps = model.decode(windows.transpose(1, 2), size, unseen).sigmoid()
                else:
                    maps = model(windows).saliency
            yield from zip(indices, maps.float(), strict=False)

    yield from interpolated(key_maps())
