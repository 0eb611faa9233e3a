"""
How well models predict gaze against what a map of a video costs them, all measured in one run.

    python benchmarks/trade_off.py dev.parquet --model salfom --size 192x256 288x384 384x512 -o trade_off
    python benchmarks/trade_off.py GAZE --dataset gazefolder --split validation --first 20 --every 5 \\
        --size 192x256 288x384 -o trade_off

Writes `trade_off/trade_off.json` and `trade_off/trade_off.svg`. Scores are kept there: a stopped run goes on. Times
are taken in rounds in which every model has its turn, so that whatever else the machine does slows all of them.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from drawing import COLORS, Dots, drawing, panel
from measuring import circumstances, tell
from salfom_hf import SaliencyPredictor
from salfom_hf.data import DATASETS, load
from salfom_hf.evaluation import Model, Protocol, Scores, evaluate
from salfom_hf.files import atomic_output
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.profiling import aligned

METRICS = ("nss", "cc", "sim", "auc_judd")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Scores on gaze against milliseconds per map.")
    parser.add_argument("gaze", type=Path, help="as --data-dir of salfom evaluate, as are the options up to --every")
    parser.add_argument("--dataset", default="stills", choices=DATASETS, help="default: %(default)s")
    parser.add_argument("--split", default="dev", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument(
        "--model", nargs="+", default=["salfom"], metavar="[LABEL=]NAME", help="names or folders; default: salfom"
    )
    parser.add_argument(
        "--size", nargs="+", type=size_of, metavar="HxW", help="input sizes in pixels; default: each model's own"
    )
    parser.add_argument("--frames", type=int, default=32, help="of the video that times are taken on; default: 32")
    parser.add_argument("--rounds", type=int, default=7, help="of timing, after one to warm up; default: 7")
    parser.add_argument("--peer", type=Path, metavar="FILE.json", help="more points: the output of an earlier run, or "
                        'by hand {"points": [{"label": …, "nss": …, "ms_per_map": …}]}')  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=Path("trade_off"), help="default: %(default)s")
    return parser


def size_of(text: str) -> tuple[int, int]:
    height, _, width = text.replace("×", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 288x384")
    return int(height), int(width)


def candidate(model: str, size: tuple[int, int] | None) -> tuple[str, Model]:
    """The label of a model, and the model at an input size."""
    label, _, name = model.rpartition("=")
    predictor = SaliencyPredictor.from_pretrained(name)
    if size is not None:
        predictor.processor.size = type(predictor.processor.size)(height=size[0], width=size[1])
        predictor.processor.still_size = None
    own = predictor.processor.size
    method = Model(name, predictor)
    method.name = f"{label or name} {own.height}×{own.width}"
    return label or name, method


def milliseconds(methods: list[Model], frames: int, rounds: int) -> list[list[float]]:
    """
    What a map of a video takes each model with its window, once per round, reading and encoding files aside.

    Args:
        frames: of the video, which has each model's input shape and so is not resized.
        rounds: after one that is not counted.
    """
    videos = []
    for method in methods:
        own = method.predictor.processor.size
        shape = (frames, own.height, own.width, 3)
        videos.append(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    times: list[list[float]] = [[] for _ in methods]
    for _ in range(rounds + 1):
        for method, video, taken in zip(methods, videos, times, strict=True):
            begin = time.perf_counter()
            for _ in method.predictor.stream(video):
                pass
            taken.append((time.perf_counter() - begin) * 1000 / frames)
    return [taken[1:] for taken in times]


def point(label: str, method: Model, scores: Scores, times: list[float]) -> dict:
    own = method.predictor.processor.size
    return {
        "label": label,
        "height": own.height,
        "width": own.width,
        "parameters": sum(weight.numel() for weight in method.predictor.model.parameters()),
        **{metric: scores.mean_over_videos(metric) for metric in METRICS},
        "nss_standard_error": scores.standard_error("nss"),
        "ms_per_map": statistics.median(times),
        "ms_per_round": times,
    }


def table(points: list[dict]) -> str:
    """Markdown; what a point lacks is left empty."""
    rows = []
    for one in points:
        size = f"{one['height']}×{one['width']}" if "height" in one else ""
        scores = [f"{one[metric]:.3f}" if metric in one else "" for metric in METRICS]
        rows.append([one["label"], size, *scores, f"{one['ms_per_map']:.1f}" if one.get("ms_per_map") else ""])
    return "\n".join(aligned(["model", "input", "NSS ↑", "CC ↑", "SIM ↑", "AUC-J ↑", "ms per map ↓"], rows))


def plot(points: list[dict]) -> str:
    """NSS against milliseconds per map, for points that have both; a line joins the sizes of one model. SVG."""
    points = [one for one in points if one.get("ms_per_map") and one.get("nss")]
    dots = []
    for number, label in enumerate(dict.fromkeys(one["label"] for one in points)):
        of_model = sorted((one for one in points if one["label"] == label), key=lambda one: one["ms_per_map"])
        words = {index: f"{one['height']}×{one['width']}" for index, one in enumerate(of_model) if "height" in one}
        words[len(of_model) - 1] = f"{label} {words.get(len(of_model) - 1, '')}".strip()
        places = [(one["ms_per_map"], one["nss"]) for one in of_model]
        dots.append(Dots(places, COLORS[number % len(COLORS)], words, joined=True))
    low = min(one["nss"] for one in points) - 0.1
    parts = panel((80, 50, 640, 400), dots, "milliseconds per map", "NSS", low)
    return drawing(880, 520, "NSS against milliseconds per map of a video", parts)


def main(given: list[str] | None = None) -> None:
    parser = arguments()
    args = parser.parse_args(given)
    if args.peer is not None and not args.peer.is_file():
        parser.error(f"there is no file {args.peer}; check the path of --peer")
    labelled = [candidate(model, size) for model in args.model for size in args.size or [None]]
    methods, about = [method for _, method in labelled], circumstances()
    keep_freed_memory()
    dataset = load(args.dataset, args.gaze, args.split)
    scores = evaluate(dataset, methods, args.output / "scores", Protocol(METRICS, first=args.first, every=args.every))
    times = milliseconds(methods, args.frames, args.rounds)
    points = [
        point(label, method, found, taken)
        for (label, method), found, taken in zip(labelled, scores, times, strict=True)
    ]
    if args.peer is not None:
        points += json.loads(args.peer.read_text(encoding="utf-8"))["points"]
    with atomic_output(args.output / "trade_off.svg", overwrite=True) as temporary:
        temporary.write_text(plot(points), encoding="utf-8")
    tell(about, table(points), args.output / "trade_off.json", dataset=args.dataset, rows=len(dataset), points=points)


if __name__ == "__main__":
    main()
