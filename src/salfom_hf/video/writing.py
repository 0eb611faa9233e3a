"""Write videos with PyAV, with the sound of their source."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import VideoError, listed, reported
from ..files import atomic_output, check_free
from .frames import ONE_THREAD
from .pictures import image_files
from .reading import FILE_PROTOCOL, exact_part, opened
from .sound import Sound

_BT709 = _LIMITED = 1  # FFmpeg's numbers for the colours written, which all players know.
# As good to the eye as slower presets, in files a quarter larger: all of the processor is needed for prediction.
# Without B-frames the last frame is the last in the file, which is the only one whose duration MP4 can keep.
_X264 = ("libx264", {"preset": "superfast", "crf": "20", "bf": "0"})
_VP9 = ("libvpx-vp9", {"crf": "30", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"})
# Suffix: video encoder and its options, options of the container.
CONTAINERS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    ".mp4": (*_X264, {"movflags": "+faststart"}),
    ".mov": (*_X264, {"movflags": "+faststart"}),
    ".mkv": (*_X264, {}),
    ".webm": (*_VP9, {}),
}


class VideoWriter:
    """
    Write RGB images as a video; a context manager that leaves a complete file or none.

    MP4, MOV and MKV hold H.264, whose odd widths and heights are made even by a repeated last column or row, since
    phones play no others; WebM holds VP9. The average `frame_rate` is noted in the file; timestamps need not keep to
    it. The sound of `audio_from`, if it has any, comes along, from `start`, which becomes the beginning of the output,
    for `duration` seconds: copied where players of the format know it and encoded again as AAC, or Opus for WebM,
    where not. What of it cannot be written is left out, with one line on stderr.

    A `VideoError` is raised for an unknown suffix or an existing output on construction, else where writing fails.
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
        if self._path.suffix.lower() not in CONTAINERS:
            raise VideoError(f"Cannot tell the format of {path}; name the output with one of {listed(CONTAINERS)}.")
        check_free(self._path, overwrite)
        self._size, self._rate, self._audio_from = (width, height), Fraction(frame_rate), audio_from
        self._start, self._length = exact_part(start, duration)
        # Every frame of a constant rate, and every millisecond, falls on a whole tick of this clock.
        ticks = math.lcm(90_000, self._rate.numerator)
        self._tick = Fraction(1, ticks if ticks < 2**31 else 90_000)
        self._last = self._end = -1
        self._reported = partial(reported, f"Cannot write {path}", "choose another output")

    def __enter__(self) -> "VideoWriter":
        self._writing = self._written()
        self._writing.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._writing.__exit__(*exception)

    @contextmanager
    def _written(self) -> Iterator[None]:
        encoder, options, container_options = CONTAINERS[self._path.suffix.lower()]
        with atomic_output(self._path, self._overwrite) as temporary, ExitStack() as stack:
            with self._reported():
                self._output = av.open(f"{FILE_PROTOCOL}{temporary}", "w", options=container_options)
                stack.callback(_close_quietly, self._output)
                self._stream = add_video_stream(self._output, encoder, options, *self._size, self._rate, self._tick)
            self._audio = None
            if self._audio_from is not None and not image_files(Path(self._audio_from)):
                source = stack.enter_context(opened(Path(self._audio_from)))
                with self._reported():
                    self._audio = Sound(source, self._output, self._path, self._start, self._length)
            if (self._stream.width, self._stream.height) != self._size:
                even = f"{self._stream.width}x{self._stream.height}"
                reason = "not all players show odd sizes"
                print(f"salfom: {self._path} is written as {even} pixels: {reason}.", file=sys.stderr)
            yield
            if self._last < 0:
                raise VideoError(f"There were no frames to write to {self._path}; check the source.")
            with self._reported():
                if self._audio is not None:
                    self._audio.mux_until(None)
                self._mux(None)
                self._output.close()

    def write(self, image: np.ndarray, timestamp: Fraction, duration: Fraction | None = None) -> None:
        """
        Add a picture, uint8 (height, width, 3) RGB, at `timestamp` seconds on the source's clock (`start` is 0).

        The last one is shown for `duration` seconds, or one period of the frame rate.
        """
        shape = *self._size[::-1], 3
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"Expected uint8 {shape}, got {image.dtype} {image.shape}.")
        shown = Fraction(timestamp) - self._start
        with self._reported():
            if self._audio is not None:
                self._audio.mux_until(shown)
            frame = frame_for(self._stream, image)
            self._last = frame.pts = max(round(shown / self._tick), self._last + 1)
            frame.time_base = self._tick
            self._end = self._last + max(round((duration or 1 / self._rate) / self._tick), 1)
            self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            # Of each packet but the last, the next one tells the duration.
            is_last = packet.pts == self._last
            packet.duration = self._end - packet.pts if is_last else round(1 / self._rate / self._tick)
            self._output.mux(packet)


def add_video_stream(
    output: Any, encoder: str, options: dict[str, str], width: int, height: int, rate: Fraction, tick: Fraction
) -> Any:
    """Add a video to an output opened with PyAV: its rate in frames per second, the tick of its clock in seconds."""
    stream = output.add_stream(encoder, rate=rate, options=options)
    odd = (width % 2, height % 2) if encoder == "libx264" else (0, 0)  # Players know its even sizes alone.
    stream.width, stream.height, stream.pix_fmt = width + odd[0], height + odd[1], "yuv420p"
    context = stream.codec_context
    stream.time_base = context.time_base = tick
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = _LIMITED
    return stream


def frame_for(stream: Any, image: np.ndarray) -> av.VideoFrame:
    """Make a frame, without a time, of an image, uint8 (height, width, 3) RGB, for what `add_video_stream` gave."""
    height, width, _ = image.shape
    if (width, height) != (stream.width, stream.height):
        image = np.pad(image, ((0, stream.height - height), (0, stream.width - width), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG", **ONE_THREAD)


def _close_quietly(output: Any) -> None:
    # Only what is left of a failure gets here unclosed: an error of closing would hide the one that matters.
    with suppress(av.FFmpegError, OSError, ValueError):
        output.close()
