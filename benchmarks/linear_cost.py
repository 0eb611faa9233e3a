"""
How the cost of a video grows: with its length, the resolution of what the network sees, and the number of its windows.

    python benchmarks/linear_cost.py --threads 2 -o docs/measured/linear-cost.json --plot docs/linear-cost.svg

Every point is `SaliencyPredictor.stream` over a whole video in a process of its own: seconds without importing and
loading, and the peak of the memory that the process held. Points take turns, and of each the median counts. Prints
what straight lines through the points leave over. The length's points have a stride of 1, those of windows the others.
Linux only.
"""

import argparse
import math
import statistics
import tempfile
import time
from html import escape
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from tqdm import tqdm
from transformers.image_utils import SizeDict

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
WIDTH, PANEL, TOP, LEFT, GAP = 960, 230, 40, 66, 92
COST, MEMORY = "#1d5fa8", "#c8680a"
INK, GRID = "#16202c", "#d9dee5"


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
        panel = [row for row in rows if row["varied"] == varied]
        memory = [row["peak memory, MiB"] for row in panel]
        _, _, left_over = line_through(panel)
        said.append(
            f"over {label}: seconds lie within {left_over:.1%} of a straight line; peak memory {min(memory):.0f} to "
            f"{max(memory):.0f} MiB"
        )
    return said


def text(x: float, y: float, words: str, anchor: str = "middle", color: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'


def round_step(highest: float) -> float:
    """1, 2 or 5 times a power of ten, four to nine of which lie below the highest value."""
    power = 10 ** math.floor(math.log10(highest / 4))
    return max(power * factor for factor in (1, 2, 5) if power * factor <= highest / 4)


def panel(left: float, top: float, rows: list[dict], value: str, color: str, label: str) -> list[str]:
    """A value over what one panel varies; both axes begin at 0."""
    right, bottom = left + PANEL, top + PANEL
    widest, highest = 1.1 * max(row["across"] for row in rows), 1.25 * max(row[value] for row in rows)

    def place(across: float, upwards: float) -> tuple[float, float]:
        return left + across / widest * PANEL, bottom - upwards / highest * PANEL

    drawn = [f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="{INK}"/>']
    for tick in np.arange(0, widest, round_step(widest)):
        x, _ = place(tick, 0)
        drawn.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{INK}"/>')
        drawn.append(text(x, bottom + 20, f"{tick:g}"))
    for tick in np.arange(round_step(highest), highest, round_step(highest)):
        _, y = place(0, tick)
        drawn.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{GRID}"/>')
        drawn.append(text(left - 8, y + 5, f"{tick:g}", "end"))
    if value == "seconds":
        slope, intercept, _ = line_through(rows)
        (x1, y1), (x2, y2) = place(0, intercept), place(widest, intercept + slope * widest)
        drawn.append(f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}" stroke-dasharray="6 4"/>')
    for row in rows:
        x, y = place(row["across"], row[value])
        drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')
    return [*drawn, text(left + PANEL / 2, bottom + 42, label), text(left, top - 12, value, "start", color)]


def plot(rows: list[dict]) -> str:
    """Seconds above, peak memory below; length, resolution and number of windows from left to right. SVG."""
    height = 2 * (PANEL + TOP + 60)
    drawn = []
    for column, (varied, label) in enumerate(PANELS.items()):
        left = LEFT + column * (PANEL + GAP)
        found = [row for row in rows if row["varied"] == varied]
        drawn += panel(left, TOP, found, "seconds", COST, label)
        drawn += panel(left, height / 2 + TOP, found, "peak memory, MiB", MEMORY, label)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
            'font-size="14" role="img">',
            "<title>Seconds and peak memory over length, resolution and number of windows</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            *drawn,
            "</svg>\n",
        ]
    )


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
