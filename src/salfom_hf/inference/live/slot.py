"""Where frames wait between the thread that reads and the one that predicts."""

import threading
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import av


class LiveFrame(NamedTuple):
    """
    A decoded frame.

    Attributes:
        picture: as the decoder gave it.
        timestamp: seconds since the source's first frame, on the source's clock.
        arrived: when it was decoded, in seconds of `time.monotonic`.
    """

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
