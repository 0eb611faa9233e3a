"""Single frames of a video by their numbers, without decoding what stands before them."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    state: tuple[int, ...] = ()
    if not isinstance(source, bytes):
        source = Path(source)
        with reported(f"Cannot read {source}"):
            status = source.stat()
        state = status.st_mtime_ns, status.st_size
    count = num_pictures(source)
    index = None if count > 1 else (_index_of if state else _index_of.__wrapped__)(source, *state)
    count = count if index is None else len(index.order)
    if not count or indices[-1] >= count + missing_at_end:
        raise VideoError(
            f"{name_of(source)} has {count} frames; there is no frame with the number {indices[-1]}, counted from 0."
        )
    indices = [min(number, count - 1) for number in indices]
    if index is None:
        size = next(animation(source))[1].shape[:2]
        for place, (_, image) in enumerate(animation(source)):
            yield from [fit(image, size)] * indices.count(place)
        return
    position = 0
    key = max((key for key, shown in index.shown.items() if shown <= indices[0]), default=0)
    # A search may end too late, and should the decoder want more than the key frame before, decoding begins again
    # where it always works.
    for begin in dict.fromkeys(((key, key in index.times), (key, False), (0, False))):
        for number, frame in _numbered(source, index, *begin):
            while position < len(indices) and number == index.order[indices[position]]:
                size = (index.width, index.height) if is_turned(frame) else (index.height, index.width)
                with reported(f"Cannot read {name_of(source)}", f"its frame {indices[position]} is damaged"):
                    image = image_of(frame, size)
                yield image
                position += 1
            if position == len(indices):
                return
    raise VideoError(f"{name_of(source)} cannot be decoded at frame {indices[position]}; download or copy it again.")


class _FrameIndex(NamedTuple):
    """Where a video file keeps its frames. A packet's number is its place in the file."""

    width: int  # square pixels, before rotation
    height: int
    order: np.ndarray  # the number of each frame's packet, in the order of showing
    counted: bool  # Packets do not hold one frame each; the numbers are those of the frames themselves.
    shown: dict[int, int]  # number of a key packet → place of its frame in `order`
    times: dict[int, int]  # number of a key packet → what to seek for it, in ticks
    known: dict[tuple[int, int], int]  # place in bytes and size of a key packet → its number


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    place: int | None
    size: int
    is_key: bool
    is_doubtful: bool


@lru_cache(maxsize=4096)
def _index_of(source: Path | bytes, *state: int) -> _FrameIndex:
    """The index of a file in this state."""
    with opened(source) as container:
        stream = playable_stream(container, source)
        context = stream.codec_context
        if not (context.width and context.height):
            raise VideoError(f"{name_of(source)} has no frame that can be decoded; check that it plays.")
        size = square_pixels(context.width, context.height, stream.sample_aspect_ratio)
        packets = [
            _Packet(p.pts, p.dts, p.pos, p.size, p.is_keyframe, p.is_corrupt or p.is_discard)
            for p in _whole_packets(container, stream)
        ]
        # MPEG-4's times are late where FFmpeg guesses them, but their order is right.
        untimed = comes_untimed(container, stream) and context.name != "mpeg4"
        order = None if untimed else _shown_order(packets, context.name, bool(context.has_b_frames))
    counted = False
    if order is None:
        decoded = [number for number, _ in _numbered(source)]
        order = [number for number in decoded if number is not None]
        counted = len(set(order)) < len(decoded)
    if counted:
        return _FrameIndex(*size, np.arange(len(decoded)), True, {}, {}, {})
    places = {number: place for place, number in enumerate(order)}
    keys = {n: packet for n, packet in enumerate(packets) if packet.is_key and n in places}
    both = {n: [time for time in (packet.pts, packet.dts) if time is not None] for n, packet in keys.items()}
    times = {n: min(either) for n, either in both.items() if either}
    known = {(packet.place, packet.size): n for n, packet in keys.items() if packet.place is not None}
    return _FrameIndex(*size, np.array(order), False, {n: places[n] for n in keys}, times, known)


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


def _numbered(
    source: Path | bytes, index: _FrameIndex | None = None, key: int = 0, seeks: bool = False
) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """
    Yield each frame that decodes from the key packet `key` on, with the number of its packet; none where the search
    for that packet ends too late, or nobody knows where.
    """
    count = itertools.count()
    with opened(source) as container:
        stream = playable_stream(container, source)
        # Threads that decode one frame each would decode as many beyond the last frame that is wanted.
        decoder = decoder_of(stream)
        decoder.thread_type = "SLICE"
        begin, packets = 0, itertools.chain(_whole_packets(container, stream), [None])
        if index is not None and seeks:
            with suppress(av.FFmpegError):
                container.seek(index.times[key], stream=stream)
            first = next(packets)
            begin = index.known.get((first.pos, first.size), key + 1) if first else key + 1
            if begin > key:
                return
            packets = itertools.chain([first], packets)
        for number, packet in enumerate(packets, begin):
            if packet is not None:
                if number < key:
                    continue
                packet.pts = number  # Decoders hand the time of showing on to the frame, whatever it says.
            with suppress(av.FFmpegError):
                for frame in decoder.decode(packet):
                    yield next(count) if index is not None and index.counted else frame.pts, frame
