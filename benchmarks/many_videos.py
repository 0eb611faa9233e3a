"""
What a second process gains: two of one thread each against one of one thread, over the same videos, in one run.

    python benchmarks/many_videos.py -o docs/measured/many-videos.json

Both take turns. One process has one core to itself and two have two, for what decodes and encodes runs in threads of
its own next to PyTorch's; Linux only. What counts is the ratio of frames per second; the whole commands are given too,
which also start Python and load the model.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import circumstances, described, table, tell
from salfom_hf.inference.benchmarking import EXAMPLE

COLUMNS = {"processes": "{}", "frames per second": "{:.1f}", "seconds of the command": "{:.1f}"}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Two processes with one thread each against one with one thread.")
    parser.add_argument("--video", type=Path, default=EXAMPLE, help="default: the example in the package")
    parser.add_argument("--videos", type=int, default=8, help="how many times it is predicted, default 8")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--format", default="overlay", help="default: %(default)s")
    parser.add_argument("--model", default="salfom", help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    return parser


def measure(processes: int, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """
    Frames per second, and seconds of the whole command.

    Raises:
        SystemExit: the command failed.
    """
    module = ["salfom_hf.predict", str(folder), "--device", "cpu", "--threads", "1"]
    module += ["--format", args.format, "--model", args.model]
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    cores = sorted(os.sched_getaffinity(0))[:processes]
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        done = subprocess.run(
            [*start, module[0], module[1], str(Path(output, "out")), *module[2:]],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begin
    found = re.search(r"([\d.]+) frames per second", done.stdout)
    if done.returncode or not found:
        sys.exit(done.stderr)
    return {"frames_per_second": float(found[1]), "seconds": seconds}


def main(given: list[str] | None = None) -> None:
    parser = arguments()
    args = parser.parse_args(given)
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("two processes need two cores to be compared with one")
    about = circumstances()
    rounds: dict[int, list[dict]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.videos):
            os.symlink(args.video.resolve(), Path(folder, f"{number}{args.video.suffix}"))
        for _ in range(args.rounds):
            for processes, found in rounds.items():
                found.append(measure(processes, Path(folder), args))
    medians = {
        processes: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for processes, found in rounds.items()
    }
    ratio = medians[2]["frames_per_second"] / medians[1]["frames_per_second"]
    rows = [dict(zip(COLUMNS, (processes, *found.values()), strict=True)) for processes, found in medians.items()]
    videos = f"{args.video.name}, {args.videos} times, {args.format}, {args.model}, one thread for each process"
    told = f"{videos}. {described(about)}.\n\n{table(COLUMNS, rows)}\n\n"
    told += f"{ratio:.2f} times as many frames per second"
    tell(about, told, args.output, rows=rows, ratio=ratio, rounds=rounds)


if __name__ == "__main__":
    main()
