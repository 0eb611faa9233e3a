"""Pictures sent on as a stream, each as soon as it is there."""

from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from functools import partial

import av
import numpy as np

from ...errors import VideoError, reported
from ...video.writing import add_video_stream, frame_for
from .source import SILENCE, without_password

FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp"}  # by protocol; MPEG-TS for all others

TICK = Fraction(1, 90_000)  # seconds


class StreamWriter(AbstractContextManager):
    """
    Send RGB images on as H.264: MPEG-TS, FLV for RTMP, or RTSP.

    Args:
        url: where FFmpeg writes to; `-` is standard output.
        width, height: of the images, in pixels.
        frame_rate: about how many images per second; timestamps need not keep to it.

    Raises:
        VideoError: it cannot be written to; by a `BrokenPipeError` if what read it has stopped.
    """

    def __init__(self, url: str, width: int, height: int, frame_rate: Fraction):
        name = "standard output" if url == "-" else without_password(url)
        self._reported = partial(reported, f"Cannot write to {name}", "check that something receives it")
        with self._reported():
            self._output = av.open(
                "pipe:1" if url == "-" else url,
                "w",
                format=FORMATS.get(url.partition("://")[0].lower(), "mpegts"),
                options={"flush_packets": "1"},
                timeout=(SILENCE, SILENCE),
            )
            # A player that comes later waits for a key frame, so there is one every second.
            options = {"preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(frame_rate)))}
            self._stream = add_video_stream(self._output, "libx264", options, width, height, frame_rate, TICK)
        self._last = -1

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Send a picture, uint8 (height, width, 3) RGB, shown at `timestamp` seconds."""
        with self._reported():
            frame = frame_for(self._stream, image)
            frame.pts = self._last = max(round(timestamp / TICK), self._last + 1)
            frame.time_base = TICK
            self._output.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        with suppress(VideoError), self._reported():
            if self._last >= 0:
                self._output.mux(self._stream.encode(None))
            self._output.close()
