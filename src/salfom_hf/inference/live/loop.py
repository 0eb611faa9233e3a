"""From the slot to the outputs: predict, draw and write."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction

import numpy as np

from ...video.frames import image_of
from ..predictor import SaliencyFrame, SaliencyPredictor
from ..threads import in_background
from .source import LiveFrame, Slot


def taken(
    slot: Slot, duration: float | None = None, stopped: Callable[[], bool] = lambda: False
) -> Iterator[LiveFrame]:
    """The frames of a slot, as they are asked for, during so many seconds of the source's clock."""
    end: float | Fraction = math.inf
    while (frame := slot.take(stopped)) is not None and frame.timestamp < end:
        if end == math.inf and duration is not None:
            end = frame.timestamp + Fraction(duration).limit_denominator(10**6)
        yield frame


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


def show(
    predicted: Iterable[tuple[SaliencyFrame, float]],
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
    writes: Sequence[Callable[[np.ndarray, Fraction], None]],
    shown: Callable[[float], None],
) -> None:
    """
    Draw and write frames; while one is predicted, one is drawn and written, and at most one waits for that.

    Args:
        predicted: what [`predict_live`] yields.
        draw: image, map -> picture.
        writes: each takes every picture, and its timestamp in seconds since the first one.
        shown: takes when a frame arrived, after it was written.
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

    with closing(in_background(put, predicted, 1)) as written:
        for _ in written:
            pass
