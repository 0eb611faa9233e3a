"""
What scoring costs: processor time of `salfom evaluate` per frame, of maps read from files, with its default metrics.

    python benchmarks/scoring.py [--against OTHER/src] [--size 640x360 1920x1080] [-o scoring.json]

Scored in one process, on one core, on a small DHF1K that is made for it. `--against` names the source of another
version of the package, which has its turn in every round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import salfom_hf
from measuring import circumstances, described, table, tell
from salfom_hf.data import load_dhf1k
from salfom_hf.evaluation import Center, Predictions, Protocol, evaluate
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.models.losses import gaussian_blur

FIXATIONS = 20  # of each frame
COLUMNS = {"size": "{}", "version": "{}", "processor ms per frame": "{:.1f}"}


def make(folder: Path, width: int, height: int, videos: int, frames: int) -> None:
    """A DHF1K of a few videos, `dhf1k`, and maps to score, `maps`."""
    rng = np.random.default_rng(0)
    for video in range(601, 601 + videos):
        for frame in range(1, frames + 1):
            counts = torch.zeros(2, height, width)
            places = rng.normal(0.5, 0.15, (2, FIXATIONS, 2)).clip(0, 0.999) * (height, width)
            for one, where in zip(counts, places.astype(int), strict=True):
                one[where[:, 0], where[:, 1]] = 1
            density, saliency = gaussian_blur(counts, width / 30)
            clip = folder / "dhf1k" / "val" / f"{video:04d}"
            images = {
                clip / "images": 0 * density,
                clip / "maps": density / density.max(),
                clip / "fixation": counts[0],
            }
            for place, image in (images | {folder / "maps" / clip.name: saliency / saliency.max()}).items():
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray((255 * image).byte().numpy()).save(place / f"{frame:04d}.png")


def score(folder: Path) -> float:
    """Milliseconds of processor time per frame."""
    torch.set_num_threads(1)
    keep_freed_memory()
    protocol = Protocol(("auc_judd", "auc_shuffled", "nss", "cc", "sim", "kldiv", "information_gain"))
    dataset, method = load_dhf1k(folder / "dhf1k", "val"), Predictions(folder / "maps")
    with tempfile.TemporaryDirectory() as output:
        begin = time.process_time()
        (scores,) = evaluate(dataset, [method], Path(output, "scores"), protocol, prior=Center(), processes=1)
        return 1000 * (time.process_time() - begin) / scores.num_frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="SRC", help="folder that holds another salfom_hf")
    parser.add_argument("--size", nargs="+", default=["640x360", "1920x1080"], help="default: 640x360 1920x1080")
    parser.add_argument("--videos", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=30, help="of each video, default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.score:
        print(score(args.score))
        return
    about, rows = circumstances(), []
    sources = {"this": Path(salfom_hf.__file__).parents[1]} | ({"other": args.against} if args.against else {})
    for size in args.size:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), *map(int, size.split("x")), args.videos, args.frames)
            times: dict[str, list[float]] = {name: [] for name in sources}
            for _ in range(args.rounds):
                for name, source in sources.items():
                    command = [sys.executable, __file__, "--score", folder]
                    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                    times[name].append(float(done.stdout))
            rows += [
                {"size": size, "version": name, "processor ms per frame": statistics.median(taken)}
                for name, taken in times.items()
            ]
    tell(about, f"{described(about)}.\n\n{table(COLUMNS, rows)}", args.output, rows=rows)


if __name__ == "__main__":
    main()
