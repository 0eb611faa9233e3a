"""What is left of an evaluation: a table, JSON, CSV, and a picture of the best and worst frames."""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from .. import __version__
from ..data.augmentation import fixated_points
from ..data.contact_sheet import Cell, dotted, fitted, heated, sheet
from ..data.report import amount
from ..data.samples import BLUR_SIGMA, BLUR_WIDTH, VIDEO_WIDTH
from ..files import atomic_output
from ..inference.profiling import aligned
from ..metrics import LOWER_IS_BETTER
from .baselines import Center
from .methods import Method
from .running import write_json
from .scoring import (
    DEFINITIONS,
    METRICS,
    OTHER_FRAMES,
    WITHOUT_PREDICTION,
    Protocol,
    Scorer,
    Scores,
    blur_radius,
    defined,
    mean,
)

CONSTANT_MAPS = "A map that is constant or empty counts as chance: AUC 0.5, NSS, CC and SIM 0."

RESAMPLES = 10_000  # of videos, for the interval of a difference
ENOUGH_VIDEOS = 5  # for such an interval

ROWS = 3  # best frames, and as many worst ones
CELL = (320, 240)  # largest width and height of one picture


def table(scores: Sequence[Scores], protocol: Protocol, title: str, stills: bool, prior: Center | None = None) -> str:
    """
    The scores in markdown: methods side by side, as means over frames and over videos (of `stills` the same), and how
    they were made; `prior`: the center that information gain is measured over.
    """
    one, units = ("image", "images") if stills else ("frame", "videos")
    metrics, base, lines = protocol.metrics, scores[0], [title]

    def add(heading: str, methods: Sequence[Scores], cells: Callable[[Scores], list[str]], counted: str) -> None:
        headings = [f"{METRICS[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}" for metric in metrics]
        rows = [[label(method), *cells(method)] for method in methods]
        lines.extend(["", heading, "", *aligned(["method", *headings, counted], rows)])

    def over_frames(method: Scores) -> list[str]:
        return [*(f"{method.mean_over_frames(metric):.3f}" for metric in metrics), f"{method.num_frames:,}"]

    def over_videos(method: Scores) -> list[str]:
        means = [(method.mean_over_videos(metric), method.standard_error(metric)) for metric in metrics]
        cells = (f"{value:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}") for value, error in means)
        return [*cells, f"{method.num_videos:,}"]

    def differences(method: Scores) -> list[str]:
        values = [defined(method.difference(base, metric)) for metric in metrics]
        return [*map(with_interval, values), f"{max(map(len, values)):,}"]

    if not stills:
        add("Mean over frames", scores, over_frames, "frames")
    has_errors = any("±" in cell for method in scores for cell in over_videos(method))
    heading = "Mean over images" if stills else "Mean over videos (of each video's mean over its frames)"
    add(heading + " ± standard error" * has_errors, scores, over_videos, units)
    if has_errors and len(scores) > 1:
        # What is hard for one method is hard for all: differences are surer than the errors of the means tell.
        of = f"mean and, of {ENOUGH_VIDEOS} or more, 95 % of {RESAMPLES:,} bootstrap means"
        add(f"Difference from {base.name} on the same {units}: {of}", scores[1:], differences, units)
    lines.append("")
    if not stills and len(base.videos) == 1 and any(metric.startswith("auc_shuffled") for metric in metrics):
        lines += ["Of a single video, s-AUC draws its negatives from that video, too, so it says little."]
    lines += [f"{method.name}: {method.description}." for method in scores]
    lines += [f"{METRICS[metric]}: {definition}." for metric, definition in definitions(protocol, prior).items()]
    lines += [f"Maps: resized bilinearly to the native size as floating-point numbers, {blur_text(protocol)}."]
    lines += [CONSTANT_MAPS]
    if (protocol.first, protocol.every) != (0, 1):
        lines += [f"Of every video, one frame in {protocol.every} is scored, from frame {protocol.first} on."]
    if protocol.max_frames is not None:
        lines += [f"At most {protocol.max_frames:,} {one}s are scored, drawn at random with seed {protocol.seed}."]
    lines += [f"{method.name}: {omissions(method, metrics, one)}." for method in scores]
    return "\n".join(lines)


def label(method: Scores) -> str:
    """The name of a method, with how much of it there is if that is not all."""
    told = method.partial
    return f"{method.name} ({told['frames']:,} of {told['of_frames']:,} predicted)" if told else method.name


def with_interval(values: np.ndarray) -> str:
    """The mean and, of enough values, the middle 95 % of the means of as many, drawn with replacement."""
    if len(values) < ENOUGH_VIDEOS:
        return f"{mean(values):+.3f}"
    means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{mean(values):+.3f} [{low:+.3f}, {high:+.3f}]"


def definitions(protocol: Protocol, prior: Center | None) -> dict[str, str]:
    """What each metric of the protocol is, in words."""
    negatives = f", negatives from {OTHER_FRAMES} random other frames of the whole dataset, seed {protocol.seed}"
    more = {"auc_shuffled": negatives, "auc_shuffled_exact": negatives}
    if prior is not None:
        more["information_gain"] = f" over center: {prior.description}"
        if prior.gaze is not None and len(prior.gaze) <= ENOUGH_VIDEOS:
            more["information_gain"] += f"; of {len(prior.gaze)} alone, center and the gain over it say little"
    return {metric: DEFINITIONS[metric] + more.get(metric, "") for metric in protocol.metrics}


def density_text(dataset: Dataset) -> str:
    """How the densities came about that CC, SIM and KL-Div compare with, as far as the dataset knows."""
    if "image_id" in dataset.features:
        return f"fixations, blurred with a Gaussian of sigma {BLUR_SIGMA:g} pixels of an image {BLUR_WIDTH} wide"
    known = set(dataset.unique("sigma")) if "sigma" in dataset.features else set()
    if not known or None in known:
        return "maps of the dataset, blurred as it was made"
    sigmas = " and ".join(f"{sigma:g}" for sigma in sorted(known))
    return f"fixations, blurred with a Gaussian of sigma {sigmas} pixels of a video {VIDEO_WIDTH} wide"


def blur_text(protocol: Protocol) -> str:
    if not protocol.blur:
        return "not blurred"
    side = 2 * blur_radius(protocol.blur) + 1
    return f"blurred with a Gaussian of sigma {protocol.blur:g} pixels (kernel {side}×{side})"


def omissions(method: Scores, metrics: Sequence[str], one: str) -> str:
    """How many frames of a method were scored, and why not the others."""
    total = method.num_frames + sum(method.left_out.values())
    reasons = [f"{count:,} {reason}" for reason, count in method.left_out.items()]
    undefined = [f"{METRICS[metric]} for {count:,}" for metric in metrics if (count := method.undefined(metric))]
    text = f"{method.num_frames:,} of {amount(total, one)} scored"
    text += f"; left out: {', '.join(reasons)}" if reasons else ", none left out"
    return text + (f"; not defined by the ground truth: {', '.join(undefined)}" if undefined else "")


def write_reports(
    output: Path, scores: Sequence[Scores], protocol: Protocol, about: dict, prior: Center | None = None
) -> None:
    """
    Write `results.json`, with everything that the numbers depend on, such as `about`, what was scored and how it was
    run, `videos.csv`, one line per method and video, and `frames.csv`, one per method and scored frame, into the
    folder.
    """
    metrics = protocol.metrics
    how = {"maps": blur_text(protocol), "constant_maps": CONSTANT_MAPS, "definitions": definitions(protocol, prior)}
    methods = [
        {
            "name": method.name,
            "description": method.description,
            "fingerprint": method.fingerprint,
            "frames": method.num_frames,
            "videos": method.num_videos,
            "left_out": method.left_out,
            "partial": method.partial,
            "undefined": {metric: method.undefined(metric) for metric in metrics},
            "mean_over_frames": {metric: number(method.mean_over_frames(metric)) for metric in metrics},
            "mean_over_videos": {metric: number(method.mean_over_videos(metric)) for metric in metrics},
            "standard_error": {metric: number(method.standard_error(metric)) for metric in metrics},
        }
        for method in scores
    ]
    package = {"package": "salfom-hf", "version": __version__}
    write_json(output / "results.json", {**package, **about, "protocol": asdict(protocol) | how, "methods": methods})
    videos, frames = [], []
    for method in scores:
        means = zip(*(method.video_means(metric) for metric in metrics), strict=True)
        for video, row in zip(method.videos, means, strict=True):
            where = method.name, video["video_id"]
            left_out = sum(video["left_out"].values()), video["left_out"].get(WITHOUT_PREDICTION, 0)
            videos.append([*where, len(video["frames"]), *left_out, *map(number, row)])
            columns = (video["scores"][metric] for metric in metrics)
            frames += [[*where, *cells] for cells in zip(video["frames"], *columns, strict=True)]
    write_csv(
        output / "videos.csv", ["method", "video_id", "frames", "left_out", "without_prediction", *metrics], videos
    )
    write_csv(output / "frames.csv", ["method", "video_id", "frame", *metrics], frames)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Cells of numbers that do not exist, None, are left empty."""
    with atomic_output(path, overwrite=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def number(value: float) -> float | None:
    """The value, or None for NaN, which JSON lacks."""
    return None if math.isnan(value) else float(value)


# --------------------------------------------------------------------------------------------- best and worst frames
def picture(scorer: Scorer, methods: Sequence[Method], scores: Sequence[Scores]) -> Image.Image | None:
    """
    The frames on which the first method does best and worst, each with people's gaze and every method's map; None if
    there are fewer than two frames to show.
    """
    metrics, first = scorer.protocol.metrics, scores[0]
    metric = next((name for name in ("nss", "cc") if name in metrics), metrics[0])
    ranked = ranking(first, metric)
    count = min(ROWS, len(ranked) // 2)
    if not count:
        return None
    best = dissimilar(ranked, count, first)
    worst = dissimilar([place for place in reversed(ranked) if place not in best], count, first)
    shown = [name for name in dict.fromkeys((metric, "cc")) if name in metrics]
    scored = list(zip(methods, scores, strict=True))
    heading = f"Frames on which {first.name} has the highest and the lowest {METRICS[metric]}"
    rows = [
        (heading if (rank, number) == ("best", 1) else "", strip(scorer, scored, shown, f"{rank} {number}", *place))
        for rank, places in (("best", best), ("worst", worst))
        for number, place in enumerate(places, 1)
    ]
    return sheet(rows, CELL)


def ranking(scores: Scores, metric: str) -> list[tuple[int, int]]:
    """(row, frame) of all frames with that metric, the best first."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    places = [
        (sign * value, row, frame)
        for row, video in enumerate(scores.videos)
        for frame, value in zip(video["frames"], video["scores"][metric], strict=True)
        if value is not None
    ]
    return [(row, frame) for _, row, frame in sorted(places)]


def dissimilar(ranked: list[tuple[int, int]], count: int, scores: Scores) -> list[tuple[int, int]]:
    """The first of a ranking that look different: of different videos or, of few videos, well apart in time."""
    apart, chosen = len(scores.videos) >= 2 * count, []
    for row, frame in ranked:
        near = len(scores.videos[row]["frames"]) / (2 * count)
        if len(chosen) < count and not any(row == other and (apart or abs(frame - at) < near) for other, at in chosen):
            chosen.append((row, frame))
    # Similar ones are better than none.
    return (chosen + [place for place in ranked if place not in chosen])[:count]


def strip(
    scorer: Scorer, scored: Sequence[tuple[Method, Scores]], metrics: list[str], rank: str, row: int, index: int
) -> list[Cell]:
    """One row of the picture: the frame, people's gaze, and each method's map with its scores."""
    sample = scorer.sample(row)
    image = next(sample.frames(index, index + 1))
    frame, points = fitted(image, CELL), fixated_points(sample.fixations(index), (1, 1))
    where = sample.id if sample.num_frames == 1 else f"{sample.id}, frame {index}"
    gaze = dotted(heated(frame, sample.density(index)), points)
    cells = [Cell(rank, where, [frame]), Cell("human gaze", f"density and {len(points)} fixated pixels", [gaze])]
    for method, found in scored:
        drawn, video, told = frame, found.videos[row], "not scored"
        if method.available(sample, [index]):
            drawn = heated(frame, scorer.prepare(next(method.maps(sample, [index])), image.shape[:2]))
        if index in video["frames"]:
            values = [(m, video["scores"][m][video["frames"].index(index)]) for m in metrics]
            told = "   ".join(f"{METRICS[m]} {'undefined' if v is None else f'{v:.2f}'}" for m, v in values)
        cells.append(Cell(method.name, told, [drawn]))
    return cells
