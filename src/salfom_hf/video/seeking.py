"""Single frames of a video by their numbers, without decoding what stands before them."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer

from ..errors import VideoError, reported
from .frames import decoder_of, fit, image_of, is_turned, square_pixels
from .pictures import animation, num_pictures
from .reading import comes_untimed, demuxed, name_of, opened, playable_stream

# Codecs whose packets hold just one frame that is shown, as demuxers cut them.
_ONE_FRAME_PER_PACKET = frozenset({"av1", "h264", "hevc", "libdav1d", "mjpeg", "mpeg2video", "mpeg4", "vp9"})

_MIN_MPEG4_PACKET = 20  # bytes; smaller ones may say that there is no new frame


def read_frames_at(
    source: str | os.PathLike[str] | bytes, indices: Iterable[int], missing_at_end: int = 0
) -> Iterator[np.ndarray]:
    """Yield the frames of a video file that have these numbers, decoding from the key frame before the first one.

    Frames are numbered from 0 in the order in which `read_frames` yields all of them. Which frame a packet of the file
    holds is found without decoding, where the file leaves no doubt about it; else the file is decoded once. What was
    found is remembered for files (not for bytes) until they change. After a damaged part, numbers may count frames
    that `read_frames` leaves out; to ask for one of those is an error.

    Args:
        source: the path of a video file or animated picture, or the whole file as bytes.
        indices: strictly increasing, 0 or more.
        missing_at_end: so many frames may be asked for beyond the last one, which is given in their place.

    Yields:
        uint8 (height, width, 3), RGB, all of the size of the first frame.

    Raises:
        VideoError: the file cannot be read, or has fewer frames.
        ValueError: the indices do not increase. Both come on the first `next`.
    """
    indices = list(indices)
    if any(a >= b for a, b in itertools.pairwise([-1, *indices])):
        raise ValueError(f"The numbers of frames must be 0 or more and increase, not {indices}.")
    if not indices:
        return
    if not isinstance(source, bytes):
        source = Path(source)
        with reported(f"Cannot read {source}"):
            state = source.stat()
    if (count := num_pictures(source)) > 1:
        indices = _existing(indices, count, missing_at_end, source)
        size = next(animation(source))[1].shape[:2]
        for place, (_, image) in enumerate(animation(source)):
            for _ in range(indices.count(place)):
                yield fit(image, size)
        return
    if isinstance(source, bytes):
        index = _build_index(source)
    else:
        index = _index_of_file(source, state.st_mtime_ns, state.st_size)
    indices = _existing(indices, len(index.order), missing_at_end, source)
    position = 0
    # Should the decoder want more than the key frame before, decoding begins again where it always works.
    for key in dict.fromkeys((index.key_before(indices[0]), 0)):
        for number, frame in _numbered(source, key, index):
            while position < len(indices) and number == index.order[indices[position]]:
                size = (index.width, index.height) if is_turned(frame) else (index.height, index.width)
                with reported(f"Cannot read {name_of(source)}", f"its frame {indices[position]} is damaged"):
                    image = image_of(frame, size)
                yield image
                position += 1
            if position == len(indices):
                return
    raise VideoError(f"{name_of(source)} cannot be decoded at frame {indices[position]}; download or copy it again.")


def _existing(indices: list[int], count: int, missing_at_end: int, source: Path | bytes) -> list[int]:
    """The numbers, with the last one of `count` frames in place of those beyond it that may be missing."""
    if not count or indices[-1] >= count + missing_at_end:
        raise VideoError(
            f"{name_of(source)} has {count} frames; there is no frame with the number {indices[-1]}, counted from 0."
        )
    return [min(number, count - 1) for number in indices]


@dataclass(frozen=True)
class _FrameIndex:
    """Where a video file keeps its frames. A packet's number is its place in the file."""

    width: int  # square pixels, before rotation
    height: int
    order: np.ndarray  # the number of each frame's packet, in the order of showing
    counted: bool  # Packets do not hold one frame each; the numbers are those of the frames themselves.
    shown: dict[int, int]  # number of a key packet → place of its frame in `order`
    times: dict[int, int]  # number of a key packet → what to seek for it, in ticks
    known: dict[tuple[int, int], int]  # place in bytes and size of a key packet → its number

    def key_before(self, index: int) -> int:
        """The number of the last key packet whose frame is shown no later than the frame `index`."""
        return max((key for key, shown in self.shown.items() if shown <= index), default=0)


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    place: int | None
    size: int
    is_key: bool
    is_doubtful: bool


def _build_index(source: Path | bytes) -> _FrameIndex:
    with opened(source) as container:
        stream = playable_stream(container, source)
        context = stream.codec_context
        if not (context.width and context.height):
            raise VideoError(f"{name_of(source)} has no frame that can be decoded; check that it plays.")
        width, height = square_pixels(context.width, context.height, stream.sample_aspect_ratio)
        codec, reorders = context.name, bool(context.has_b_frames)
        packets = [
            _Packet(p.pts, p.dts, p.pos, p.size, p.is_keyframe, p.is_corrupt or p.is_discard)
            for p in _whole_packets(container, stream)
        ]
        # MPEG-4's times are late where FFmpeg guesses them, but their order is right.
        untimed = comes_untimed(container, stream) and codec != "mpeg4"
    order, counted = None if untimed else _shown_order(packets, codec, reorders), False
    if order is None:
        decoded = [number for number, _ in _numbered(source)]
        order = [number for number in decoded if number is not None]
        counted = len(set(order)) < len(decoded)
        if counted:
            order = list(range(len(decoded)))
    places = {number: place for place, number in enumerate(order)}
    keys = {n: packet for n, packet in enumerate(packets) if packet.is_key and n in places and not counted}
    both = {n: [time for time in (packet.pts, packet.dts) if time is not None] for n, packet in keys.items()}
    times = {n: min(either) for n, either in both.items() if either}
    known = {(packet.place, packet.size): n for n, packet in keys.items() if packet.place is not None}
    return _FrameIndex(width, height, np.array(order), counted, {n: places[n] for n in keys}, times, known)


@lru_cache(maxsize=4096)
def _index_of_file(path: Path, modified: int, size: int) -> _FrameIndex:
    return _build_index(path)


def _shown_order(packets: list[_Packet], codec: str, reorders: bool) -> list[int] | None:
    """Return the packets' numbers in the order of showing, or None where only decoding can tell."""
    if not packets or codec not in _ONE_FRAME_PER_PACKET or any(p.is_doubtful or p.size == 0 for p in packets):
        return None
    if codec == "mpeg4" and min(p.size for p in packets) < _MIN_MPEG4_PACKET:
        return None
    pts, dts = [p.pts for p in packets if p.pts is not None], [p.dts for p in packets if p.dts is not None]
    if len(set(pts)) < len(packets) or any(a >= b for a, b in itertools.pairwise(dts)):
        return None
    # Frames shown before the file's first key frame are lost.
    if not packets[0].is_key or pts[0] > min(pts):
        return None
    order = sorted(range(len(pts)), key=pts.__getitem__)
    # A file that keeps times of decoding for times of showing gives itself away here.
    return order if reorders == (order != list(range(len(pts)))) else None


def _whole_packets(container: InputContainer, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream up to the end of the file, or up to where it breaks off."""
    with suppress(av.FFmpegError, OSError):
        for packet in demuxed(container, stream):
            if packet.size or packet.dts is not None:  # What has neither stands for the end.
                yield packet


def _numbered_packets(source: Path | bytes, key: int, index: _FrameIndex | None) -> Iterator[tuple[Any, int, Any]]:
    """Yield the decoder, and number and packet from the key packet `key` on; in the end -1 and None."""
    times, known = (index.times, index.known) if index else ({}, {})
    for seeks in (True, False) if key in times else (False,):
        with opened(source) as container:
            stream = playable_stream(container, source)
            # Threads that decode one frame each would decode as many beyond the last frame that is wanted.
            decoder = decoder_of(stream)
            decoder.thread_type = "SLICE"
            number = None if seeks else 0
            if seeks:
                with suppress(av.FFmpegError):
                    container.seek(times[key], stream=stream)
            for packet in _whole_packets(container, stream):
                if number is None:
                    number = known.get((packet.pos, packet.size))
                    if number is None or number > key:
                        break  # The search ended too late, or nobody knows where.
                if number >= key:
                    yield decoder, number, packet
                number += 1
            else:
                yield decoder, -1, None
                return


def _numbered(
    source: Path | bytes, key: int = 0, index: _FrameIndex | None = None
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Yield each frame that decodes from the key packet `key` on, with the number of its packet."""
    count = itertools.count()
    for decoder, number, packet in _numbered_packets(source, key, index):
        if packet is not None:
            packet.pts = number  # Decoders hand the time of showing on to the frame, whatever it says.
        with suppress(av.FFmpegError):
            for frame in decoder.decode(packet):
                yield next(count) if index is not None and index.counted else frame.pts, frame
