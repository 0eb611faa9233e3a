"""Read frames from videos and images, and write videos, with PyAV.

A source is a video file in any format FFmpeg knows, one image, or a folder of images (a video of 25 frames
per second). Frames are RGB as FFmpeg converts them, upright (rotation metadata applied), with transparency put over
black; pixels are taken as square. Whatever is wrong with a file is reported as a `VideoError`.
"""

import itertools
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image, ImageOps

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
IMAGE_RATE = Fraction(25)
MIN_SIDE = 16  # pixels

_FILE = "file:"  # Keeps a colon in a file's name from being taken for a network protocol.
_BT709 = _LIMITED = 1  # FFmpeg's numbers for the colours written, which all players know.

# Matroska rounds timestamps to milliseconds, so a frame may lie half of one before the time it stands for.
_TOLERANCE = Fraction(1, 2000)

_X264 = ("libx264", {"preset": "veryfast", "crf": "18"})
_X264_FASTSTART = (*_X264, "aac", {"movflags": "+faststart"})
_VP9 = ("libvpx-vp9", {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"})
# Suffix: video encoder and its options, audio encoder for sound that cannot be copied, options of the container.
_FORMATS: dict[str, tuple[str, dict[str, str], str, dict[str, str]]] = {
    ".mp4": _X264_FASTSTART,
    ".mov": _X264_FASTSTART,
    ".mkv": (*_X264, "aac", {}),
    ".webm": (*_VP9, "libopus", {}),
}


class VideoError(Exception):
    """A file cannot be read or written; the message names it and says what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a source before reading all of it.

    `width` and `height` are in pixels, after rotation; `frame_rate` is the average, in frames per second; `num_frames`
    is an estimate; `duration` is in seconds.
    """

    path: Path
    width: int
    height: int
    frame_rate: Fraction
    num_frames: int | None
    duration: float | None
    has_audio: bool


class Frame(NamedTuple):
    """One picture: `image` is uint8 (height, width, 3) RGB; `timestamp` is in seconds from the source's beginning."""

    image: np.ndarray
    timestamp: Fraction


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Describe a video file, image or folder of images; its first frame is decoded.

    Raises:
        VideoError: the source cannot be read, has no frames, or is smaller than 16 pixels on a side.
    """
    path = Path(path)
    images = _image_files(path)
    if images:
        height, width, _ = _load_image(images[0]).shape
        info = VideoInfo(path, width, height, IMAGE_RATE, len(images), float(len(images) / IMAGE_RATE), False)
    else:
        info = _probe_video(path)
    if min(info.width, info.height) < MIN_SIDE:
        raise VideoError(f"{path} is {info.width}x{info.height} pixels; use one of at least {MIN_SIDE}x{MIN_SIDE}.")
    return info


def read_frames(path: str | os.PathLike[str], start: float = 0.0, duration: float | None = None) -> Iterator[Frame]:
    """Yield the frames with `start` <= timestamp < `start` + `duration` (both in seconds), decoding as it goes.

    Memory does not grow with the length of the source. Timestamps strictly increase and are those of the source, even
    when it varies its frame rate; frames without one follow at the average rate. Every frame has the size that `probe`
    gives: those of another size, as in a folder of mixed images, are scaled to it. Damaged parts are skipped, as
    players do.

    Raises:
        VideoError: on the first `next`, whatever `probe` raises, or no frame lies in the range; later, an image of the
            folder is damaged, or the file turns out to break off early (raised after its last whole frame).
    """
    path = Path(path)
    if not 0 <= start < math.inf:
        raise VideoError(f"Cannot read {path} from {start} s; give a start of 0 or more seconds.")
    if duration is not None and not duration > 0:
        raise VideoError(f"Cannot read {duration} s of {path}; give a duration of more than 0 seconds.")
    info = probe(path)
    first = Fraction(start).limit_denominator(10**6)
    end = None if duration in (None, math.inf) else first + Fraction(duration).limit_denominator(10**6) - _TOLERANCE
    images = _image_files(path)
    timed = _timed_images(images, first) if images else _seek_video(info, first)
    empty = True
    for timestamp, load in timed:
        if end is not None and timestamp >= end:
            break
        if timestamp >= first - _TOLERANCE:
            empty = False
            yield Frame(_fit(load(), info.width, info.height), timestamp)
    if empty:
        length = "" if info.duration is None else f", which is {info.duration:.2f} s long"
        until = "" if end is None else f" and before {float(end):.2f} s"
        raise VideoError(f"No frame at or after {start:.2f} s{until} in {path}{length}; choose another range.")


def _image_files(path: Path) -> list[Path]:
    """Return the images that a folder or a single image stands for, in natural order; none for a video file."""
    if not os.path.lexists(path):
        raise VideoError(f"There is no file or folder {path}; check the path.")
    if not path.is_dir():
        return [path] if path.suffix.lower() in IMAGE_SUFFIXES else []
    with _reported(f"Cannot read the folder {path}"):
        files = [f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith(".")]
    if not files:
        raise VideoError(f"The folder {path} has no images; give one with {_listed(IMAGE_SUFFIXES)} files.")
    return sorted(files, key=lambda f: ([int(p) if p.isdigit() else p for p in _digits(f.name.lower())], f.name))


def _digits(name: str) -> list[str]:
    return re.split(r"([0-9]+)", name)


def _load_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit grey at 255 rather than scale it.
                image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            transparent = image.mode in ("LA", "PA", "La", "RGBa", "RGBA") or "transparency" in image.info
            return _over_black(np.asarray(image.convert("RGBA"))) if transparent else np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        raise VideoError(f"Cannot read the image {path} ({_reason(error)}); replace or remove it.") from error


def _timed_images(images: list[Path], start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    first = max(math.ceil((start - _TOLERANCE) * IMAGE_RATE), 0)
    for index in range(first, len(images)):
        yield index / IMAGE_RATE, lambda image=images[index]: _load_image(image)


def _over_black(rgba: np.ndarray) -> np.ndarray:
    rgb, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:]
    return ((rgb * alpha + 127) // 255).astype(np.uint8)


def _fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@contextmanager
def _reported(message: str, advice: str = "check the path and its permissions") -> Iterator[None]:
    """Turn errors of FFmpeg and of the file system into a `VideoError`."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{message} ({_reason(error)}); {advice}.") from error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _listed(suffixes: Any) -> str:
    return ", ".join(sorted(suffixes))


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    with ExitStack() as stack:
        with _reported(f"Cannot read {path} as a video", "it may be damaged, incomplete or no video at all"):
            container = stack.enter_context(av.open(f"{_FILE}{path}"))
        yield container


def _video_stream(container: InputContainer) -> Any:
    """Return the first moving picture: a song's cover is no video, and FFmpeg would even play plain text as one."""
    if container.format.name == "tty":
        return None
    streams = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next((s for s in streams if s.codec_context is not None), None)


def _fraction(value: Any) -> Fraction:
    return Fraction(value.numerator, value.denominator)


def _origin(container: InputContainer, stream: Any) -> Fraction:
    """Return the time, in seconds, that the file gives to its beginning, in whole ticks of its video's clock."""
    begins = Fraction(max(container.start_time or 0, 0), av.time_base)  # Below zero there is only audio priming.
    if stream is None or stream.start_time is None:
        return begins
    tick = _fraction(stream.time_base)
    return min(round(begins / tick), stream.start_time) * tick


def _probe_video(path: Path) -> VideoInfo:
    with _opened(path) as container:
        stream = _video_stream(container)
        if stream is None:
            raise VideoError(
                f"{path} is not a video that can be decoded; give a video, an image or a folder of images."
            )
        # Decoding moves the stream's own numbers, so what the header says is noted first.
        rate = next((_fraction(r) for r in (stream.average_rate, stream.guessed_rate) if r), IMAGE_RATE)
        ticks, micros, num_frames = stream.duration, container.duration, stream.frames
        duration = float(ticks * _fraction(stream.time_base)) if ticks else micros / av.time_base if micros else None
        if not num_frames and duration is not None:
            num_frames = round(duration * rate)
        try:
            frame = next(_decoded(container, stream, rate), None)
        except VideoError as error:
            raise VideoError(f"{path} breaks off before its first frame; get a whole copy of it.") from error
        if frame is None:
            raise VideoError(f"{path} has no frame that can be decoded; check that it plays.")
        width, height = (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
        return VideoInfo(path, width, height, rate, num_frames or None, duration, bool(container.streams.audio))


def _decoded(container: InputContainer, stream: Any, rate: Fraction) -> Iterator[av.VideoFrame]:
    """Yield what decodes; raise a `VideoError` at the end of a file that lacks some of what its header promises."""
    stream.thread_type = "AUTO"
    # Matroska notes the length of the longest stream and MP4 that of each; FFmpeg may guess it for other formats.
    alone, expected = "mov" in container.format.name, 0.0
    if alone:
        expected = float(((stream.start_time or 0) + (stream.duration or 0)) * _fraction(stream.time_base))
    elif "matroska" in container.format.name:
        expected = (container.duration or 0) / av.time_base
    reached, failure = 0.0, None
    packets = container.demux(stream) if alone else container.demux()
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            packet, failure = None, error
        if packet is not None and packet.pts is not None:
            reached = max(reached, float((packet.pts + (packet.duration or 0)) * _fraction(packet.time_base)))
        if packet is None or packet.stream.index == stream.index:
            with suppress(av.FFmpegError):  # One bad packet is no reason to stop.
                yield from stream.decode(packet)
        if packet is None:
            break
    if failure or expected - reached > 1 + 2 / rate:
        path = container.name.removeprefix(_FILE)
        raise VideoError(
            f"{path} breaks off after {reached:.2f} s; get a whole copy, or end before then."
        ) from failure


def _timed_video(info: VideoInfo, seek_to: Fraction | None) -> Iterator[tuple[Fraction, Any]]:
    """Yield each frame's timestamp, strictly increasing, and a function that makes its image."""
    with _opened(info.path) as container:
        stream = _video_stream(container)
        origin, tick, period = _origin(container, stream), _fraction(stream.time_base), 1 / info.frame_rate
        if seek_to is not None and stream.start_time is not None:
            with suppress(av.FFmpegError):
                container.seek(round((seek_to + origin) / tick), stream=stream)
        last = None
        for frame in _decoded(container, stream, info.frame_rate):
            ticks = frame.dts if frame.pts is None and last is None else frame.pts
            now = None if ticks is None else ticks * tick - origin
            if last is None:
                now = max(now or Fraction(0), Fraction(0))
            elif now is None:
                now = last + period
            elif now < last - 1:  # The clock starts anew, as where recordings are joined.
                origin -= last + period - now
                now = last + period
            elif now <= last:
                now = last + period / 2  # Half a step lets the frames after a repeated timestamp keep theirs.
            last = now
            yield now, lambda frame=frame: _rgb(frame)


def _seek_video(info: VideoInfo, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """Yield frames, as `_timed_video` does, from `start` or somewhat before it."""
    for margin in (0, 10) if start else ():
        frames = _timed_video(info, max(start - margin, Fraction(0)))
        # Some formats are searched by guessing and land too late, and a broken file may have nothing there.
        with suppress(VideoError):
            found = next(frames, None)
            if found is not None and found[0] <= start:
                return itertools.chain([found], frames)
        frames.close()
    return _timed_video(info, None)


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    if frame.format.has_palette or any(component.is_alpha for component in frame.format.components):
        image = _over_black(frame.to_ndarray(format="rgba"))
    else:
        image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, _quarter_turns(frame)))


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Return how many quarter turns counterclockwise set the frame upright."""
    return round(frame.rotation / 90) % 4


@contextmanager
def atomic_output(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path to write a file or folder at, which takes its final place only on success.

    Missing parent folders are made. After any exception the temporary output is gone and what was there before is
    untouched. An empty folder counts as free.

    Raises:
        VideoError: the place is taken and `overwrite` is false, or is a folder that holds other kinds of file than the
            new output, or cannot be written.
    """
    path = Path(path)
    _check_free(path, overwrite)
    advice = "choose a place you may write to"
    with ExitStack() as stack:
        with _reported(f"Cannot write {path}", advice):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A folder rather than a file of its own, so that the output keeps its name, permissions and kind.
            folder = Path(tempfile.mkdtemp(prefix=".salfom-", dir=path.parent))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        temporary = folder / path.name
        yield temporary
        _check_free(path, overwrite)
        with _reported(f"Cannot write {path}", advice):
            if path.is_dir():
                if not temporary.is_dir() or _suffixes(path) - _suffixes(temporary):
                    raise VideoError(f"{path} is a folder that holds other files; choose another output.")
                path.rename(folder / "replaced")
            os.replace(temporary, path)


def _check_free(path: Path, overwrite: bool) -> None:
    with _reported(f"Cannot write {path}"):
        taken = os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))
    if taken and not overwrite:
        raise VideoError(f"{path} exists already; choose another output or pass --overwrite.")


def _suffixes(folder: Path) -> set[str]:
    return {file.suffix.lower() for file in folder.rglob("*")}


class VideoWriter:
    """Write RGB images as a video; a context manager that leaves a complete file or none.

    MP4, MOV and MKV hold H.264 (4:4:4 where an odd width or height has to be kept), WebM holds VP9. The sound of
    `audio_from` between `start` and `start` + `duration` seconds comes along, copied as it is where the format allows
    and encoded anew as AAC, or Opus for WebM, where not.

    Args:
        path: the output, whose suffix chooses the format: .mp4, .mov, .mkv or .webm.
        width, height: of the images, in pixels.
        frame_rate: the average, in frames per second, noted in the file; timestamps need not keep to it.
        audio_from: a video whose sound is taken; one without sound, or images, give a silent output.
        start, duration: the range, in seconds, that is written; `start` becomes the beginning of the output.
        overwrite: replace an existing file.

    Raises:
        VideoError: for an unknown suffix or an existing output on construction, else where writing fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        frame_rate: Fraction,
        *,
        audio_from: str | os.PathLike[str] | None = None,
        start: float = 0.0,
        duration: float | None = None,
        overwrite: bool = False,
    ) -> None:
        self._path, self._overwrite = Path(path), overwrite
        if self._path.suffix.lower() not in _FORMATS:
            raise VideoError(f"Cannot tell the format of {path}; name the output with one of {_listed(_FORMATS)}.")
        _check_free(self._path, overwrite)
        self._width, self._height, self._rate = width, height, Fraction(frame_rate)
        self._start = Fraction(start).limit_denominator(10**6)
        length = None if duration in (None, math.inf) else Fraction(duration).limit_denominator(10**6)
        self._audio_from, self._length = audio_from, length
        self._failing = f"Cannot write {self._path}"
        self._last = -1

    def __enter__(self) -> "VideoWriter":
        encoder, options, audio_encoder, container_options = _FORMATS[self._path.suffix.lower()]
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_output(self._path, self._overwrite))
            with _reported(self._failing, "choose another output"):
                output = av.open(f"{_FILE}{temporary}", "w", options=container_options)
                stack.callback(_close_quietly, output)
                stream = output.add_stream(encoder, rate=self._rate, options=options)
                stream.width, stream.height = self._width, self._height
                odd = self._width % 2 or self._height % 2
                stream.pix_fmt = "yuv444p" if odd and encoder == "libx264" else "yuv420p"
                # Every frame of a constant rate, and every millisecond, falls on a whole tick of this clock.
                ticks = math.lcm(90_000, self._rate.numerator)
                self._tick = Fraction(1, ticks if ticks < 2**31 else 90_000)
                stream.time_base = stream.codec_context.time_base = self._tick
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = _BT709
                context.color_range = _LIMITED
                self._output, self._stream = output, stream
            self._audio = None
            if self._audio_from is not None and not _image_files(Path(self._audio_from)):
                source = stack.enter_context(_opened(Path(self._audio_from)))
                with _reported(self._failing, "choose another output"):
                    self._audio = _Audio(source, output, audio_encoder, self._start, self._length)
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Add a picture, uint8 (height, width, 3) RGB, at `timestamp` seconds on the source's clock (`start` is 0)."""
        if image.shape != (self._height, self._width, 3) or image.dtype != np.uint8:
            raise ValueError(f"Expected uint8 ({self._height}, {self._width}, 3), got {image.dtype} {image.shape}.")
        shown = Fraction(timestamp) - self._start
        with _reported(self._failing, "check that there is space left"):
            if self._audio is not None:
                self._audio.mux_until(shown)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
            self._last = frame.pts = max(round(shown / self._tick), self._last + 1)
            frame.time_base = self._tick
            self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = round(1 / self._rate / self._tick)
            self._output.mux(packet)

    def _finish(self, exception_type: type[BaseException] | None, *_: object) -> None:
        if exception_type is not None:
            return
        if self._last < 0:
            raise VideoError(f"There were no frames to write to {self._path}; check the source.")
        with _reported(self._failing, "check that there is space left"):
            if self._audio is not None:
                self._audio.mux_until(None)
            self._mux(None)
            self._output.close()

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exception_type, exception, traceback)


def _close_quietly(output: Any) -> None:
    # Only what is left of a failure gets here unclosed: an error of closing would hide the one that matters.
    with suppress(av.FFmpegError, OSError, ValueError):
        output.close()


class _Audio:
    """The sound of `source`, put into `output` bit by bit alongside the pictures so that little is held in memory."""

    def __init__(
        self, source: InputContainer, output: Any, encoder: str, start: Fraction, length: Fraction | None
    ) -> None:
        self._output, self._start, self._length = output, start, length
        self._origin = _origin(source, _video_stream(source)) + start
        self._copies: dict[int, Any] = {}
        self._encoders: dict[int, Any] = {}
        streams = [s for s in source.streams.audio if s.codec_context is not None]
        for stream in streams:
            if stream.codec_context.name in output.supported_codecs:
                self._copies[stream.index] = output.add_stream_from_template(stream)
            else:
                self._encoders[stream.index] = self._encoder(stream.codec_context, encoder)
        if start and streams:
            with suppress(av.FFmpegError):
                source.seek(round(self._origin * av.time_base))
        self._packets = source.demux(streams) if streams else iter(())
        self._next = self._advance()

    def _encoder(self, context: Any, name: str) -> Any:
        rates = av.Codec(name, "w").audio_rates or [context.sample_rate]
        rate = context.sample_rate if context.sample_rate in rates else 48_000
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        return self._output.add_stream(name, rate=rate, layout=layout)

    def _advance(self) -> Any:
        """Return the next packet that belongs in the range."""
        with suppress(av.FFmpegError):  # Sound that breaks off just ends; reading the pictures reports the file.
            for packet in self._packets:
                if packet.pts is None or (self._time(packet) < 0 and not self._primes(packet)):
                    continue
                if self._length is None or self._time(packet) < self._length:
                    return packet
                if self._time(packet) > self._length + 1:  # Streams are interleaved to well within a second.
                    break
        return None

    def _primes(self, packet: Any) -> bool:
        """Tell whether a packet from before 0 is there to start up the sound of a whole file.

        MP4 and MOV hold on to such packets without playing them; in the others, one that ends before 0 would put off
        the pictures.
        """
        ends = self._time(packet) + (packet.duration or 0) * _fraction(packet.time_base)
        return not self._start and (ends > 0 or self._output.format.name in ("mp4", "mov"))

    def _time(self, packet: Any) -> Fraction:
        return packet.pts * _fraction(packet.time_base) - self._origin

    def mux_until(self, time: Fraction | None) -> None:
        """Write the sound up to `time` seconds of the output, or all that is left of it."""
        while self._next is not None:
            if time is not None and self._time(self._next) > time:
                return
            self._mux(self._next)
            self._next = self._advance()
        if time is None:
            for encoder in self._encoders.values():
                self._output.mux(encoder.encode(None))

    def _mux(self, packet: Any) -> None:
        index, shift = packet.stream.index, round(self._origin / _fraction(packet.time_base))
        if index in self._copies:
            packet.stream = self._copies[index]
            packet.pts -= shift
            packet.dts = packet.pts
            self._output.mux(packet)
            return
        with suppress(av.error.InvalidDataError):
            for frame in packet.decode():
                frame.pts -= shift
                self._output.mux(self._encoders[index].encode(frame))
