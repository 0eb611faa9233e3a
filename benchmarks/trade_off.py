"""
How well models predict gaze on stills against what a map of a video costs them, all measured in one run.

    python benchmarks/trade_off.py dev.parquet --model salfom --size 192x256 288x384 384x512 -o trade_off

Writes `trade_off/trade_off.json` and `trade_off/trade_off.png`. Scores are kept there: a stopped run goes on. Times
are taken in rounds in which every model has its turn, so that whatever else the machine does slows all of them.
"""

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from salfom_hf import SaliencyPredictor, __version__
from salfom_hf.data import load
from salfom_hf.evaluation import Model, Protocol, Scores, evaluate
from salfom_hf.files import atomic_output
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.profiling import aligned

METRICS = ("nss", "cc", "sim", "auc_judd")

# Of the plot, in pixels.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1200, 800, 90, 200, 60, 80
TEXT, DOT = 20, 7
INK, GRID = (20, 20, 20), (225, 225, 225)
COLORS = ((0, 107, 164), (200, 82, 0), (89, 89, 89), (0, 128, 96), (140, 60, 150), (150, 120, 0))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Scores on stills against milliseconds per map.")
    parser.add_argument("stills", type=Path, help="table or folder of stills, as for salfom evaluate --dataset stills")
    parser.add_argument("--split", default="dev", help="default: %(default)s")
    parser.add_argument(
        "--model", nargs="+", default=["salfom"], metavar="[LABEL=]NAME", help="names or folders; default: salfom"
    )
    parser.add_argument(
        "--size", nargs="+", type=size_of, metavar="HxW", help="input sizes in pixels; default: each model's own"
    )
    parser.add_argument("--frames", type=int, default=32, help="of the video that times are taken on; default: 32")
    parser.add_argument("--rounds", type=int, default=7, help="of timing, beside one to warm up; default: 7")
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


def ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers that span what lies between."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    first = math.floor(low / step)
    return [round(step * number, 10) for number in range(first, math.ceil(high / step) + 1)]


def plot(points: list[dict]) -> Image.Image:
    """NSS against milliseconds per map; a line joins the sizes of one model. Points without either are left out."""
    points = [one for one in points if one.get("ms_per_map") and one.get("nss")]
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(TEXT)
    scores, times = [one["nss"] for one in points], [one["ms_per_map"] for one in points]
    across = ticks(0, max(times) * 1.02)
    # A little more than the points span: of one point alone there is no span.
    upwards = ticks(min(scores) - 0.01, max(scores) + 0.01)

    def place(milliseconds: float, nss: float) -> tuple[float, float]:
        x = LEFT + (milliseconds - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (nss - upwards[0]) / (upwards[-1] - upwards[0]) * (HEIGHT - TOP - BOTTOM)
        return x, y

    for tick in across:
        x, y = place(tick, upwards[0])
        draw.line((x, TOP, x, y), fill=GRID)
        draw.text((x, y + 8), f"{tick:g}", fill=INK, font=font, anchor="ma")
    for tick in upwards:
        x, y = place(across[0], tick)
        draw.line((x, y, WIDTH - RIGHT, y), fill=GRID)
        draw.text((x - 8, y), f"{tick:g}", fill=INK, font=font, anchor="rm")
    middle = (LEFT + WIDTH - RIGHT) / 2
    draw.text((middle, HEIGHT - BOTTOM + 40), "milliseconds per map", fill=INK, font=font, anchor="ma")
    draw.text((LEFT, TOP - 40), "NSS on stills", fill=INK, font=font)
    for number, label in enumerate(dict.fromkeys(one["label"] for one in points)):
        color = COLORS[number % len(COLORS)]
        of_model = sorted((one for one in points if one["label"] == label), key=lambda one: one["ms_per_map"])
        places = [place(one["ms_per_map"], one["nss"]) for one in of_model]
        if len(places) > 1:
            draw.line(places, fill=color, width=2)
        for one, (x, y) in zip(of_model, places, strict=True):
            draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=color)
            # The font that comes with Pillow lacks ×.
            size = f"{one['height']}x{one['width']}" if "height" in one else ""
            name = label if one is of_model[-1] else ""
            draw.text((x + 12, y + 14), f"{name} {size}".strip(), fill=color, font=font, anchor="lm")
    return image


def main(given: list[str] | None = None) -> None:
    parser = arguments()
    args = parser.parse_args(given)
    if args.peer is not None and not args.peer.is_file():
        parser.error(f"there is no file {args.peer}; check the path of --peer")
    labelled = [candidate(model, size) for model in args.model for size in args.size or [None]]
    methods = [method for _, method in labelled]
    keep_freed_memory()
    dataset = load("stills", args.stills, args.split)
    scores = evaluate(dataset, methods, args.output / "scores", Protocol(METRICS))
    times = milliseconds(methods, args.frames, args.rounds)
    points = [
        point(label, method, found, taken)
        for (label, method), found, taken in zip(labelled, scores, times, strict=True)
    ]
    if args.peer is not None:
        points += json.loads(args.peer.read_text(encoding="utf-8"))["points"]
    result = {
        "package": "salfom-hf",
        "version": __version__,
        "stills": len(dataset),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "points": points,
    }
    with atomic_output(args.output / "trade_off.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_output(args.output / "trade_off.png", overwrite=True) as temporary:
        plot(points).save(temporary)
    print(table(points))


if __name__ == "__main__":
    main()
