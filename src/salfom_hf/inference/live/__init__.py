"""Saliency of live video: cameras, network streams and pipes, always close behind what they show now.

    source --reader thread--> Slot --predict_live--> drawing and writing, in a thread of their own

The reader decodes whatever comes. [`Slot`] keeps the last moments of it, and the network takes the oldest frame that
is left. Those that are dropped are part of no window, which so spans more time. Behind the slot no stage holds more
than one frame, which bounds how far the picture lags behind. All frames get the size of the first one.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from ...video.frames import image_of
from ..predictor import SaliencyFrame, SaliencyPredictor
from ..results import each_in_thread
from .outputs import PictureServer, StreamWriter
from .source import LiveFrame, Reader, Slot

__all__ = ["LiveFrame", "PictureServer", "Reader", "Slot", "StreamWriter", "predict_live", "show", "taken", "warm_up"]


def taken(
    slot: Slot, duration: float | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[LiveFrame]:
    """The frames of a slot, as they are asked for, during so many seconds of the source's clock."""
    end: Fraction | None = None
    while (frame := slot.take(stopped)) is not None:
        if duration is not None:
            end = frame.timestamp + Fraction(duration).limit_denominator(10**6) if end is None else end
            if frame.timestamp >= end:
                return
        yield frame


def predict_live(
    predictor: SaliencyPredictor, frames: Iterable[LiveFrame], size: tuple[int, int]
) -> Iterator[tuple[SaliencyFrame, float]]:
    """
    Frames, scaled to `size`, (height, width) in pixels, with their maps, as [`SaliencyPredictor.stream`] gives them;
    and when each arrived. With a batch size and a stride of 1, only the first map waits for a later frame.
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


def show(
    predicted: Iterable[tuple[SaliencyFrame, float]],
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
    writes: Sequence[Callable[[np.ndarray, Fraction], None]],
    shown: Callable[[float], None],
) -> None:
    """
    Draw and write what [`predict_live`] yields; while one is predicted, one is drawn and written, and at most one
    waits for that. Each of `writes` takes every picture, and its seconds since the first one; `shown`, after that,
    when its frame arrived.
    """
    start: Fraction | None = None

    def put(item: tuple[SaliencyFrame, float]) -> None:
        nonlocal start
        frame, arrived = item
        start = frame.timestamp if start is None else start
        picture = draw(frame.image, frame.saliency)
        for write in writes:
            write(picture, frame.timestamp - start)
        shown(arrived)

    each_in_thread(put, predicted, 1)
