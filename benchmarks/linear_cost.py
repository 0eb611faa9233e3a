"""
How the cost of a video grows: with its length, the resolution of what the network sees, and the number of its windows.

    python benchmarks/linear_cost.py --threads 2 -o docs/measured/linear-cost.json --plot docs/linear-cost.svg

Every point is `SaliencyPredictor.stream` over a whole video in a process of its own: seconds without importing and
loading, and the peak of the memory that the process held. Points take turns, and of each the median counts. Prints
what straight lines through the points leave over. The length's points have a stride of 1, those of windows the others.
Linux only.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from tqdm import tqdm
from transformers.image_utils import SizeDict

from drawing import COLORS, Dots, drawing, panel
from measuring import circumstances, described, in_own_process, memory_status, table, tell
from salfom_hf import SaliencyPredictor
from salfom_hf.files import atomic_output
from salfom_hf.inference.cpu import keep_freed_memory

RATE = 30
# What each panel varies, and the label of its horizontal axis.
PANELS = {
    "length": "frames of video",
    "resolution": "megapixels that the network sees",
    "windows": "windows seen by the network",
}
COLUMNS = {
    "varied": "{}",
    "width": "{}",
    "height": "{}",
    "frames": "{}",
    "stride": "{}",
    "seconds": "{:.2f}",
    "from": "{:.2f}",
    "to": "{:.2f}",
    "ms per frame": "{:.1f}",
    "peak memory, MiB": "{:.0f}",
}

# Of the drawing, in its own units.
WIDTH, HEIGHT, PANEL, TOP, LEFT, GAP = 960, 660, 230, 40, 66, 92


class Point(NamedTuple):
    """One video and how it is predicted; where the resolution varies, the network sees it as large as it is."""

    varied: str
    width: int
    height: int
    frames: int
    stride: int

    @property
    def across(self) -> float:
        """Where it stands on its panel's horizontal axis."""
        if self.varied == "length":
            return self.frames
        if self.varied == "resolution":
            return self.width * self.height / 1e6
        # Every k-th frame and the last one.
        return (self.frames - 1) // self.stride + 1 + ((self.frames - 1) % self.stride > 0)


def points_of(lengths: list[int], sizes: list[tuple[int, int]], strides: list[int]) -> list[Point]:
    """Each varies one thing, with the others at the smallest of what was asked for; but strides need a long video."""
    width, height = min(sizes)
    found = [Point("length", width, height, length, 1) for length in lengths]
    found += [Point("resolution", *size, min(lengths), 1) for size in sizes]
    return found + [Point("windows", width, height, max(lengths), stride) for stride in strides]


def write_video(path: Path, point: Point) -> None:
    """A pattern that moves, so that frames differ."""
    pattern = np.random.default_rng(0).integers(
        0, 256, (point.height // 8 + 1, point.width // 8 + 1, 3), dtype=np.uint8
    )
    pattern = pattern.repeat(8, axis=0).repeat(8, axis=1)[: point.height, : point.width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = point.width, point.height, "yuv420p"
        for index in range(point.frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(pattern, 2 * index, axis=1)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def measured(model: str, video: Path, point: Point, threads: int | None) -> tuple[float, float]:
    """(seconds of a stream over a video, peak MiB of this process)."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    predictor = SaliencyPredictor.from_pretrained(model, stride=point.stride)
    if point.varied == "resolution":
        predictor.processor.size = SizeDict(height=point.height, width=point.width)
        predictor.processor.keep_aspect_ratio = False
    begin = time.perf_counter()
    for _ in predictor.stream(video):
        pass
    return time.perf_counter() - begin, memory_status("VmHWM")


def line_through(rows: list[dict]) -> tuple[float, float, float]:
    """(slope, intercept, largest distance of a point from the line, relative to the largest value)."""
    across, seconds = ([row[name] for row in rows] for name in ("across", "seconds"))
    slope, intercept = np.polyfit(across, seconds, 1)
    left_over = np.abs(np.polyval((slope, intercept), across) - seconds).max() / max(seconds)
    return float(slope), float(intercept), float(left_over)


def verdicts(rows: list[dict]) -> list[str]:
    """What the points say of each panel."""
    said = []
    for varied, label in PANELS.items():
        found = [row for row in rows if row["varied"] == varied]
        memory = [row["peak memory, MiB"] for row in found]
        _, _, left_over = line_through(found)
        said.append(
            f"over {label}: seconds lie within {left_over:.1%} of a straight line; peak memory {min(memory):.0f} to "
            f"{max(memory):.0f} MiB"
        )
    return said


def plot(rows: list[dict]) -> str:
    """Seconds above, peak memory below; length, resolution and number of windows from left to right. SVG."""
    parts = []
    for column, (varied, label) in enumerate(PANELS.items()):
        left = LEFT + column * (PANEL + GAP)
        found = [row for row in rows if row["varied"] == varied]
        for number, value in enumerate(("seconds", "peak memory, MiB")):
            dots = Dots([(row["across"], row[value]) for row in found], COLORS[number])
            line = line_through(found)[:2] if value == "seconds" else None
            parts += panel((left, TOP + number * HEIGHT / 2, PANEL, PANEL), [dots], label, value, line=line)
    return drawing(WIDTH, HEIGHT, "Seconds and peak memory over length, resolution and number of windows", parts)


def size_of(words: str) -> tuple[int, int]:
    width, _, height = words.partition("x")
    if not (width.isdecimal() and height.isdecimal()) or int(width) % 2 or int(height) % 2:
        raise argparse.ArgumentTypeError(f"{words} is not a size of even numbers such as 640x384")
    return int(width), int(height)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", default="salfom", help="name or folder, default %(default)s")
    parser.add_argument("--lengths", type=int, nargs="+", default=[150, 300, 600, 1200], help="in frames")
    parser.add_argument(
        "--sizes", type=size_of, nargs="+", metavar="WxH", help="default: 192x128 320x192 448x256 512x320 640x384",
        default=[(192, 128), (320, 192), (448, 256), (512, 320), (640, 384)],
    )  # fmt: skip
    parser.add_argument("--strides", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    parser.add_argument("--plot", type=Path, help="SVG file")
    args = parser.parse_args(given)
    if min(map(len, (args.lengths, args.sizes, args.strides))) < 3:
        parser.error("a straight line is tested by three points or more: give as many lengths, sizes and strides")
    if args.threads:
        torch.set_num_threads(args.threads)  # For what is written down; other processes set their own.
    about = circumstances()

    points = points_of(args.lengths, args.sizes, args.strides)
    found = {point: [] for point in points}
    with tempfile.TemporaryDirectory() as folder:
        videos = {}
        for point in points:
            video = Path(folder) / f"{point.width}x{point.height}_{point.frames}.mp4"
            if video not in videos.values():
                write_video(video, point)
            videos[point] = video
        with tqdm(total=args.rounds * len(points), unit="run", disable=None) as bar:
            for _ in range(args.rounds):
                for point, video in videos.items():
                    found[point].append(in_own_process(measured, args.model, video, point, args.threads))
                    bar.update()

    rows = []
    for point, runs in found.items():
        seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        rows.append(
            {**point._asdict(), "across": point.across, "seconds": seconds, "from": min(runs)[0], "to": max(runs)[0]}
            | {"ms per frame": 1000 * seconds / point.frames, "peak memory, MiB": memory, "runs": runs}
        )
    told = f"{args.model}, float32, {described(about)}."
    told = "\n\n".join([told, table(COLUMNS, rows), "\n".join(f"- {line}" for line in verdicts(rows))])
    tell(about, told, args.output, rows=rows)
    if args.plot is not None:
        with atomic_output(args.plot, overwrite=True) as temporary:
            temporary.write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
