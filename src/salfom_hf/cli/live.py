"""`salfom live`: cameras, network streams and pipes, shown as they come."""

import argparse
import os
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median_low
from typing import TYPE_CHECKING

from ..errors import VideoError
from ..files import Inputs, check_free, check_suffix, on_signals, stop
from ..models.names import local
from ..video.drawing import COLORMAPS, overlay
from ..video.reading import FILE_PROTOCOL
from ..video.writing import CONTAINERS, VideoWriter
from .common import COLOURS, MODEL, UsageError, add_model_options, load_predictor, not_negative, port_number

if TYPE_CHECKING:
    from ..inference.live import Slot

PORT = 7861


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "live",
        description="Show where people look in a live video: in a browser, unless an output is named.",
        example="salfom live 0\nsalfom live rtsp://camera/stream -o seen.mkv --duration 60",
    )
    option = command.add_argument
    source = "camera (0 is the first; or /dev/video0), address (rtsp://…, udp://…), - for a pipe, or file"
    option("source", metavar="SOURCE", help=source)
    output = "video file (MP4, MKV, …), address to send to (udp://…, rtmp://…), or - for standard output (MPEG-TS)"
    option("-o", "--output", help=output)
    serve = f"show it in browsers also when there is an output; default port: {PORT}"
    option("--serve", nargs="?", const=PORT, type=port_number, metavar="PORT", help=serve)
    option("--host", default="127.0.0.1", help="0.0.0.0 lets other machines watch")
    latency = "how long a frame may wait to be computed; what would wait longer is dropped"
    option("--latency", type=not_negative, default=0.1, metavar="SECONDS", help=latency)
    option("--model", default="salfom", help=MODEL)
    add_model_options(command, batches=False)
    option("--colormap", choices=tuple(COLORMAPS), default="turbo", help=COLOURS)
    option("--duration", type=not_negative, metavar="SECONDS", help="how much of it; default: all, until Ctrl-C")
    option("--overwrite", action="store_true", help="replace an existing output")
    command.set_defaults(run=live, stopped="nothing was shown yet")


def say(text: str, end: str = "\n") -> None:
    """Print where it cannot get into a video on standard output."""
    print(text, end=end, file=sys.stderr, flush=True)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether a signal that ends programs has come; the next one ends it at once."""
    signals: list[int] = []

    def note(number: int, _: object) -> None:
        # No more than a note: whatever runs now must be able to end in order.
        signals.append(number)
        signal.signal(number, stop)

    with on_signals(note):
        yield lambda: bool(signals)


class Status:
    """What is said of a run: on a terminal a line that changes every second, and a sentence at the end."""

    def __init__(self, slot: "Slot"):
        self.slot, self.recent = slot, 0
        # When each frame was shown, and how late, in seconds: a day of video needs 30 MB.
        self.times, self.latencies = array("d"), array("f")

    def shown(self, arrived: float) -> None:
        self.times.append(time.monotonic())
        self.latencies.append(self.times[-1] - arrived)
        if self.times[-1] - self.times[self.recent] >= 1:
            if sys.stderr.isatty():
                say(f"\r{self.told(self.recent)}, {self.slot.dropped} dropped\033[K", end="")
            self.recent = len(self.times)

    def told(self, first: int = 0) -> str:
        """Frames per second and latency, from this frame on."""
        late = sorted(round(1000 * latency) for latency in self.latencies[first:])
        if not late:
            return "no frames"
        passed = self.times[-1] - self.times[first]
        rate = (len(late) - 1) / passed if passed else 0.0
        return f"{rate:.1f} frames/s, latency {median_low(late)} ms (median) to {late[-1]} ms (maximum)"

    def finish(self, place: str) -> None:
        cleared = "\r\033[K" if sys.stderr.isatty() else ""
        passed = self.times[-1] - self.times[0] if self.times else 0.0
        frames = f"{len(self.times)} frames in {passed:.1f} s, {self.slot.dropped} dropped"
        say(f"{cleared}{frames}; {self.told()}{place}")


def live(args: argparse.Namespace) -> int:
    from ..inference.live import PictureServer, Reader, Slot, StreamWriter, predict_live, show, taken, warm_up
    from ..video.frames import shown_size

    to_file = args.output is not None and args.output != "-" and "://" not in args.output
    if args.output == "-" and os.isatty(1):
        raise UsageError("Standard output is a terminal; pipe it into a player, or name a file.")
    if to_file:
        check_suffix(args.output, CONTAINERS, "a video")
        source = "/dev/stdin" if args.source == "-" else args.source.removeprefix(FILE_PROTOCOL)
        check_free(args.output, args.overwrite, Inputs(source, *local(args.model)))
    slot = Slot(args.latency)
    status = Status(slot)
    with ExitStack() as stack:
        writes: list[Callable] = []
        server: PictureServer | None = None
        if args.output is None or args.serve is not None:
            server = stack.enter_context(PictureServer(args.host, PORT if args.serve is None else args.serve))
            writes.append(server.write)
        reader = Reader(args.source, slot)
        stack.callback(reader.stop)
        first = reader.wait()
        width, height = shown_size(first.picture, reader.pixel_aspect)
        predictor = load_predictor(args.model, args)
        warm_up(predictor, first, (height, width))
        writer: VideoWriter | StreamWriter | None = None
        if to_file:
            writer = VideoWriter(args.output, width, height, reader.frame_rate, overwrite=args.overwrite)
        elif args.output is not None:
            writer = StreamWriter(args.output, width, height, reader.frame_rate)
        stopped = stack.enter_context(stoppable())
        if writer is not None:
            writes.append(stack.enter_context(writer).write)
        if server is not None:
            say(f"Open {server.address} in a browser; Ctrl-C ends it.")
        reader.start()
        predicted = predict_live(predictor, taken(slot, args.duration, stopped), (height, width))
        try:
            show(predicted, partial(overlay, colormap=args.colormap), writes, status.shown)
        except VideoError as error:
            if not isinstance(error.__cause__, BrokenPipeError):
                raise
            say("The program that read the output has ended.")
    status.finish(f" -> {args.output}" if to_file else "")
    if reader.error is not None:
        raise reader.error
    return 0
