"""`salfom predict` from file to file: drawing and encoding after the network, and at the same time.

Encoder and decoder of the network run side by side both times, as `SaliencyPredictor` has them on a CPU.

    python benchmarks/end_to_end.py --threads 2 -o docs/measured/end-to-end.json

The video is the package's example, repeated, 640×360 at 30 frames per second; what is written is the overlay. Both
ways take turns, so that whatever else the machine does meets both; tables are those of the median round. Stages that
run at once slow each other down: their table sums up to more time than passes. The weights are loaded before, and one
second is predicted, so that start-up (`benchmarks/startup.py`) does not count.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from measuring import circumstances, described, table, tell
from salfom_hf import SaliencyPredictor
from salfom_hf.inference.benchmarking import EXAMPLE
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.profiling import STAGES, Profile
from salfom_hf.inference.results import write
from salfom_hf.video.reading import probe, read_frames
from salfom_hf.video.writing import VideoWriter

SERIAL, OVERLAPPED = WAYS = ("one after the other", "at once")


def write_clip(path: Path, width: int, height: int, rate: int, seconds: float) -> None:
    """The example, scaled to a size, forth and back again as often as needed."""
    count = round(rate * seconds)
    images = [
        np.asarray(Image.fromarray(frame.image).resize((width, height)))
        for frame in islice(read_frames(EXAMPLE), count)
    ]
    with VideoWriter(path, width, height, Fraction(rate), overwrite=True) as writer:
        for number, image in enumerate(islice(cycle(images + images[::-1]), count)):
            writer.write(image, Fraction(number, rate))


def in_foreground(function: Callable, items: Iterable, size: int) -> Iterator:
    """What stands in for `in_background` where nothing is to overlap."""
    return (function(item) for item in items)


def run(predictor: SaliencyPredictor, clip: Path, output: Path, way: str) -> tuple[float, int, Profile]:
    """Seconds, frames, and the profile of one prediction."""
    info = probe(clip)
    begin = time.perf_counter()
    with ExitStack() as stack:
        profile = stack.enter_context(Profile())
        if way == SERIAL:
            stack.enter_context(patch("salfom_hf.inference.results.in_background", in_foreground))
        write(predictor.stream(clip), output, "overlay", info, overwrite=True)
    return time.perf_counter() - begin, info.num_frames, profile


def measure(args: argparse.Namespace, dtype: str, clip: Path, warm_up: Path) -> list[dict]:
    """A row for each way: milliseconds per frame of each stage in the median round, frames per second in all."""
    predictor = SaliencyPredictor.from_pretrained(args.model, "cpu", getattr(torch, dtype), batch_size=args.batch_size)
    output = clip.with_name("overlay.mp4")
    run(predictor, warm_up, output, SERIAL)
    runs = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            runs[way].append(run(predictor, clip, output, way))
    rows = []
    for way, results in runs.items():
        seconds, count, profile = sorted(results, key=lambda result: result[0])[len(results) // 2]
        rates = [count / seconds for seconds, count, _ in results]
        stages = {name: ms for name, (ms, _) in profile.rows(count).items()}
        row = {"dtype": dtype, "": way, **stages, "passed": 1000 * seconds / count}
        rows.append({**row, "frames per second": statistics.median(rates), "rounds": rates})
    return rows


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 360), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rate", type=int, default=30, help="frames per second, default %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="of video, default %(default)s")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch, default %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    about = circumstances()
    keep_freed_memory()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clip, warm_up = Path(folder) / "clip.mp4", Path(folder) / "second.mp4"
        write_clip(clip, *args.size, args.rate, args.seconds)
        write_clip(warm_up, *args.size, args.rate, min(1, args.seconds))
        for dtype in args.dtype:
            rows += measure(args, dtype, clip, warm_up)
    columns = {"dtype": "{}", "": "{}"} | {stage: "{:.1f}" for stage in STAGES if stage in rows[0]}
    columns |= {"passed": "{:.1f}", "frames per second": "{:.1f}"}
    video = f"{args.seconds:g} seconds of {args.size[0]}×{args.size[1]} at {args.rate} frames per second"
    told = f"{args.model}, {video}, median of {args.rounds} rounds, ms per frame. {described(about)}."
    told += f"\n\n{table(columns, rows)}"
    tell(about, told, args.output, rows=rows)


if __name__ == "__main__":
    main()
