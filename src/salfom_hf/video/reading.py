"""Videos and pictures to frames: uint8 (height, width, 3) RGB, upright, with their times."""

import io
import itertools
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

from ..errors import CutOffError, Item, VideoError, refuse_pipe, reported, until_cut_off
from .frames import decoder_of, fit, image_of, shown_size
from .pictures import IMAGE_RATE, animation, image_files, lengths_in, load_image, num_pictures
from .timing import steadied

VIDEO_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264"),
        *(".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv"),
        *(".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm"),
        *(".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"),
    }
)
MIN_SIDE = 16  # pixels
_MOST_FRAMES = 1000  # per second; what says more does not know
FILE_PROTOCOL = "file:"  # Keeps a colon in a file's name from being taken for a network protocol.
# Matroska rounds timestamps to milliseconds, so a frame may lie half of one before the time it stands for.
_TOLERANCE = Fraction(1, 2000)
_PLACES = 40  # of a file that is searched by its times, which are looked at beforehand
_STEP_BACK = Fraction(1, 5)  # seconds by which a time may be a guess
# Tracks that are no video of their own: covers, chapters' pictures and parts of another track.
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
_PHOTOS = ("avif", "heic", "heix", "mif1")
# Called with the width and height, in pixels, of what a video's decoder holds.
Check = Callable[[int, int], None]
# A frame's timestamp, how long it is shown as far as the file says, in seconds, and what makes its image.
_Timed = tuple[Fraction, Fraction, Callable[[tuple[int, int]], np.ndarray]]


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a source before reading all of it."""

    path: Path
    width: int  # square pixels, after rotation
    height: int
    frame_rate: Fraction  # the average, in frames per second
    num_frames: int | None  # an estimate
    duration: float | None  # seconds
    has_audio: bool


class Frame(NamedTuple):
    """
    One picture: `image` is uint8 (height, width, 3) RGB; `timestamp`, from the source's beginning, and `duration`, for
    which it is shown, are in seconds.
    """

    image: np.ndarray
    timestamp: Fraction
    duration: Fraction | None = None


def probe(path: str | os.PathLike[str], check: Check | None = None) -> VideoInfo:
    """Describe a video file, image or folder of images; its first frame is decoded.

    Args:
        check: see `read_frames`.

    Raises:
        VideoError: the source cannot be read, has no frames, or is smaller than 16 pixels on a side.
    """
    return _source(Path(path), check)[0]


def read_frames(
    path: str | os.PathLike[str],
    start: float = 0.0,
    duration: float | None = None,
    check: Check | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """Yield the frames shown from `start` for `duration` (both in seconds), decoding as it goes.

    The first is the frame on screen at `start`, which becomes its timestamp; no frame is shown beyond the range.

    Memory does not grow with the length of the source. Timestamps strictly increase and are those of the source, even
    when it varies its frame rate; frames without one follow at the average rate. Every frame has the size that `probe`
    gives: those of another size, as in a folder of mixed images, are scaled to it. Damaged parts are skipped, as
    players do.

    Args:
        check: for a video file, called before every packet is decoded and before every frame is converted, from the
            file's first one that has to be decoded for `start` on; what it raises, no `VideoError`, ends the reading.
        size: height and width in pixels to which frames are scaled, in one step with decoding; by default those of
            `probe`.

    Raises:
        ValueError: a size below 1, on the first `next`.
        VideoError: on the first `next`, whatever `probe` raises, or no frame lies in the range; later, an image of the
            folder is damaged, or the file turns out to break off early (a `CutOffError` after its last whole frame).
    """
    path = Path(path)
    if not 0 <= start < math.inf:
        raise VideoError(f"Cannot read {path} from {start} s; give a start of 0 or more seconds.")
    if duration is not None and not duration > 0:
        raise VideoError(f"Cannot read {duration} s of {path}; give a duration of more than 0 seconds.")
    if size is not None and min(size) < 1:
        raise ValueError(f"The size of frames must be 1 or more pixels a side, not {size}.")
    info, frames_from = _source(path, check)
    size = size or (info.height, info.width)
    first, length = exact_part(start, duration)
    end = None if length is None else first + length
    empty = True
    for (timestamp, shown_for, load), following in _with_next(frames_from(first)):
        if end is not None and timestamp >= end - _TOLERANCE:
            break
        until = following[0] if following else timestamp + shown_for
        if until > first + _TOLERANCE:
            empty, timestamp = False, max(timestamp, first)
            until = until if end is None else min(until, end)
            with reported(f"Cannot read {path} at {float(timestamp):.2f} s", "a frame is damaged: end before it"):
                image = fit(load(size), size)
            yield Frame(image, timestamp, until - timestamp)
    if empty:
        before = "" if end is None else f" and before {float(end):.2f} s"
        which = "" if info.duration is None else f", which is {info.duration:.2f} s long"
        raise VideoError(f"No frame at or after {float(first):.2f} s{before} in {path}{which}; choose another range.")


def frames_there(path: Path, size: tuple[int, int] | None = None) -> Iterator[Frame]:
    """As [`read_frames`]; where the source breaks off, a line on stderr says so in place of an error."""
    ended: list[CutOffError] = []
    yield from until_cut_off(read_frames(path, size=size), ended)
    for error in ended:
        print(f"salfom: {error}", file=sys.stderr)


def _with_next(items: Iterable[Item]) -> Iterator[tuple[Item, Item | None]]:
    """Each item with the one after it, if any; what cuts them off comes after the last."""
    ended: list[CutOffError] = []
    yield from itertools.pairwise(itertools.chain(until_cut_off(items, ended), [None]))  # type: ignore[misc]
    for error in ended:
        raise error


def _source(path: Path, check: Check | None) -> tuple[VideoInfo, Callable[[Fraction], Iterable[_Timed]]]:
    """What is known of a source, and what gives its frames: those shown from a time on, and maybe some before."""
    if num_pictures(path) > 1:
        lengths = lengths_in(path, path.stat().st_mtime_ns)
        loads = (lambda _, shown=shown: np.asarray(shown) for _, shown in animation(path))
        height, width, _ = next(animation(path))[1].shape
    elif images := image_files(path):
        first = load_image(images[0])  # A photo of today's phones takes a tenth of a second.
        lengths = [1 / IMAGE_RATE] * len(images)
        loads = (lambda _, file=file: first if file == images[0] else load_image(file) for file in images)
        height, width, _ = first.shape
    else:
        lengths = []
        info, frames_from = _video(path, check)
    if lengths:
        whole, begins = sum(lengths, Fraction(0)), itertools.accumulate(lengths, initial=Fraction(0))
        info = VideoInfo(path, width, height, len(lengths) / whole, len(lengths), float(whole), False)
        frames_from = lambda start: zip(begins, lengths, loads, strict=False)  # noqa: E731
    if min(info.width, info.height) < MIN_SIDE:
        raise VideoError(f"{path} is {info.width}x{info.height} pixels; use one of at least {MIN_SIDE}x{MIN_SIDE}.")
    return info, frames_from


def exact_part(start: float, duration: float | None) -> tuple[Fraction, Fraction | None]:
    """Start and length in seconds, to the microsecond; no length is up to the end."""
    length = None if duration is None or duration == math.inf else Fraction(duration).limit_denominator(10**6)
    # FFmpeg counts to 2⁶³ microseconds; no video begins after 10⁹ seconds.
    return Fraction(min(start, 10**9)).limit_denominator(10**6), length


@contextmanager
def opened(source: Path | bytes) -> Iterator[InputContainer]:
    """Open a video file, given as its path or as its bytes."""
    if isinstance(source, Path):
        refuse_pipe(source)
    with reported(f"Cannot read {name_of(source)} as a video", "it may be damaged, incomplete or no video at all"):
        container = av.open(io.BytesIO(source) if isinstance(source, bytes) else f"{FILE_PROTOCOL}{source}", "r")
    with container:
        yield container


def name_of(source: Path | bytes) -> str:
    return f"a video file of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def video_stream(container: InputContainer) -> Any:
    """Return the track that players show: the default one, else the largest; no cover and no plain text, as FFmpeg."""
    if container.format.name == "tty":
        return None
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & _NO_VIDEO]
    return max(streams, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height), default=None)


def playable_stream(container: InputContainer, source: Path | bytes) -> Any:
    """As `video_stream`, of `source`, which must have one."""
    if container.metadata.get("major_brand") in _PHOTOS and len(container.streams.video) > 1:
        # FFmpeg takes its tiles for tracks.
        raise VideoError(f"{name_of(source)} is a photo of several parts, as phones write; convert it to JPEG or PNG.")
    stream = video_stream(container)
    if stream is None:
        raise VideoError(
            f"{name_of(source)} is not a video that can be decoded; give a video, an image or a folder of images."
        )
    return stream


def demuxed(container: InputContainer, *streams: Any) -> Iterator[Any]:
    """The packets of these streams, or of all."""
    with suppress(IndexError):  # PyAV's end of a file in which a stream appeared after it was opened.
        yield from container.demux(*streams)


def comes_untimed(container: InputContainer, stream: Any) -> bool:
    """
    Whether FFmpeg only guesses the times of showing: AVI has none, and with these codecs pictures may wait for several
    others. All that is known is that they come one after the other, as their packets do.
    """
    context = stream.codec_context
    may_wait = context.name in ("h264", "hevc") or (context.name == "mpeg4" and context.has_b_frames)
    return container.format.name == "avi" and may_wait


def sampled(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The first packet of a stream after each of some places all over an MPEG file, which begins again after that."""
    try:
        for place in range(0, container.size, max(container.size // _PLACES, 1)):
            with suppress(av.FFmpegError):
                container.seek(place, unsupported_byte_offset=True)
                yield from itertools.islice((p for p in demuxed(container, stream) if p.dts is not None), 1)
    finally:
        with suppress(av.FFmpegError):
            container.seek(0, unsupported_byte_offset=True)


def starts_anew(container: InputContainer, stream: Any) -> bool:
    """
    Whether an MPEG file's clock goes back somewhere, as where recordings are joined: those have no index, and are
    searched by their times.
    """
    if container.format.name not in ("mpeg", "mpegts"):
        return False
    slack = _STEP_BACK / stream.time_base
    return any(later.dts < packet.dts - slack for packet, later in itertools.pairwise(sampled(container, stream)))


def rate_of(container: InputContainer, stream: Any) -> Fraction | None:
    """The average of frames per second, as far as the header tells; to be asked before decoding moves it."""
    average, guessed = stream.average_rate, stream.guessed_rate
    # The average counts the empty packet that may stand next to each picture in AVI; in DV it is the ticks of a clock.
    if average and guessed and (comes_untimed(container, stream) or average > _MOST_FRAMES):
        return guessed
    return average or guessed


def origin_of(container: InputContainer, stream: Any) -> Fraction:
    """Return the time, in seconds, that the file gives to its beginning, in whole ticks of its video's clock."""
    begins = Fraction(max(container.start_time or 0, 0), av.time_base)  # Below zero there is only audio priming.
    if stream is None or stream.start_time is None:
        return begins
    return min(round(begins / stream.time_base), stream.start_time) * stream.time_base


def _video(path: Path, check: Check | None) -> tuple[VideoInfo, Callable[[Fraction], Iterable[_Timed]]]:
    """As `_source`, of a video file."""
    with opened(path) as container:
        stream = playable_stream(container, path)
        # Decoding moves the stream's own numbers, so what the header says is noted first.
        rate, untimed = rate_of(container, stream) or IMAGE_RATE, comes_untimed(container, stream)
        ticks, micros, num_frames = stream.duration, container.duration, stream.frames
        duration = float(ticks * stream.time_base) if ticks else micros / av.time_base if micros else None
        if duration is not None and (not num_frames or untimed):
            num_frames = round(duration * rate)
        try:
            frame = next(_decoded(container, stream, rate, check), None)
        except CutOffError as error:
            raise VideoError(f"{path} breaks off before its first frame; download or copy it again.") from error
        if frame is None:
            raise VideoError(f"{path} has no frame that can be decoded; check that it plays.")
        # Where only the order tells when a picture is shown: ticks from a packet to the picture that comes by it.
        delay = (frame.dts or 0) - (frame.pts or 0) if untimed else 0
        width, height = shown_size(frame, stream.sample_aspect_ratio)
        is_joined = starts_anew(container, stream)
        if is_joined:  # What is known is that of its last part.
            num_frames = duration = None
        info = VideoInfo(path, width, height, rate, num_frames or None, duration, bool(container.streams.audio))

    def frames_from(start: Fraction) -> Iterable[_Timed]:
        for margin in (0, 10) if start and not is_joined else ():
            frames = _timed_video(info, max(start - margin, Fraction(0)), delay, check)
            # Some formats are searched by guessing and land too late, and a broken file may have nothing there.
            with suppress(VideoError):
                found = next(frames, None)
                if found is not None and found[0] <= start:
                    return itertools.chain([found], frames)
            frames.close()
        return _timed_video(info, None, delay, check)

    return info, frames_from


def _decoded(container: InputContainer, stream: Any, rate: Fraction, check: Check | None) -> Iterator[av.VideoFrame]:
    """Yield what decodes; raise a `CutOffError` at the end of a file that lacks some of what its header promises."""
    decoder = decoder_of(stream)
    decoder.thread_type = "AUTO"
    untimed = comes_untimed(container, stream)
    # Matroska notes the length of the longest stream and MP4 that of each; FFmpeg may guess it for other formats.
    alone, expected, slack = "mov" in container.format.name, 0.0, 1 + 2 / rate
    if container.format.name == "avi" and stream.frames > (stream.duration or 0):
        # FFmpeg estimates the duration of a file that is smaller than its header says.
        expected, slack = float(stream.frames * stream.time_base), 2 / rate
    elif alone:
        expected = float(((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base)
    elif "matroska" in container.format.name:
        expected = (container.duration or 0) / av.time_base
    reached: float = 0.0
    is_torn = False
    failure: Exception | None = None

    def arriving() -> Iterator[Any]:
        nonlocal reached, is_torn, failure
        try:
            for packet in demuxed(container, *([stream, *container.streams.audio] if alone else [])):
                if packet.pts is not None and (not alone or packet.stream.index == stream.index):
                    reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                is_torn = packet.is_corrupt if packet.size else is_torn
                yield packet
        except (av.FFmpegError, OSError) as error:
            failure = error

    for packet in itertools.chain(steadied(arriving(), stream, container.streams.audio), [None]):
        if check is not None:
            check(stream.codec_context.width, stream.codec_context.height)
        if packet is None or packet.stream.index == stream.index:
            if packet is not None and untimed:
                packet.pts = packet.dts  # Decoders hand that on; with `frame.dts` it tells how long pictures wait.
            with suppress(av.FFmpegError):  # One bad packet is no reason to stop.
                for frame in decoder.decode(packet):
                    if check is not None:
                        check(frame.width, frame.height)
                    yield frame
    # Recordings of broadcasts, in MPEG, begin and end anywhere.
    is_torn = is_torn and container.format.name not in ("mpeg", "mpegts")
    if failure or is_torn or expected - reached > slack:
        path = container.name.removeprefix(FILE_PROTOCOL)
        raise CutOffError(
            f"{path} breaks off after {reached:.2f} s; download or copy it again, or end before then."
        ) from failure


def _timed_video(
    info: VideoInfo, seek_to: Fraction | None, delay: int, check: Check | None
) -> Generator[_Timed, None, None]:
    """Yield the frames; their timestamps strictly increase."""
    with opened(info.path) as container:
        stream = video_stream(container)
        origin, tick, period = origin_of(container, stream), stream.time_base, 1 / info.frame_rate
        untimed = comes_untimed(container, stream)
        if seek_to is not None and stream.start_time is not None:
            with suppress(av.FFmpegError):
                container.seek(round((seek_to + origin) / tick), stream=stream)
        last: Fraction | None = None

        def time_of(frame: Any) -> Fraction | None:
            if frame is None:
                return None
            ticks = frame.dts if untimed or (frame.pts is None and last is None) else frame.pts
            return None if ticks is None else (ticks - delay) * tick - origin

        for frame, following in _with_next(_decoded(container, stream, info.frame_rate, check)):
            now, after = time_of(frame), time_of(following)
            if last is None:
                now = max(now or Fraction(0), Fraction(0))
            elif now is None:
                now = last + period
            elif now <= last or (after is not None and last < after < now):
                # Between its neighbours, which keep their times.
                now = last + period / 2 if after is None or after <= last else (last + after) / 2
            last = now
            length = frame.duration * tick if frame.duration and not untimed else period
            yield now, length, partial(image_of, frame)
