"""Saliency of live video: cameras, network streams and pipes, always close behind what they show now.

    source --reader thread--> Slot --predict_live--> drawing and writing, in a thread of their own

The reader decodes whatever comes, as it comes. [`Slot`] keeps the last moments of it, and the network takes from there
the oldest frame that is left: all frames, one by one, while it keeps up, and as many as it can when it does not. What
is left out is neither encoded nor part of a window, so a window holds the frames that were processed, and spans more
time the more are dropped. Behind the slot no stage holds more than one frame: how far the picture lags behind is
bounded by what the slot holds and by the time that a few frames take.

Recordings (whose length is known: files, or addresses of files) are played at their own speed.
"""

import io
import itertools
import math
import os
import re
import socketserver
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

import av
import numpy as np
from PIL import Image

from ..errors import VideoError, reason_of, reported
from ..video.reading import FILE_PROTOCOL, IMAGE_RATE, MIN_SIDE, as_fraction, image_of, video_stream
from ..video.writing import add_video_stream, frame_for
from .predictor import SaliencyFrame, SaliencyPredictor
from .threads import in_background

SILENCE = 10  # seconds without data, or without a connection, after which a source or an output has failed

PROBING = 1  # seconds of a stream that FFmpeg looks at before it is decoded

JUMP = 10  # seconds by which the clock of a live source may gain on ours before it counts as set anew

# What a source may call its rate when it has none; the files written need a number.
RATES = (1, 240)  # frames per second

JPEG_QUALITY = 85


class LiveFrame(NamedTuple):
    """
    A decoded frame.

    Attributes:
        picture: as the decoder gave it.
        timestamp: seconds since the source's first frame, on the source's clock.
        arrived: seconds on the clock of `time.monotonic`, when it was decoded.
    """

    picture: av.VideoFrame
    timestamp: Fraction
    arrived: float


class Slot:
    """
    The newest frames of a source, between the thread that reads and the one that predicts.

    A frame is dropped once another has come that is more than `latency` seconds later on the source's clock; so the
    newest frame is always kept, and is taken even after the source has ended.

    Args:
        latency: in seconds; 0 keeps only the newest frame.

    Attributes:
        dropped: how many frames were dropped since `begin`.
    """

    def __init__(self, latency: float):
        self.latency = latency
        self.dropped = 0
        self._frames: deque[LiveFrame] = deque()
        self._changed = threading.Condition()
        self._begun = self._closed = False

    def put(self, frame: LiveFrame) -> None:
        with self._changed:
            self._frames.append(frame)
            while frame.timestamp - self._frames[0].timestamp > self.latency:
                self._frames.popleft()
                self.dropped += self._begun
            self._changed.notify_all()

    def begin(self) -> None:
        """Forget all frames but the newest: what came before anyone could take it is no loss, and too old."""
        with self._changed:
            self._begun = True
            while len(self._frames) > 1:
                self._frames.popleft()

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, stopped: Callable[[], bool] = lambda: False) -> LiveFrame | None:
        """
        The oldest frame that is left, as soon as there is one; `None` once the source is over.

        Args:
            stopped: asked now and, while nothing comes, ten times a second; once it is true there is nothing to take.
        """
        with self._changed:
            while not stopped() and not self._frames and not self._closed:
                self._changed.wait(0.1)
            if stopped() or not self._frames:
                return None
            return self._frames.popleft()


def taken(
    slot: Slot, duration: float | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[LiveFrame]:
    """The frames of a slot, as they are asked for, during so many seconds of the source's clock."""
    end = math.inf
    while (frame := slot.take(stopped)) is not None and frame.timestamp < end:
        if end == math.inf and duration is not None:
            end = frame.timestamp + Fraction(duration).limit_denominator(10**6)
        yield frame


class Address(NamedTuple):
    """
    What a user calls a source, for FFmpeg.

    Attributes:
        name: for messages; without a password.
        url: what FFmpeg opens.
        format: FFmpeg's name of the kind of device; `None` where the data tell the format.
        advice: what to check when it cannot be opened.
    """

    name: str
    url: str
    format: str | None
    advice: str


def without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def camera(number: int) -> tuple[str, str]:
    """
    FFmpeg's url and format of this machine's cameras, counted from 0.

    Raises:
        VideoError: there is no such camera (where the system tells).
    """
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if sys.platform != "win32":
        return f"/dev/video{number}", "v4l2"
    try:
        devices = av.enumerate_input_devices("dshow")
    except AttributeError as error:
        raise VideoError("This version of PyAV does not count cameras; name yours as video=NAME.") from error
    names = [device.description for device in devices if "video" in device.media_types]
    if number >= len(names):
        raise VideoError(f"There is no camera {number}; there are {len(names)}: {', '.join(names) or 'none'}.")
    return f"video={names[number]}", "dshow"


def address_of(source: str) -> Address:
    """
    Tell what a source is.

    Args:
        source: a camera (its number, `/dev/video0`, or `video=NAME` on Windows), `-` for standard input, an address
            with `://`, or a file.

    Raises:
        VideoError: there is no such camera, or nothing is piped in.
    """
    check = "check that it is connected, that no other program uses it, and that you may read it"
    if re.fullmatch(r"[0-9]+", source):
        return Address(f"the camera {source}", *camera(int(source)), check)
    if source.startswith("/dev/video"):
        return Address(f"the camera {source}", source, "v4l2", check)
    if source.startswith("video="):
        return Address(f"the camera {source.removeprefix('video=')}", source, "dshow", check)
    if source == "-":
        if os.isatty(0):
            raise VideoError("Nothing is piped into this command; pipe a video in, or name a camera or an address.")
        return Address("standard input", "pipe:0", None, "pipe in a video, such as MPEG-TS, Matroska or Y4M")
    if "://" in source:
        advice = "check the address, and that something is sent from there"
        return Address(without_password(source), source, None, advice)
    return Address(source, f"{FILE_PROTOCOL}{source}", None, "name a camera, an address, or a file that can be played")


@contextmanager
def reading(address: Address, doing: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong with a source into a `VideoError`."""
    try:
        with reported(f"{doing} {address.name}", advice):
            yield
    except VideoError as error:
        if isinstance(error.__cause__, av.error.ExitError):  # FFmpeg's word for running out of time.
            raise VideoError(f"{doing} {address.name} (nothing came for {SILENCE} s); {advice}.") from error
        raise


class SourceClock:
    """
    Timestamps that strictly increase, from a source's own, which may be missing, stand still or start anew.

    Args:
        jump: seconds by which the source's clock may gain on ours from one frame to the next.
    """

    def __init__(self, jump: float):
        self.jump = jump
        self.now: Fraction | None = None

    def at(self, time: Fraction | None, arrived: float) -> Fraction:
        """
        Seconds since the first frame.

        Args:
            time: what the source says, in seconds; `None` if nothing.
            arrived: seconds on our clock, which tells how much time has passed where the source does not.
        """
        if self.now is None:
            self.now = Fraction(0)
        else:
            passed = Fraction(arrived - self._arrived).limit_denominator(10**6)
            step = None if time is None or self._time is None else time - self._time
            if step is None or step <= 0 or step > passed + self.jump:
                step = max(passed, Fraction(1, 10**6))
            self.now += step
        self._time, self._arrived = time, arrived
        return self.now


class Reader:
    """
    A source, read in a thread that ends with the program at the latest.

    Args:
        source: see [`address_of`].
        slot: where the frames go; it is closed at the end, whatever that is.

    Attributes:
        frame_rate: the average, as far as the source tells, in frames per second.
        error: what ended the reading, if that was no orderly end.

    Raises:
        VideoError: the source is none.
    """

    def __init__(self, source: str, slot: Slot):
        self.address, self.slot = address_of(source), slot
        self._first: LiveFrame | None = None
        self.frame_rate = IMAGE_RATE
        self.error: Exception | None = None
        self._opened, self._started, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> LiveFrame:
        """
        The first frame, when it is there.

        Raises:
            VideoError: there is none.
        """
        while not self._opened.wait(0.1):  # On some systems nothing interrupts a longer wait.
            pass
        if self._first is None:
            raise self.error
        return self._first

    def start(self) -> None:
        """Let a recording play, or take other sources from now on."""
        self.slot.begin()
        self._started.set()

    def stop(self) -> None:
        self._stopped.set()
        self._started.set()
        # A source that sends nothing cannot be hurried.
        self._thread.join(1)

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:
            self.error = error
        finally:
            self.slot.close()
            self._opened.set()

    def _read(self) -> None:
        address = self.address
        options = {"analyzeduration": str(PROBING * 10**6), "rtsp_flags": "prefer_tcp"}
        if address.format is not None:
            options = {"framerate": "30"} if address.format == "avfoundation" else {}
        with reading(address, "Cannot open", address.advice):
            container = av.open(address.url, format=address.format, options=options, timeout=(SILENCE, SILENCE))
        with container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(f"{address.name} has no video that can be decoded; choose another source.")
            rates = (as_fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
            self.frame_rate = next((rate for rate in rates if RATES[0] <= rate <= RATES[1]), IMAGE_RATE)
            recorded = container.duration is not None
            begin = None
            for frame in self._frames(container, stream, recorded):
                if self._first is None:
                    if min(frame.picture.width, frame.picture.height) < MIN_SIDE:
                        raise VideoError(f"{address.name} has less than {MIN_SIDE}x{MIN_SIDE} pixels; choose another.")
                    self._first = frame
                    self._opened.set()
                if recorded:
                    if begin is None:
                        self._started.wait()
                        begin = time.monotonic()
                    self._stopped.wait(begin + float(frame.timestamp) - time.monotonic())
                if self._stopped.is_set():
                    return
                self.slot.put(frame._replace(arrived=time.monotonic()))
            if self._first is None:
                raise VideoError(f"{address.name} has no frame that can be decoded; check that it plays.")

    def _frames(self, container: Any, stream: Any, recorded: bool) -> Iterator[LiveFrame]:
        # Threads that decode one frame each would hold back as many frames.
        stream.thread_type = "SLICE"
        clock = SourceClock(math.inf if recorded else JUMP)
        tick, packets = as_fraction(stream.time_base), container.demux(stream)
        while True:
            failure = None
            try:
                with reading(self.address, "Lost", "what came until then was shown"):
                    packet = next(packets, None)
            except VideoError as error:
                packet, failure = None, error
            with suppress(av.FFmpegError):  # One bad packet is no reason to stop.
                for picture in stream.decode(packet):  # At the end, what the decoder still holds.
                    arrived = time.monotonic()
                    seconds = None if picture.pts is None else picture.pts * tick
                    yield LiveFrame(picture, clock.at(seconds, arrived), arrived)
            if failure is not None:
                raise failure
            if packet is None:
                return


def predict_live(
    predictor: SaliencyPredictor, frames: Iterable[LiveFrame], size: tuple[int, int]
) -> Iterator[tuple[SaliencyFrame, float]]:
    """
    Frames and their maps. With a batch size and a stride of 1, a map waits for no later frame, but for the first one.

    Args:
        frames: those to process; windows are made of them, and of nothing else.
        size: (height, width) in pixels, to which frames of another size are scaled.

    Yields:
        The frame with its map, as [`SaliencyPredictor.stream`] gives it, and when it arrived.
    """
    waiting: deque[LiveFrame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in frames:
            waiting.append(frame)
            yield image_of(frame.picture, size)

    for predicted in predictor.stream(images()):
        frame = waiting.popleft()
        yield predicted._replace(timestamp=frame.timestamp), frame.arrived


def warm_up(predictor: SaliencyPredictor, first: LiveFrame, size: tuple[int, int]) -> None:
    """Predict a few maps for nothing, since the first ones take long; arguments as of [`predict_live`]."""
    for _ in predict_live(predictor, [first] * 3, size):
        pass


class Tally:
    """How many frames were shown, and how late."""

    def __init__(self) -> None:
        self.shown = 0
        self.latencies: Counter[int] = Counter()  # by milliseconds, so that days of video need no more memory
        self.begin = self.end = 0.0

    def add(self, arrived: float, now: float) -> None:
        """A frame that arrived then is shown now, both in seconds."""
        self.begin = self.begin if self.shown else now
        self.end = now
        self.shown += 1
        self.latencies[round(1000 * (now - arrived))] += 1

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def __str__(self) -> str:
        """Frames per second, and latency."""
        if not self.shown:
            return "no frames"
        rate = (self.shown - 1) / self.seconds if self.seconds else 0.0
        reached = itertools.accumulate(count for _, count in sorted(self.latencies.items()))
        median = next(ms for ms, n in zip(sorted(self.latencies), reached, strict=True) if 2 * n >= self.shown)
        return f"{rate:.1f} frames/s, latency {median} ms (median) to {max(self.latencies)} ms (maximum)"


def show(
    predictor: SaliencyPredictor,
    frames: Iterable[LiveFrame],
    size: tuple[int, int],
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
    writes: Sequence[Callable[[np.ndarray, Fraction], None]],
    shown: Callable[[float], None],
) -> None:
    """
    Predict, draw and write frames; while one is predicted, one is drawn and written, and at most one waits for that.

    Args:
        predictor, frames, size: see [`predict_live`].
        draw: image, map -> picture.
        writes: each takes every picture, and its timestamp in seconds since the first one.
        shown: takes when a frame arrived, after it was written.
    """
    start: Fraction | None = None

    def put(predicted: tuple[SaliencyFrame, float]) -> None:
        nonlocal start
        frame, arrived = predicted
        start = frame.timestamp if start is None else start
        picture = draw(frame.image, frame.saliency)
        for write in writes:
            write(picture, frame.timestamp - start)
        shown(arrived)

    with closing(in_background(put, predict_live(predictor, frames, size), 1)) as written:
        for _ in written:
            pass


class StreamWriter(AbstractContextManager):
    """
    Send RGB images on as H.264, each as soon as it is there: MPEG-TS, FLV for RTMP, or RTSP.

    Args:
        url: where FFmpeg writes to; `-` is standard output.
        width, height: of the images, in pixels.
        frame_rate: about how many images per second; timestamps need not keep to it.

    Raises:
        VideoError: it cannot be written to.
        BrokenPipeError: what read standard output has stopped.
    """

    FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp"}  # noqa: RUF012
    TICK = Fraction(1, 90_000)

    def __init__(self, url: str, width: int, height: int, frame_rate: Fraction):
        self._failing = f"Cannot write to {'standard output' if url == '-' else without_password(url)}"
        with self._reported():
            self._output = av.open(
                "pipe:1" if url == "-" else url,
                "w",
                format=self.FORMATS.get(url.partition("://")[0].lower(), "mpegts"),
                options={"flush_packets": "1"},
                timeout=(SILENCE, SILENCE),
            )
            # A player that comes later waits for a key frame, so there is one every second.
            options = {"preset": "veryfast", "tune": "zerolatency", "g": str(max(1, round(frame_rate)))}
            self._stream = add_video_stream(self._output, "libx264", options, width, height, frame_rate, self.TICK)
        self._last = -1

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            with reported(self._failing, "check that something receives it"):
                yield
        except VideoError as error:
            if isinstance(error.__cause__, BrokenPipeError):
                raise error.__cause__ from None
            raise

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Send a picture, uint8 (height, width, 3) RGB, shown at `timestamp` seconds."""
        with self._reported():
            frame = frame_for(self._stream, image)
            frame.pts = self._last = max(round(timestamp / self.TICK), self._last + 1)
            frame.time_base = self.TICK
            self._output.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        with suppress(VideoError, BrokenPipeError), self._reported():
            if self._last >= 0:
                self._output.mux(self._stream.encode(None))
            self._output.close()


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>salfom live</title>
<style>body { margin: 0; background: #111; } img { display: block; width: 100vw; height: 100vh; object-fit: contain; }
</style></head>
<body><img src="live.mjpg" alt="Live video, with colours where people probably look"></body></html>
"""


class PictureServer(AbstractContextManager):
    """
    Show the newest picture in browsers: a page at `/`, and the pictures as an endless row of JPEGs (MJPEG) at
    `/live.mjpg`. Whoever reads slowly gets fewer of them.

    To this machine it answers only under its own names: else any web site could, by a name of its own that leads
    here, see what the camera sees.

    Args:
        host, port: where to listen; port 0 takes a free one.

    Attributes:
        address: of the page.

    Raises:
        VideoError: the place is taken, or not this machine's.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 7861):
        self._picture, self._number, self._closed, self._viewers = None, 0, False, 0
        self._changed = threading.Condition()
        try:
            self._server = _Server((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise VideoError(
                f"Cannot serve at {host}, port {port} ({reason_of(error)}); choose another --serve PORT or --host."
            ) from error
        self._server.pictures = self
        bound, self.port = self._server.server_address[:2]
        self.names = {"localhost", bound, host} if bound.startswith("127.") else None
        self.address = f"http://{host}:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def write(self, image: np.ndarray, timestamp: Fraction) -> None:
        """Show a picture, uint8 (height, width, 3) RGB, now."""
        with self._changed:
            self._picture, self._number = image, self._number + 1
            self._changed.notify_all()

    def jpegs(self) -> Iterator[bytes]:
        """The newest picture, again and again as it changes, until the last one."""
        seen = 0
        with self._changed:
            self._viewers += 1
        try:
            while True:
                with self._changed:
                    while self._number == seen:
                        if self._closed:
                            return
                        self._changed.wait()
                    picture, seen = self._picture, self._number
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "jpeg", quality=JPEG_QUALITY)
                yield file.getvalue()
        finally:
            with self._changed:
                self._viewers -= 1
                self._changed.notify_all()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            # The last picture has to get to whoever watches, but nobody may hold up the end.
            self._changed.wait_for(lambda: not self._viewers, 2)
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    pictures: PictureServer

    def handle_error(self, *_: object) -> None:
        """Say nothing: a browser that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE
    server: _Server

    def do_GET(self) -> None:
        names = self.server.pictures.names
        asked_for = re.sub(r":[0-9]+$", "", self.headers.get("Host", ""))
        if names is not None and asked_for not in names:
            self.send_error(403)
        elif self.path == "/":
            self._begin("text/html; charset=utf-8")
            self.wfile.write(PAGE.encode())
        elif self.path == "/live.mjpg":
            self._begin("multipart/x-mixed-replace; boundary=picture")
            self.wfile.write(b"--picture\r\n")
            for jpeg in self.server.pictures.jpegs():
                # Browsers show a picture when the next one's boundary has come, so it comes right after it.
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n--picture\r\n")
        else:
            self.send_error(404)

    def _begin(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        # Pages of other sites may not show it either.
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


__all__ = [
    "LiveFrame",
    "PictureServer",
    "Reader",
    "Slot",
    "StreamWriter",
    "Tally",
    "address_of",
    "predict_live",
    "show",
    "taken",
    "warm_up",
]
