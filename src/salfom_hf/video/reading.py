"""Videos and pictures to frames: uint8 (height, width, 3) RGB, upright, with their times."""

import io
import itertools
import math
import os
import re
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
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import VideoError, advice_for, listed, reason_of, refuse_pipe, reported
from .timing import steadied

# Images that are read and written, and those that are read too where Pillow can.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
READ_IMAGES = IMAGE_SUFFIXES | {".avif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".pgm", ".pnm", ".ppm", ".tga"}
VIDEO_SUFFIXES = frozenset(
    {
        *(".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264"),
        *(".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv"),
        *(".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm"),
        *(".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"),
    }
)
IMAGE_RATE = Fraction(25)
MIN_SIDE = 16  # pixels
FILE_PROTOCOL = "file:"  # Keeps a colon in a file's name from being taken for a network protocol.
# Matroska rounds timestamps to milliseconds, so a frame may lie half of one before the time it stands for.
_TOLERANCE = Fraction(1, 2000)
# Since PyAV 17 each frame's conversion starts threads of its own, which takes longer than the conversion.
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}
# Called with the width and height, in pixels, of what a video's decoder holds.
Check = Callable[[int, int], None]
# A frame's timestamp, and what makes its image.
_Timed = tuple[Fraction, Callable[[], np.ndarray]]


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a source before reading all of it."""

    path: Path
    width: int  # pixels, after rotation
    height: int
    frame_rate: Fraction  # the average, in frames per second
    num_frames: int | None  # an estimate
    duration: float | None  # seconds
    has_audio: bool


class Frame(NamedTuple):
    """One picture: `image` is uint8 (height, width, 3) RGB; `timestamp` is in seconds from the source's beginning."""

    image: np.ndarray
    timestamp: Fraction


def probe(path: str | os.PathLike[str], check: Check | None = None) -> VideoInfo:
    """Describe a video file, image or folder of images; its first frame is decoded.

    Args:
        check: see `read_frames`.

    Raises:
        VideoError: the source cannot be read, has no frames, or is smaller than 16 pixels on a side.
    """
    path = Path(path)
    images = image_files(path)
    if images:
        height, width, _ = load_image(images[0]).shape
        info = VideoInfo(path, width, height, IMAGE_RATE, len(images), float(len(images) / IMAGE_RATE), False)
    else:
        info = _probe_video(path, check)
    if min(info.width, info.height) < MIN_SIDE:
        raise VideoError(f"{path} is {info.width}x{info.height} pixels; use one of at least {MIN_SIDE}x{MIN_SIDE}.")
    return info


def read_frames(
    path: str | os.PathLike[str], start: float = 0.0, duration: float | None = None, check: Check | None = None
) -> Iterator[Frame]:
    """Yield the frames with `start` <= timestamp < `start` + `duration` (both in seconds), decoding as it goes.

    Memory does not grow with the length of the source. Timestamps strictly increase and are those of the source, even
    when it varies its frame rate; frames without one follow at the average rate. Every frame has the size that `probe`
    gives: those of another size, as in a folder of mixed images, are scaled to it. Damaged parts are skipped, as
    players do.

    Args:
        check: for a video file, called before every packet is decoded and before every frame is converted, from the
            file's first one that has to be decoded for `start` on; what it raises, no `VideoError`, ends the reading.

    Raises:
        VideoError: on the first `next`, whatever `probe` raises, or no frame lies in the range; later, an image of the
            folder is damaged, or the file turns out to break off early (raised after its last whole frame).
    """
    path = Path(path)
    if not 0 <= start < math.inf:
        raise VideoError(f"Cannot read {path} from {start} s; give a start of 0 or more seconds.")
    if duration is not None and not duration > 0:
        raise VideoError(f"Cannot read {duration} s of {path}; give a duration of more than 0 seconds.")
    info = probe(path, check)
    first, length = exact_part(start, duration)
    end = None if length is None else first + length - _TOLERANCE
    images = image_files(path)
    timed: Iterable[_Timed]
    if images:
        timed = ((number / IMAGE_RATE, partial(load_image, file)) for number, file in enumerate(images))
    else:
        timed = _seek_video(info, first, check)
    empty = True
    for timestamp, load in timed:
        if end is not None and timestamp >= end:
            break
        if timestamp >= first - _TOLERANCE:
            empty = False
            yield Frame(_fit(load(), (info.height, info.width)), timestamp)
    if empty:
        until = "" if end is None else f" and before {float(end):.2f} s"
        which = "" if info.duration is None else f", which is {info.duration:.2f} s long"
        raise VideoError(f"No frame at or after {start:.2f} s{until} in {path}{which}; choose another range.")


def exact_part(start: float, duration: float | None) -> tuple[Fraction, Fraction | None]:
    """Start and length in seconds, to the microsecond; no length is up to the end."""
    length = None if duration is None or duration == math.inf else Fraction(duration).limit_denominator(10**6)
    return Fraction(start).limit_denominator(10**6), length


def image_of(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a decoded frame as uint8 (height, width, 3) RGB, upright, scaled to `size` (height, width) if given."""
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        image = _over_black(frame.to_ndarray(format="rgba", **ONE_THREAD))
    else:
        image = frame.to_ndarray(format="rgb24", **ONE_THREAD)
    image = np.ascontiguousarray(np.rot90(image, quarter_turns(frame)))
    return image if size is None else _fit(image, size)


def quarter_turns(frame: av.VideoFrame) -> int:
    """Return how many quarter turns counterclockwise set the frame upright."""
    return round(frame.rotation / 90) % 4


def image_files(path: Path) -> list[Path]:
    """Return the images that a folder or a single image stands for, in natural order; none for a video file."""
    if str(path) == "-":
        raise VideoError("- is standard input and not a file; `salfom live -` shows what is piped in.")
    if not os.path.lexists(path):
        raise VideoError(f"There is no file or folder {path}; check the path.")
    if not path.is_dir():
        return [path] if path.suffix.lower() in READ_IMAGES else []
    with reported(f"Cannot read the folder {path}"):
        files = [f for f in path.iterdir() if f.suffix.lower() in READ_IMAGES and not f.name.startswith(".")]
    if not files:
        raise VideoError(f"The folder {path} has no images; give one with {listed(IMAGE_SUFFIXES)} files.")
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[int | str], str]:
    parts = re.split(r"([0-9]+)", file.name.lower())
    return [int(part) if part.isdigit() else part for part in parts], file.name


def load_image(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """Read an image file, given as its path or its bytes, as uint8 (height, width, 3) RGB; errors call it `name`."""
    if isinstance(source, Path):
        refuse_pipe(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            return rgb_of(file)
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        name = name or str(source)
        unknown = isinstance(error, UnidentifiedImageError) and Path(name).suffix.lower() not in IMAGE_SUFFIXES
        advice = "convert it to JPEG or PNG" if unknown else "replace or remove it"
        raise VideoError(f"Cannot read the image {name} ({reason_of(error)}); {advice_for(error, advice)}.") from error


def rgb_of(image: Image.Image) -> np.ndarray:
    """
    A picture as uint8 (height, width, 3) RGB: upright by its EXIF data, 16-bit grey scaled, transparency over black.

    Raises:
        ValueError: its values are floats, and are not in 0…255 or seem to be in 0…1.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 rather than scale it; 32 bits may hold 8 or 16.
        pixels = np.asarray(image).astype(np.int64)
        bits = 8 if image.mode != "I" or pixels.max() > 255 else 0
        image = Image.fromarray((pixels >> bits).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        pixels = np.asarray(image)
        if not (pixels.min() >= 0 and pixels.max() <= 255) or 0 < pixels.max() <= 1:
            raise ValueError(f"it holds floats in {pixels.min():g}…{pixels.max():g}, not in 0…255: scale them")
    transparent = image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info
    return _over_black(np.asarray(image.convert("RGBA"))) if transparent else np.array(image.convert("RGB"))


def _over_black(rgba: np.ndarray) -> np.ndarray:
    rgb, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:]
    return ((rgb * alpha + 127) // 255).astype(np.uint8)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


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
    """Return the first moving picture: a song's cover is no video, and FFmpeg would even play plain text as one."""
    if container.format.name == "tty":
        return None
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((s for s in streams if s.codec_context is not None), None)


def playable_stream(container: InputContainer, source: Path | bytes) -> Any:
    """As `video_stream`, of `source`, which must have one."""
    stream = video_stream(container)
    if stream is None:
        raise VideoError(
            f"{name_of(source)} is not a video that can be decoded; give a video, an image or a folder of images."
        )
    return stream


def origin_of(container: InputContainer, stream: Any) -> Fraction:
    """Return the time, in seconds, that the file gives to its beginning, in whole ticks of its video's clock."""
    begins = Fraction(max(container.start_time or 0, 0), av.time_base)  # Below zero there is only audio priming.
    if stream is None or stream.start_time is None:
        return begins
    return min(round(begins / stream.time_base), stream.start_time) * stream.time_base


def _probe_video(path: Path, check: Check | None) -> VideoInfo:
    with opened(path) as container:
        stream = playable_stream(container, path)
        # Decoding moves the stream's own numbers, so what the header says is noted first.
        rate = stream.average_rate or stream.guessed_rate or IMAGE_RATE
        ticks, micros, num_frames = stream.duration, container.duration, stream.frames
        duration = float(ticks * stream.time_base) if ticks else micros / av.time_base if micros else None
        if not num_frames and duration is not None:
            num_frames = round(duration * rate)
        try:
            frame = next(_decoded(container, stream, rate, check), None)
        except VideoError as error:
            raise VideoError(f"{path} breaks off before its first frame; download or copy it again.") from error
        if frame is None:
            raise VideoError(f"{path} has no frame that can be decoded; check that it plays.")
        width, height = (frame.height, frame.width) if quarter_turns(frame) % 2 else (frame.width, frame.height)
        return VideoInfo(path, width, height, rate, num_frames or None, duration, bool(container.streams.audio))


def _decoded(container: InputContainer, stream: Any, rate: Fraction, check: Check | None) -> Iterator[av.VideoFrame]:
    """Yield what decodes; raise a `VideoError` at the end of a file that lacks some of what its header promises."""
    stream.thread_type = "AUTO"
    # Matroska notes the length of the longest stream and MP4 that of each; FFmpeg may guess it for other formats.
    alone, expected = "mov" in container.format.name, 0.0
    if alone:
        expected = float(((stream.start_time or 0) + (stream.duration or 0)) * stream.time_base)
    elif "matroska" in container.format.name:
        expected = (container.duration or 0) / av.time_base
    reached: float = 0.0
    failure: Exception | None = None

    def arriving() -> Iterator[Any]:
        nonlocal reached, failure
        try:
            for packet in container.demux(stream, *container.streams.audio) if alone else container.demux():
                if packet.pts is not None and (not alone or packet.stream.index == stream.index):
                    reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                yield packet
        except (av.FFmpegError, OSError) as error:
            failure = error

    for packet in itertools.chain(steadied(arriving(), stream, container.streams.audio), [None]):
        if check is not None:
            check(stream.codec_context.width, stream.codec_context.height)
        if packet is None or packet.stream.index == stream.index:
            with suppress(av.FFmpegError):  # One bad packet is no reason to stop.
                for frame in stream.decode(packet):
                    if check is not None:
                        check(frame.width, frame.height)
                    yield frame
    if failure or expected - reached > 1 + 2 / rate:
        path = container.name.removeprefix(FILE_PROTOCOL)
        raise VideoError(
            f"{path} breaks off after {reached:.2f} s; download or copy it again, or end before then."
        ) from failure


def _timed_video(info: VideoInfo, seek_to: Fraction | None, check: Check | None) -> Generator[_Timed, None, None]:
    """Yield the frames; their timestamps strictly increase."""
    with opened(info.path) as container:
        stream = video_stream(container)
        origin, tick, period = origin_of(container, stream), stream.time_base, 1 / info.frame_rate
        if seek_to is not None and stream.start_time is not None:
            with suppress(av.FFmpegError):
                container.seek(round((seek_to + origin) / tick), stream=stream)
        last = None
        frames = itertools.chain[Any](_decoded(container, stream, info.frame_rate, check), [None])
        for frame, following in itertools.pairwise(frames):
            ticks = frame.dts if frame.pts is None and last is None else frame.pts
            now = None if ticks is None else ticks * tick - origin
            after = None if following is None or following.pts is None else following.pts * tick - origin
            if last is None:
                now = max(now or Fraction(0), Fraction(0))
            elif now is None:
                now = last + period
            elif now <= last or (after is not None and last < after < now):
                # Between its neighbours, which keep their times.
                now = last + period / 2 if after is None or after <= last else (last + after) / 2
            last = now
            yield now, partial(image_of, frame)


def _seek_video(info: VideoInfo, start: Fraction, check: Check | None) -> Iterable[_Timed]:
    """The frames from `start` or somewhat before it on."""
    for margin in (0, 10) if start else ():
        frames = _timed_video(info, max(start - margin, Fraction(0)), check)
        # Some formats are searched by guessing and land too late, and a broken file may have nothing there.
        with suppress(VideoError):
            found = next(frames, None)
            if found is not None and found[0] <= start:
                return itertools.chain([found], frames)
        frames.close()
    return _timed_video(info, None, check)
