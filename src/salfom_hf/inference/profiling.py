"""Where the time goes between a video and its prediction: a clock for each stage."""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from fractions import Fraction
from typing import TypeVar

# In the order of the way. A network that sees windows rather than a stream of frames is one stage, "network"; "fusion"
# ends with the map at the frame's size.
STAGES = ("decode", "preprocess", "network", "encoder", "branches", "fusion", "overlay", "encode")

Item = TypeVar("Item")

_profile: "Profile | None" = None
_lock = threading.Lock()  # Two threads may be in one stage.


class Profile:
    """
    Collects, from `with` on, the seconds spent in each [`stage`] of this process, whichever thread it runs in. Stages
    that run at the same time count in full, so they add up to more than the time that has passed.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)  # by the clock

    def __enter__(self) -> "Profile":
        global _profile
        _profile = self
        return self

    def __exit__(self, *_: object) -> None:
        global _profile
        _profile = None

    def rows(self, frames: int) -> dict[str, tuple[float, float]]:
        """Stage to (milliseconds per frame, share of the sum of all stages in 0…1), in order."""
        found = {stage: self.seconds[stage] for stage in STAGES if stage in self.seconds}
        return {stage: (1000 * took / frames, took / sum(found.values())) for stage, took in found.items()}

    def table(self, frames: int, seconds: float, frame_rate: Fraction) -> str:
        """The rows as text, and the speed from end to end: of so many frames in so many seconds (see [`speed`])."""
        rows = self.rows(frames)
        rows["sum"] = sum(ms for ms, _ in rows.values()), sum(share for _, share in rows.values())
        lines = [f"{stage:12}{ms:9.2f}{share:9.1%}" for stage, (ms, share) in rows.items()]
        last = f"{'end to end':12}{1000 * seconds / frames:9.2f}  {speed(frames, seconds, frame_rate)}"
        return "\n".join([f"{'stage':12}{'ms/frame':>9}{'share':>9}", *lines, last])


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time inside as that of a stage, if a [`Profile`] is being made."""
    profile = _profile
    if profile is None:
        yield
        return
    wait_for_device()
    begin = time.perf_counter()
    try:
        yield
        wait_for_device()
    finally:
        with _lock:
            profile.seconds[name] += time.perf_counter() - begin


def within(context: Callable[[], AbstractContextManager], items: Generator[Item]) -> Generator[Item]:
    """The items of a generator, which works in a context, such as a [`stage`], that whoever takes them is not in."""
    with closing(items):
        while True:
            with context():
                item = next(items, None)
            if item is None:
                return
            yield item


def wait_for_device() -> None:
    """What a GPU still has to do belongs to the stage that asked for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def speed(frames: int, seconds: float, frame_rate: Fraction) -> str:
    """Frames per second, and how many seconds of video are done in one, in words."""
    rate = frames / seconds
    return f"{rate:.1f} frames per second, {rate / frame_rate:.1f}× real time"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table whose columns have one width each; all but the first are set to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (header, rule, *rows):
        padded = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append(f"| {' | '.join(padded)} |")
    return lines
