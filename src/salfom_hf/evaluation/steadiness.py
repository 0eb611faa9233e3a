"""How steady the maps of a video are: the correlation of each map with the one before."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..files import atomic_output
from . import metrics
from .report import aligned, number
from .scoring import mean


def steadiness(maps: Iterable[np.ndarray]) -> np.ndarray:
    """
    CC of each map of a video with the one before, 1 for maps that are alike.

    Args:
        maps: non-negative `(height, width)`, all of one size; no more than two are held.

    Returns:
        float64 `(maps − 1,)` in −1…1; NaN where one of the two is constant.

    Raises:
        ValueError: sizes differ, or a map holds NaN or infinity.
    """
    values, previous = [], None
    for saliency in maps:
        current = torch.as_tensor(saliency, dtype=torch.float64)
        if previous is not None:
            values.append(float(metrics.cc(current, previous)))
        previous = current
    return np.array(values, dtype=np.float64)


def steadiness_table(videos: Sequence[str], values: dict[str, Sequence[np.ndarray]]) -> str:
    """
    The mean of each video in markdown, methods side by side, and the mean of these means.

    Args:
        videos: their names.
        values: by method, what [`steadiness`] gave for each video.
    """
    columns = means(values)
    frames = frame_numbers(values)
    rows = [[video, *(f"{column[row]:.4f}" for column in columns.values()), f"{frames[row]:,}"]
            for row, video in enumerate(videos)]  # fmt: skip
    rows.append(["mean", *(f"{mean(column):.4f}" for column in columns.values()), f"{sum(frames):,}"])
    return "\n".join(aligned(["video", *columns, "frames"], rows))


def means(values: dict[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """By method, float64 `(videos,)`."""
    return {name: np.array([mean(found) for found in rows]) for name, rows in values.items()}


def frame_numbers(values: dict[str, Sequence[np.ndarray]]) -> list[int]:
    """How many frames each video has."""
    return [len(found) + 1 for found in next(iter(values.values()))]


def write_steadiness(
    path: Path, videos: Sequence[str], values: dict[str, Sequence[np.ndarray]], about: dict, overwrite: bool = False
) -> None:
    """
    Write JSON with what [`steadiness_table`] shows.

    Args:
        about: how it was run.
    """
    results = {
        "package": "salfom-hf",
        "version": __version__,
        **about,
        "measure": "CC of the maps of consecutive frames, mean of each video",
        "frames": dict(zip(videos, frame_numbers(values), strict=True)),
        "methods": [
            {
                "name": name,
                "mean_over_videos": number(mean(column)),
                "videos": dict(zip(videos, map(number, column.tolist()), strict=True)),
            }
            for name, column in means(values).items()
        ],
    }
    with atomic_output(path, overwrite) as temporary:
        temporary.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["steadiness", "steadiness_table", "write_steadiness"]
