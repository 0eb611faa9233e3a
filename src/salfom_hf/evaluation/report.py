"""What is left of an evaluation: a table, JSON, CSV, and a picture of the best and worst frames."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from .. import __version__
from ..data.contact_sheet import Cell, centers, dotted, fitted, heated, sheet
from ..files import atomic_output
from ..inference.profiling import aligned
from .baselines import Center
from .methods import Method
from .running import write_json
from .scoring import METRICS, OTHER_FRAMES, WITHOUT_PREDICTION, Protocol, Scorer, Scores, blur_radius, mean

LOWER_IS_BETTER = {"kldiv"}
DEFINITIONS = {
    "auc_judd": "AUC-Judd as in the MIT benchmark, without jitter",
    "auc_shuffled": "shuffled AUC as published (sampled: 100 splits, thresholds in steps of 0.1)",
    "auc_shuffled_exact": "exact area of shuffled AUC",
    "nss": "standard deviation with ddof 1, as the MIT benchmark; each fixated pixel once",
    "cc": "Pearson's correlation with the density",
    "sim": "histogram intersection with the density, both scaled to 0…1, then divided by their sums",
    "kldiv": "Kullback-Leibler divergence from the density in nats, epsilon 2^-52",
    "information_gain": "information gain in bits per fixation",
}

CONSTANT_MAPS = "A map that is constant or empty counts as chance: AUC 0.5, NSS, CC and SIM 0."

RESAMPLES = 10_000  # of videos, for the interval of a difference

ROWS = 3  # best frames, and as many worst ones
CELL = (320, 240)  # largest width and height of one picture


def table(scores: Sequence[Scores], protocol: Protocol, title: str, stills: bool, prior: Center | None = None) -> str:
    """
    The scores in markdown: methods side by side, as means over frames and over videos, and how they were made.

    Args:
        title: names what was scored.
        stills: whether each video is one image, for which both means are the same.
        prior: the center that information gain is measured over.
    """
    one, many, units = ("image", "images", "images") if stills else ("frame", "frames", "videos")
    parts = [title]
    if not stills:
        rows = [
            [label(method), *(f"{method.mean_over_frames(m):.3f}" for m in protocol.metrics), f"{method.num_frames:,}"]
            for method in scores
        ]
        parts += ["", "Mean over frames", "", *grid(rows, protocol, "frames")]
    rows = [row_of_means(method, protocol) for method in scores]
    has_errors = any("±" in cell for row in rows for cell in row)
    heading = "Mean over images" if stills else "Mean over videos (of each video's mean over its frames)"
    parts += ["", heading + " ± standard error" * has_errors, "", *grid(rows, protocol, units)]
    if has_errors and len(scores) > 1:
        # What is hard for one method is hard for all: differences are surer than the errors of the means tell.
        rows = [row_of_differences(method, scores[0], protocol) for method in scores[1:]]
        heading = (
            f"Difference from {scores[0].name} on the same {units}: mean, and 95 % of {RESAMPLES:,} bootstrap means"
        )
        parts += ["", heading, "", *grid(rows, protocol, units)]
    parts += ["", *(f"{method.name}: {method.description}." for method in scores)]
    parts += [f"{METRICS[metric]}: {definition}." for metric, definition in definitions(protocol, prior).items()]
    how = f"Maps: resized bilinearly to the native size as floating-point numbers, {blur_text(protocol)}."
    return "\n".join([*parts, how, CONSTANT_MAPS, *omissions(scores, protocol, one, many)])


def label(method: Scores) -> str:
    """The name of a method, with how much of it there is if that is not all."""
    told = method.partial
    return f"{method.name} ({told['frames']:,} of {told['of_frames']:,} predicted)" if told else method.name


def row_of_means(method: Scores, protocol: Protocol) -> list[str]:
    cells = []
    for metric in protocol.metrics:
        error = method.standard_error(metric)
        cells.append(f"{method.mean_over_videos(metric):.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}"))
    return [label(method), *cells, f"{method.num_videos:,}"]


def row_of_differences(method: Scores, base: Scores, protocol: Protocol) -> list[str]:
    values = [method.difference(base, metric) for metric in protocol.metrics]
    cells = []
    for each in values:
        each = each[~np.isnan(each)]
        spread = "" if len(each) < 2 else " [{:+.3f}, {:+.3f}]".format(*bootstrap_interval(each))
        cells.append(f"{mean(each):+.3f}{spread}")
    return [label(method), *cells, f"{max(int((~np.isnan(each)).sum()) for each in values):,}"]


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the means of as many values, drawn with replacement."""
    means = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


def grid(rows: Sequence[Sequence[str]], protocol: Protocol, counted: str) -> list[str]:
    headings = [f"{METRICS[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}" for metric in protocol.metrics]
    return aligned(["method", *headings, counted], rows)


def definitions(protocol: Protocol, prior: Center | None) -> dict[str, str]:
    """What each metric of the protocol is, in words."""
    negatives = f", negatives from {OTHER_FRAMES} random other frames of the whole dataset, seed {protocol.seed}"
    more = {"auc_shuffled": negatives, "auc_shuffled_exact": negatives}
    if prior is not None:
        more["information_gain"] = f" over center: {prior.description}"
    return {metric: DEFINITIONS[metric] + more.get(metric, "") for metric in protocol.metrics}


def blur_text(protocol: Protocol) -> str:
    if not protocol.blur:
        return "not blurred"
    side = 2 * blur_radius(protocol.blur) + 1
    return f"blurred with a Gaussian of sigma {protocol.blur:g} pixels (kernel {side}×{side})"


def omissions(scores: Sequence[Scores], protocol: Protocol, one: str, many: str) -> list[str]:
    """Which frames were left out, and why; methods with the same omissions share a line."""
    sampled = []
    if protocol.max_frames is not None:
        sampled = [f"At most {protocol.max_frames:,} {many} are scored, drawn at random with seed {protocol.seed}."]
    lines: dict[str, list[str]] = {}
    for method in scores:
        total = method.num_frames + sum(method.left_out.values())
        reasons = [f"{count:,} {reason}" for reason, count in method.left_out.items()]
        text = f"{method.num_frames:,} of {total:,} {one if total == 1 else many} scored"
        text += f"; left out: {', '.join(reasons)}" if reasons else ", none left out"
        undefined = [f"{METRICS[m]} for {count:,}" for m in protocol.metrics if (count := method.undefined(m))]
        text += f"; not defined by the ground truth: {', '.join(undefined)}" if undefined else ""
        lines.setdefault(text, []).append(method.name)
    if len(lines) == 1:
        return [*sampled, f"{next(iter(lines))}."]
    return [*sampled, *(f"{', '.join(names)}: {text}." for text, names in lines.items())]


def write_reports(
    output: Path, scores: Sequence[Scores], protocol: Protocol, about: dict, prior: Center | None = None
) -> None:
    """
    Write `results.json`, with everything that the numbers depend on, and `videos.csv`, one line per method and video.

    Args:
        output: folder for both.
        about: what was scored and how it was run.
    """
    results = {
        "package": "salfom-hf",
        "version": __version__,
        **about,
        "protocol": {
            **asdict(protocol),
            "maps": blur_text(protocol),
            "constant_maps": CONSTANT_MAPS,
            "definitions": definitions(protocol, prior),
        },
        "methods": [
            {
                "name": method.name,
                "description": method.description,
                "fingerprint": method.fingerprint,
                "frames": method.num_frames,
                "videos": method.num_videos,
                "left_out": method.left_out,
                "partial": method.partial,
                "undefined": {metric: method.undefined(metric) for metric in protocol.metrics},
                "mean_over_frames": {m: number(method.mean_over_frames(m)) for m in protocol.metrics},
                "mean_over_videos": {m: number(method.mean_over_videos(m)) for m in protocol.metrics},
                "standard_error": {m: number(method.standard_error(m)) for m in protocol.metrics},
            }
            for method in scores
        ],
    }
    write_json(output / "results.json", results)
    with (
        atomic_output(output / "videos.csv", overwrite=True) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["method", "video_id", "frames", "left_out", "without_prediction", *protocol.metrics])
        for method in scores:
            columns = zip(*(method.values(metric) for metric in protocol.metrics), strict=True)
            for video, values in zip(method.videos, columns, strict=True):
                left_out = sum(video["left_out"].values()), video["left_out"].get(WITHOUT_PREDICTION, 0)
                # The writer leaves the cells of numbers that do not exist empty.
                means = [number(mean(column)) for column in values]
                writer.writerow([method.name, video["video_id"], len(video["frames"]), *left_out, *means])


def number(value: float) -> float | None:
    """The value, or None for NaN, which JSON lacks."""
    return None if math.isnan(value) else value


# --------------------------------------------------------------------------------------------- best and worst frames
def picture(scorer: Scorer, methods: Sequence[Method], scores: Sequence[Scores]) -> Image.Image | None:
    """
    The frames on which the first method does best and worst, each with people's gaze and every method's map.

    Returns:
        RGB, or None if there are fewer than two frames to show.
    """
    metric = next((name for name in ("nss", "cc") if name in scorer.protocol.metrics), scorer.protocol.metrics[0])
    ranked = ranking(scores[0], metric)
    count = min(ROWS, len(ranked) // 2)
    if not count:
        return None
    best = dissimilar(ranked, count, scores[0])
    worst = dissimilar([place for place in reversed(ranked) if place not in best], count, scores[0])
    shown = [name for name in dict.fromkeys((metric, "cc")) if name in scorer.protocol.metrics]
    strips = [
        strip(scorer, list(zip(methods, scores, strict=True)), shown, f"{rank} {number}", *place)
        for rank, places in (("best", best), ("worst", worst))
        for number, place in enumerate(places, 1)
    ]
    heading = f"Frames on which {scores[0].name} has the highest and the lowest {METRICS[metric]}"
    return sheet([(heading if cells is strips[0] else "", cells) for cells in strips], CELL)


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
    apart = len(scores.videos) >= 2 * count

    def alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
        near = len(scores.videos[one[0]]["frames"]) / (2 * count)
        return one[0] == other[0] and (apart or abs(one[1] - other[1]) < near)

    chosen: list[tuple[int, int]] = []
    for place in ranked:
        if len(chosen) < count and not any(alike(place, other) for other in chosen):
            chosen.append(place)
    # Similar ones are better than none.
    return (chosen + [place for place in ranked if place not in chosen])[:count]


def strip(
    scorer: Scorer, scored: Sequence[tuple[Method, Scores]], metrics: list[str], rank: str, row: int, index: int
) -> list[Cell]:
    """One row of the picture: the frame, people's gaze, and each method's map with its scores."""
    sample = scorer.sample(row)
    image = next(sample.frames(index, index + 1))
    frame, points = fitted(image, CELL), centers(sample.fixations(index))
    where = sample.id if sample.num_frames == 1 else f"{sample.id}, frame {index}"
    gaze = dotted(heated(frame, sample.density(index)), points)
    cells = [Cell(rank, where, [frame]), Cell("human gaze", f"density and {len(points)} fixated pixels", [gaze])]
    for method, found in scored:
        drawn = frame
        if method.available(sample, [index]):
            drawn = heated(frame, scorer.prepare(next(method.maps(sample, [index])), image.shape[:2]))
        cells.append(Cell(method.name, score_text(found, row, index, metrics), [drawn]))
    return cells


def score_text(scores: Scores, row: int, index: int, metrics: list[str]) -> str:
    """The scores of one frame, in words."""
    video = scores.videos[row]
    if index not in video["frames"]:
        return "not scored"
    values = [video["scores"][metric][video["frames"].index(index)] for metric in metrics]
    return "   ".join(
        f"{METRICS[m]} {'undefined' if v is None else f'{v:.2f}'}" for m, v in zip(metrics, values, strict=True)
    )
