"""Cameras, network streams, pipes and files, read in a thread of their own, and where their frames wait."""

import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import Any, NamedTuple

import av

from ...errors import VideoError, reported
from ...video.pictures import IMAGE_RATE
from ...video.reading import FILE_PROTOCOL, MIN_SIDE, demuxed, video_stream

SILENCE = 10  # seconds without data, or without a connection, after which a source or an output has failed
PROBING = 1  # seconds of a stream that FFmpeg looks at before it is decoded
JUMP = 10  # seconds by which the clock of a live source may gain on ours before it counts as set again
# What a source may call its rate when it has none; the files written need a number.
RATES = (1, 240)  # frames per second


class LiveFrame(NamedTuple):
    """A decoded frame, its seconds since the source's first one, and the seconds of `time.monotonic` when it came."""

    picture: av.VideoFrame
    timestamp: Fraction
    arrived: float


class Slot:
    """
    The newest frames of a source. A frame is dropped once another has come that is more than `latency` seconds later
    on the source's clock; so the newest one is always kept, and is taken even after the source has ended.

    Args:
        latency: in seconds; 0 keeps only the newest frame.

    Attributes:
        dropped: how many frames were dropped since `begin`.
    """

    def __init__(self, latency: float):
        self.latency, self.dropped = latency, 0
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
            self._frames = deque(list(self._frames)[-1:])

    def close(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, stopped: Callable[[], bool] = lambda: False) -> LiveFrame | None:
        """
        The oldest frame, as soon as there is one; `None` once the source is over, or `stopped` is true, which is asked
        now and, while nothing comes, ten times a second.
        """
        with self._changed:
            while not stopped():
                if self._frames:
                    return self._frames.popleft()
                if self._closed:
                    break
                self._changed.wait(0.1)
        return None


class Address(NamedTuple):
    """A source for FFmpeg, which finds its `format` by itself if that is `None`; and for messages, what to call it."""

    name: str
    url: str
    format: str | None
    advice: str


def without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def camera(number: int) -> tuple[str, str]:
    """FFmpeg's url and format of one of this machine's cameras, counted from 0."""
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if sys.platform != "win32":
        return f"/dev/video{number}", "v4l2"
    names = [device.description for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
    if number >= len(names):
        raise VideoError(f"There is no camera {number}; there are {len(names)}: {', '.join(names) or 'none'}.")
    return f"video={names[number]}", "dshow"


def address_of(source: str) -> Address:
    """What a source of [`Reader`] is."""
    if re.fullmatch(r"[0-9]+|/dev/video.*|video=.*", source):
        kind = "dshow" if source.startswith("video=") else "v4l2"
        place = camera(int(source)) if source.isdecimal() else (source, kind)
        advice = "check that it is connected, that no other program uses it, and that you may read it"
        return Address(f"the camera {source.removeprefix('video=')}", *place, advice)
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


def on_one_clock(frames: Iterable[tuple[Any, Fraction | None, float]], jump: float) -> Iterator[LiveFrame]:
    """
    Frames with timestamps that strictly increase, of pictures with the source's times, which may be missing, stand
    still or start again, and with ours, which count where the source's gain more than `jump` seconds on them.
    """
    now, time_before, arrived_before = Fraction(0), None, None
    for picture, time_now, arrived in frames:
        if arrived_before is not None:
            passed = Fraction(arrived - arrived_before).limit_denominator(10**6)
            step = None if time_now is None or time_before is None else time_now - time_before
            if step is None or not 0 < step <= passed + jump:
                step = max(passed, Fraction(1, 10**6))
            now += step
        time_before, arrived_before = time_now, arrived
        yield LiveFrame(picture, now, arrived)


class Reader:
    """
    A source, read in a thread that ends with the program at the latest.

    Args:
        source: a camera's number or name, `-`, an address with `://`, or a file; see `docs/live.md`.
        slot: where the frames go; it is closed at the end, whatever that is.

    Attributes:
        frame_rate: the average, as far as the source tells, in frames per second.
        pixel_aspect: width of a pixel by its height, as far as the source tells.
        error: what ended the reading, if that was no orderly end.

    Raises:
        VideoError: there is no such camera (where the system tells), or nothing is piped in.
    """

    def __init__(self, source: str, slot: Slot):
        self.address, self.slot = address_of(source), slot
        self.frame_rate = IMAGE_RATE
        self.pixel_aspect: Fraction | None = None
        self.error: Exception | None = None
        self._first: Future[LiveFrame] = Future()
        self._started, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> LiveFrame:
        """The first frame, when it is there; a `VideoError` if there is none."""
        while not wait([self._first], 0.1).done:  # On some systems nothing interrupts a longer wait.
            pass
        return self._first.result()

    def start(self) -> None:
        """Let a recording play, or take other sources from now on."""
        self.slot.begin()
        self._started.set()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()
        self._started.set()
        self._thread.join(1)  # A source that sends nothing cannot be hurried.

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:
            self.error = error
            if not self._first.done():
                self._first.set_exception(error)
        finally:
            self.slot.close()

    def _read(self) -> None:
        name, url, kind, advice = self.address
        options = {"analyzeduration": str(PROBING * 10**6), "rtsp_flags": "prefer_tcp"}
        if kind is not None:
            options = {"framerate": "30"} if kind == "avfoundation" else {}
        with reading(self.address, "Cannot open", advice):
            container = av.open(url, format=kind, options=options, timeout=(SILENCE, SILENCE))
        with container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(f"{name} has no video that can be decoded; choose another source.")
            rates = (rate for rate in (stream.average_rate, stream.guessed_rate) if rate)
            self.frame_rate = next((rate for rate in rates if RATES[0] <= rate <= RATES[1]), IMAGE_RATE)
            self.pixel_aspect = stream.sample_aspect_ratio
            recorded = container.duration is not None
            for frame in on_one_clock(self._pictures(container, stream), math.inf if recorded else JUMP):
                if not self._first.done():
                    if min(frame.picture.width, frame.picture.height) < MIN_SIDE:
                        raise VideoError(f"{name} has less than {MIN_SIDE}x{MIN_SIDE} pixels; choose another.")
                    self._first.set_result(frame)
                    if recorded:
                        self._started.wait()
                    begin = time.monotonic()
                if recorded:
                    self._stopped.wait(begin + float(frame.timestamp) - time.monotonic())
                if self._stopped.is_set():
                    return
                self.slot.put(frame._replace(arrived=time.monotonic()))
            if not self._first.done():
                raise VideoError(f"{name} has no frame that can be decoded; check that it plays.")

    def _pictures(self, container: Any, stream: Any) -> Iterator[tuple[av.VideoFrame, Fraction | None, float]]:
        """What is decoded, its time on the source's clock, and on ours."""
        # Threads that decode one frame each would hold back as many frames.
        stream.thread_type, tick = "SLICE", stream.time_base

        def decoded(packet: Any) -> Iterator[tuple[av.VideoFrame, Fraction | None, float]]:
            with suppress(av.FFmpegError):  # One bad packet is no reason to stop.
                for frame in stream.decode(packet):
                    yield frame, None if frame.pts is None else frame.pts * tick, time.monotonic()

        try:
            with reading(self.address, "Lost", "what came until then was shown"):
                for packet in demuxed(container, stream):
                    yield from decoded(packet)
        except VideoError:
            yield from decoded(None)  # What the decoder still holds.
            raise
