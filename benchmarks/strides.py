"""
What `--stride k`, maps of every k-th frame and interpolation between, costs in scores on gaze and gains in time.

    python benchmarks/strides.py --dataset ucf_sports --data-dir FOLDER [--split test] [-o strides.json]

Scores are those of `salfom evaluate`. Times are of predicting a video of the model's input size, without reading and
writing files, in rounds in which every stride has its turn.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from measuring import circumstances, described, tell
from salfom_hf import SaliencyPredictor
from salfom_hf.data import DATASETS, load
from salfom_hf.evaluation import METRICS, Model, Protocol, Scores, evaluate
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.profiling import aligned
from trade_off import milliseconds

SHOWN = ("nss", "cc", "sim", "auc_judd")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Scores on gaze and time of maps at several strides.")
    parser.add_argument("--dataset", required=True, choices=[name for name in DATASETS if name != "stills"])
    parser.add_argument("--data-dir", required=True, type=Path, help="folder of the dataset")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--model", default="salfom", help="default: %(default)s")
    parser.add_argument("--strides", nargs="+", type=int, default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=4, help="windows per call, default 4")
    parser.add_argument("--max-frames", type=int, help="score so many random frames, as salfom evaluate")
    parser.add_argument("--frames", type=int, default=48, help="of the video that times are taken on, default 48")
    parser.add_argument("--rounds", type=int, default=5, help="of timing, after one to warm up; default: 5")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    return parser


def method_of(stride: int, args: argparse.Namespace) -> Model:
    dtype = getattr(torch, args.dtype)
    predictor = SaliencyPredictor.from_pretrained(args.model, args.device, dtype, stride, args.batch_size)
    method = Model(args.model, predictor)
    method.name = f"stride {stride}"
    return method


def row_of(stride: int, scores: Scores, times: list[float], first: list[float]) -> dict:
    """
    Args:
        times, first: milliseconds per map of each round, at this stride and at the first one.
    """
    return {
        "stride": stride,
        **{metric: scores.mean_over_frames(metric) for metric in SHOWN},
        "ms_per_map": statistics.median(times),
        # Of the same round, which the machine's other work slows alike.
        "times_as_fast": statistics.median(one / other for one, other in zip(first, times, strict=True)),
    }


def table(rows: list[dict]) -> str:
    """Markdown."""
    cells = [
        [
            str(row["stride"]),
            *(f"{row[metric]:.3f}" for metric in SHOWN),
            f"{row['ms_per_map']:.1f}",
            f"{row['times_as_fast']:.2f}",
        ]
        for row in rows
    ]
    headings = [f"{METRICS[metric]} ↑" for metric in SHOWN]
    return "\n".join(aligned(["stride", *headings, "ms per map ↓", "times as fast"], cells))


def main(given: list[str] | None = None) -> None:
    args = arguments().parse_args(given)
    about = circumstances(args.device)
    keep_freed_memory()
    dataset = load(args.dataset, args.data_dir, args.split)
    methods = [method_of(stride, args) for stride in args.strides]
    with tempfile.TemporaryDirectory() as folder:
        protocol = Protocol(SHOWN, max_frames=args.max_frames)
        scores = evaluate(dataset, methods, Path(folder, "scores"), protocol)
    times = milliseconds(methods, args.frames, args.rounds)
    rows = [
        row_of(stride, found, taken, times[0])
        for stride, found, taken in zip(args.strides, scores, times, strict=True)
    ]
    videos, frames = scores[0].num_videos, scores[0].num_frames
    told = (
        f"{args.model}, {args.dtype}; {args.dataset}, split {args.split}: {videos:,} video{'s' * (videos != 1)}, "
        f"means over {frames:,} frames. {described(about)}.\n\n{table(rows)}"
    )
    tell(about, told, args.output, rows=rows)


if __name__ == "__main__":
    main()
