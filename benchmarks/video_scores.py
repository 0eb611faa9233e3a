"""Scores on videos with the human bound next to them: a table, and a drawing over time and by video.

    salfom evaluate --dataset gazefolder --data-dir GAZE --split validation --first 20 --every 5 \\
        --model salfom --baseline center --baseline inter-observer -o RESULTS
    python benchmarks/video_scores.py RESULTS GAZE --split validation -o video-scores.svg

The table has the means over videos with their standard errors, and what share of inter-observer's each is ("–" where
that is not above 0, or of too few observers to be a bound); the drawing the NSS of every method against the time
since a video's start, and in every video.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from drawing import COLORS, Dots, drawing, panel, text
from salfom_hf.data import load_gazefolder
from salfom_hf.evaluation.running import folder_name, read_json
from salfom_hf.files import atomic_output
from salfom_hf.inference.profiling import aligned

BOUND = "inter-observer"
HEADINGS = {"nss": "NSS", "cc": "CC", "sim": "SIM", "auc_judd": "AUC-J", "information_gain": "IG"}


def records(results: Path, method: str) -> list[dict]:
    """Of every video, in the order of the dataset: `video_id`, `frames` and, by metric, `scores`."""
    return [
        record for path in sorted((results / "videos" / folder_name(method)).iterdir()) for record in read_json(path)
    ]


def means(video: dict, metric: str) -> float:
    return float(np.nanmean(np.array(video["scores"][metric], np.float64)))


def table(scored: dict[str, list[dict]], metrics: list[str], enough: bool = True) -> str:
    """`enough`: there are as many observers as a bound needs."""
    rows = []
    bound = {metric: enough * np.mean([means(video, metric) for video in scored[BOUND]]) for metric in metrics}
    for method, videos in scored.items():
        values = {metric: np.array([means(video, metric) for video in videos]) for metric in metrics}
        # One video has no error.
        errors = {m: f"{v.std(ddof=1) / len(v) ** 0.5:.3f}" if len(v) > 1 else "–" for m, v in values.items()}
        shares = {m: f"{values[m].mean() / bound[m]:.0%}" if bound[m] > 0 else "–" for m in metrics}
        cells = [f"{values[m].mean():.3f} ± {errors[m]} ({shares[m]})" for m in metrics]
        rows.append([method, *cells])
    return "\n".join(aligned(["method", *(HEADINGS[metric] for metric in metrics)], rows))


def plot(scored: dict[str, list[dict]], rates: dict[str, float]) -> str:
    over_time, by_video, legend = [], [], []
    for number, (color, (method, videos)) in enumerate(zip(COLORS, scored.items(), strict=False)):
        seconds: dict[int, list[float]] = {}
        for video in videos:
            own: dict[int, list[float]] = {}
            for frame, value in zip(video["frames"], video["scores"]["nss"], strict=True):
                if value is not None:
                    own.setdefault(int(frame / rates[video["video_id"]]), []).append(value)
            for second, values in own.items():
                seconds.setdefault(second, []).append(float(np.mean(values)))
        # Later, a few long videos alone would make the mean.
        common = {second: values for second, values in sorted(seconds.items()) if 2 * len(values) > len(videos)}
        over_time.append(Dots([(n + 0.5, float(np.mean(v))) for n, v in common.items()], color, joined=True))
        by_video.append(Dots([(n, means(video, "nss")) for n, video in enumerate(videos, 1)], color))
        legend.append(text(60 + 240 * number, 480, method, "start", color))
    names = [video["video_id"] for video in scored[BOUND]]
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    if len(listed) > 80:
        listed = "videos, in the order of videos.csv"
    low = min(0.0, *(y for one in (*over_time, *by_video) for _, y in one.points))
    across = "seconds since the video's start, while most videos last"
    parts = panel((60, 40, 560, 380), over_time, across, "NSS, mean over videos", low)
    parts += panel((720, 40, 520, 380), by_video, listed, "NSS of each video", low)
    return drawing(1300, 500, "NSS", parts + legend)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output folder of `salfom evaluate`, with inter-observer")
    parser.add_argument("folder", help="the gazefolder that was scored")
    parser.add_argument("--split", default="validation")
    parser.add_argument("-o", "--output", type=Path, default=Path("video-scores.svg"), help="default: %(default)s")
    args = parser.parse_args()
    settings = json.loads((args.results / "settings.json").read_text())
    scored = {method: records(args.results, method) for method in settings["methods"]}
    rows = load_gazefolder(args.folder, args.split).select_columns(["video_id", "fps"])
    described = {one["name"]: one["description"] for one in read_json(args.results / "results.json")["methods"]}
    enough = "no bound" not in described[BOUND]
    print(table(scored, [metric for metric in HEADINGS if metric in settings["metrics"]], enough))
    print("Read NSS alone as a share of people: in the other metrics a model may exceed half of the observers.")
    with atomic_output(args.output, overwrite=True) as temporary:
        temporary.write_text(plot(scored, {row["video_id"]: row["fps"] for row in rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
