"""Validation sets where there is no official one."""

import re
from collections.abc import Collection

import datasets
import numpy as np

from .features import id_column


def held_out(names: Collection[str], fraction: float, seed: int) -> set[str]:
    """A share of distinct names, the same for the same names and seed; at least one, and not all."""
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must be between 0 and 1, not {fraction}.")
    if len(names) < 2:
        raise ValueError(f"Nothing can be held out of {len(names)} video; give a dataset of two or more.")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    ordered = sorted(names)
    return {ordered[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}


def hold_out(
    dataset: datasets.Dataset, fraction: float = 0.1, seed: int = 0
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """
    Divide a training set into one to train on and one to validate on, by videos (or images).

    The choice depends on the ids and the seed alone, not on the order of the rows. Shots of one film clip
    (`actioncliptrain00001_1`, `…_2` of Hollywood-2) stay together.

    Args:
        fraction: of the videos that is held out, between 0 and 1; at least one is, and at least one is not.

    Returns:
        (training set, validation set), rows in their order.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are not two videos.
    """
    names = dataset[id_column(dataset.column_names)]
    groups = [re.sub(r"_[0-9]+$", "", name) if "video_id" in dataset.column_names else name for name in names]
    held = held_out(set(groups), fraction, seed)
    is_held = np.array([group in held for group in groups])
    return dataset.select(np.flatnonzero(~is_held)), dataset.select(np.flatnonzero(is_held))
