"""
Scores of saliency maps: AUC-Judd, shuffled AUC, NSS, CC, SIM, KLD and information gain.

Every function takes one map `(height, width)` or a batch `(batch, height, width)` and gives one float64 number per
map: a scalar tensor or `(batch,)`, on the device of the saliency maps. Whatever the dtype, computing is in float64, on
the CPU (Apple's `mps` cannot hold the result: move maps to the CPU there). Saliency may have any scale; nothing is
resized here. Shapes that differ, values that are not finite, and negative values where none may be are a ValueError
that says which.

A number that is undefined is NaN, never a guess: with `mean = scores.nanmean()` and `scores.isnan().sum()` it is left
out and counted. That is so

- for AUC, NSS and information gain of a frame without fixations, and for AUC-Judd where all pixels are fixated;
- for shuffled AUC without a single other fixation;
- for CC, SIM and KLD of an empty density (all zeros), and for CC and SIM of any other constant density;
- for a constant saliency map, in CC, AUC-Judd, NSS and shuffled AUC as published. The exact shuffled AUC gives it 0.5,
  SIM gives 0 as the DHF1K authors' code does; KLD and information gain are defined.

Means that leave constant maps out reward a model for predicting nothing. With [`counted`] they do not: what is left
out depends on the ground truth alone. Maps that vary by no more than float32's rounding errors, as a constant that was
resized does, are constant.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

EPSILON = 2.0**-52

# Maps that vary by less, relative to their values, are constant: float32 leaves such errors in resizing and blurring.
ROUNDING = 1e-5

# Borji's 0 : 0.1 : 1, correctly rounded: a product of 0.1 would put the value 153/255 below the threshold 0.6.
THRESHOLDS = np.arange(11) / 10
SPLITS = 100  # how often negatives are drawn for shuffled AUC
FEW = 100  # fixations up to which comparing all pixels with each is faster than looking every pixel up


def auc_judd(saliency: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """
    AUC-Judd: how well saliency separates the fixated pixels, those above 0, from all others, both maps
    `(batch, height, width)` or `(height, width)`: float64 `(batch,)` or scalar, at most 1; with ties perhaps below 0.

    As published with the MIT benchmark, without its random jitter: the thresholds are the N fixated values in
    descending order, with repeats; at the i-th of them `tp = i / N` and
    `fp = (#{saliency ≥ threshold} − i) / (pixels − N)`. Tied fixated values cost area.
    """
    return _scored("auc_judd", saliency, fixations)


def auc_shuffled(
    saliency: torch.Tensor,
    fixations: torch.Tensor,
    other: torch.Tensor,
    *,
    variant: str = "sampled",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    Shuffled AUC: the negatives are fixations of other frames, so that a centre bias is worth nothing; float64
    `(batch,)` or scalar, in 0…1.

    Args:
        saliency, fixations: `(batch, height, width)` or `(height, width)`; fixated where above 0.
        other: number of other frames' fixations at each pixel (their sum, not a stack), of the same shape, or one
            `(height, width)` for the whole batch.
        variant: `"sampled"`, as published by Borji: the map is scaled to 0…1; each of 100 splits draws as many
            negatives as there are fixations (or as many as there are), without replacement, from the pixels that were
            fixated in other frames; the thresholds are 0, 0.1, …, 1; the areas of all splits are averaged. Or
            `"exact"`: the area against all other fixations, with multiplicity, ties counting ½, as in pysaliency.
        generator: draws the negatives, on its device; without one, torch's global CPU generator does. A batch draws as
            its maps would one after the other.
    """
    if variant not in ("sampled", "exact"):
        raise ValueError(f'There is no shuffled AUC variant {variant!r}; take "sampled" or "exact".')
    metric = "auc_shuffled_exact" if variant == "exact" else "auc_shuffled"
    return _scored(metric, saliency, fixations, other, generator=generator)


def nss(saliency: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """
    NSS: mean at the fixated pixels, those above 0, of the map with mean 0 and standard deviation 1 (of the sample, as
    in the MIT code), both maps `(batch, height, width)` or `(height, width)`: float64 `(batch,)` or scalar. For
    scores; `losses.normalized_scanpath_saliency`, for gradients, takes the deviation of all pixels.
    """
    return _scored("nss", saliency, fixations)


def cc(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    CC: Pearson's correlation over the pixels, float64 `(batch,)` or scalar, in −1…1. Both maps are
    `(batch, height, width)` or `(height, width)`, on any scale, the density not negative.
    """
    return _scored("cc", saliency, density)


def sim(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    SIM: the histogram intersection `Σ min(P, Q)` of both maps, scaled to 0…1 and then divided by their sums; float64
    `(batch,)` or scalar, in 0…1; 0 for constant saliency, nothing of which is left after scaling. Both maps are
    `(batch, height, width)` or `(height, width)`, on any scale, the density not negative.
    """
    return _scored("sim", saliency, density)


def kldiv(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    KLD: `Σ Q · log(ε + Q / (P + ε))`, with the saliency P and the density Q divided by their sums and ε = 2^-52;
    float64 `(batch,)` or scalar, at least 0 (within ε), in nats; smaller is better. Saliency that is 0 everywhere
    stays 0, and is then as far away as ε allows. Both maps are `(batch, height, width)` or `(height, width)`, on any
    scale, not negative.
    """
    return _scored("kldiv", saliency, density)


def information_gain(saliency: torch.Tensor, fixations: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """
    Information gain: by how many bits per fixation the saliency predicts the fixations better than the prior; float64
    `(batch,)` or scalar, 0 for the prior itself.

    `1/N · Σ_i [log2(ε + P(x_i)) − log2(ε + B(x_i))]` over the fixated pixels x_i, with saliency P and prior B divided
    by their sums (Kümmerer, Wallis and Bethge, PNAS 2015) and ε = 2^-52, as in the MIT benchmark's code. Unlike there,
    maps are not scaled to a minimum of 0 first, which would change the probabilities that a model states.

    Args:
        saliency, fixations: `(batch, height, width)` or `(height, width)`, no saliency below 0; fixated where above 0.
        prior: not negative, nor 0 everywhere; usually the blurred fixations of other frames (a centre bias); of the
            same shape, or one `(height, width)` for the whole batch.
    """
    return _scored("information_gain", saliency, fixations, prior)


def counted(
    metric: Callable[..., torch.Tensor],
    saliency: torch.Tensor,
    *truth: torch.Tensor,
    variant: str = "sampled",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    A metric, one of this module's functions with its arguments, by which nothing is gained by predicting nothing:
    constant maps, empty or not, score as chance, AUC 0.5, NSS and CC 0 (SIM is 0 by itself; KLD and information gain
    follow their formulas). NaN is left only where the ground truth defines no score, whatever is predicted.
    """
    name = metric.__name__ + ("_exact" if variant == "exact" else "")
    return _scored(name, saliency, *truth, generator=generator, chance=True)


class Map:
    """
    A prediction or a density, `(height, width)` or `(pixels,)` on any scale, and what several metrics need of it,
    computed once. A value that is not finite is a ValueError, which calls the map by its `name`.
    """

    def __init__(self, values: np.ndarray, name: str = "saliency"):
        self.values, self.name = np.asarray(values, np.float64).ravel(), name
        self.low, self.high = float(self.values.min()), float(self.values.max())
        if not math.isfinite(self.high - self.low):
            raise ValueError(
                f"{name} holds values that are not finite (NaN or infinity); repair or leave out that map."
            )
        self.constant = self.high - self.low <= ROUNDING * max(abs(self.low), abs(self.high))
        if self.constant:
            self.values = np.full_like(self.values, self.low)

    def non_negative(self) -> "Map":
        if self.low < 0:
            raise ValueError(f"{self.name} holds negative values; give it as non-negative numbers, on any scale.")
        return self

    @cached_property
    def centred(self) -> np.ndarray:
        return self.values - self.values.mean()

    @cached_property
    def norm(self) -> float:
        """Root of the sum of the squares around the mean."""
        return math.sqrt(self.centred @ self.centred)

    @cached_property
    def shares(self) -> np.ndarray:
        """Divided by the sum; all 0 if it is."""
        return self.values / (self.values.sum() or 1)

    @cached_property
    def raised_shares(self) -> np.ndarray:
        """The same of the map less its minimum. A division by the range, as SIM has it, would cancel."""
        raised = self.values - self.low
        return raised / raised.sum()


# Of one map: its score, NaN where the ground truth does not define it, and None where a constant map scores as chance
# or, as published, NaN. Fixations are numbers of pixels, ascending; of others also how often.
Score = float | None
Counts = tuple[np.ndarray, np.ndarray]


def _judd(saliency: Map, fixations: np.ndarray) -> Score:
    values, number = saliency.values, len(fixations)
    if number in (0, len(values)):
        return math.nan
    if saliency.constant:
        return None
    thresholds = np.sort(values[fixations])
    if number <= FEW:
        above = np.array([np.count_nonzero(values >= threshold) for threshold in thresholds])
    else:
        above = _reaching(np.searchsorted(thresholds, values, side="right")[None], number)[0]
    hits = np.arange(number, 0, -1)
    return float(_area((above - hits) / (len(values) - number), hits / number))


def _shuffled(saliency: Map, fixations: np.ndarray, other: Counts, generator: torch.Generator | None) -> Score:
    draws = _draw(len(other[0]), len(fixations), generator)
    if not draws.size:
        return math.nan
    if saliency.constant:
        return None
    values = saliency.values[np.concatenate([fixations, other[0]])]
    # How many thresholds each reaches: the lowest, 0, is reached by all.
    level = np.searchsorted(THRESHOLDS, (values - saliency.low) / (saliency.high - saliency.low), side="right")
    hits = _reaching(level[None, : len(fixations)], len(THRESHOLDS))
    alarms = _reaching(level[len(fixations) :][draws], len(THRESHOLDS))
    return float(_area(alarms / alarms[:, :1], hits / hits[:, :1]).mean())


def _shuffled_exact(saliency: Map, fixations: np.ndarray, other: Counts) -> Score:
    (places, counts), number = other, len(fixations)
    if not number or not len(places):
        return math.nan
    values, negatives = np.sort(saliency.values[fixations]), saliency.values[places]
    # The share of pairs in which the fixated pixel has more saliency.
    lower = (np.searchsorted(values, negatives) + np.searchsorted(values, negatives, side="right")) / 2
    return float(1 - (counts @ lower) / (number * counts.sum()))


def _nss(saliency: Map, fixations: np.ndarray) -> Score:
    if not len(fixations):
        return math.nan
    deviation = saliency.norm / math.sqrt(len(saliency.values) - 1)
    return None if saliency.constant else float(saliency.centred[fixations].mean() / deviation)


def _cc(saliency: Map, density: Map) -> Score:
    if density.constant or saliency.constant:
        return math.nan if density.constant else None
    return min(max(float(saliency.centred @ density.centred) / (saliency.norm * density.norm), -1.0), 1.0)


def _sim(saliency: Map, density: Map) -> Score:
    if density.constant or saliency.constant:
        return math.nan if density.constant else 0.0
    return float(np.minimum(saliency.raised_shares, density.raised_shares).sum())


def _kldiv(saliency: Map, density: Map) -> Score:
    p, q = saliency.non_negative().shares, density.shares
    return float(q @ np.log(EPSILON + q / (p + EPSILON))) if density.high else math.nan


def _gain(saliency: Map, fixations: np.ndarray, prior: Map) -> Score:
    p, b = (one.shares[fixations] for one in (saliency.non_negative(), prior))
    if not prior.high:
        raise ValueError("The prior is empty (all zeros); it has to be a probability distribution, on any scale.")
    return float((np.log2(EPSILON + p) - np.log2(EPSILON + b)).mean()) if len(fixations) else math.nan


# By name: the function, what it compares with, and what chance scores.
OF_ONE: dict[str, tuple[Callable[..., Score], tuple[str, ...], float]] = {
    "auc_judd": (_judd, ("fixations",), 0.5),
    "auc_shuffled": (_shuffled, ("fixations", "other", "generator"), 0.5),
    "auc_shuffled_exact": (_shuffled_exact, ("fixations", "other"), 0.5),
    "nss": (_nss, ("fixations",), 0.0),
    "cc": (_cc, ("density",), 0.0),
    "sim": (_sim, ("density",), 0.0),
    "kldiv": (_kldiv, ("density",), math.nan),
    "information_gain": (_gain, ("fixations", "prior"), math.nan),
}


LOWER_IS_BETTER = ("kldiv",)  # Of all others, higher.


def score_of(metric: str, saliency: Map, truth: Mapping[str, Any], chance: bool = True) -> float:
    """
    The score of one map, as [`counted`] or, without `chance`, as published. The truth, by name: `fixations`, the
    numbers of the fixated pixels, int64 `(n,)`; `density` and `prior`, each a [`Map`]; `other`, the numbers of the
    pixels that were fixated in other frames, ascending, and how often, both `(n,)`; `generator`.
    """
    function, names, at_chance = OF_ONE[metric]
    score = function(saliency, *(truth[name] for name in names))
    return score if score is not None else at_chance if chance else math.nan


def _scored(
    metric: str,
    saliency: torch.Tensor,
    *given: torch.Tensor,
    generator: torch.Generator | None = None,
    chance: bool = False,
) -> torch.Tensor:
    """The scores of all maps, after checking them."""
    saliency = torch.as_tensor(saliency)
    names = ("saliency", *(name for name in OF_ONE[metric][1] if name != "generator"))
    shape, rows = saliency.shape, []
    if len(shape) not in (2, 3) or 0 in shape[-2:]:
        raise ValueError(f"saliency must be (batch, height, width) or (height, width), not {tuple(shape)}.")
    for name, maps in zip(names, map(torch.as_tensor, (saliency, *given)), strict=True):
        if maps.shape != shape and not (name in ("other", "prior") and maps.shape == shape[-2:]):
            raise ValueError(
                f"{name} has the shape {tuple(maps.shape)}, but saliency has {tuple(shape)}; bring both to one size."
            )
        array = maps.detach().to("cpu", torch.float64).numpy()
        rows.append(np.broadcast_to(array, shape).reshape(-1, shape[-2:].numel()))
    scores = []
    for each in zip(*rows, strict=True):
        truth: dict[str, Any] = {"generator": generator}
        for name, row in zip(names, each, strict=True):
            truth[name] = Map(row, name)
            if name == "fixations":
                truth[name] = np.flatnonzero(row > 0)
            elif name != "saliency":
                truth[name].non_negative()
            if name == "other":
                truth[name] = np.flatnonzero(row), row[row > 0]
        scores.append(score_of(metric, truth["saliency"], truth, chance))
    return torch.tensor(scores, dtype=torch.float64).reshape(shape[:-2]).to(saliency.device)


def _draw(places: int, number: int, generator: torch.Generator | None) -> np.ndarray:
    """So many of the `places`, or all, without replacement: int64 `(splits, number)`."""
    device = "cpu" if generator is None else generator.device
    chance = torch.rand(SPLITS, places, generator=generator, device=device).cpu().numpy()
    return np.argsort(chance, axis=1)[:, :number]


def _reaching(level: np.ndarray, thresholds: int) -> np.ndarray:
    """
    How many items reach each threshold, from the lowest to the highest, int64 `(rows, thresholds)`: of
    `(rows, items)` that say how many thresholds each reaches.
    """
    rows, bins = len(level), thresholds + 1
    counts = np.bincount((level + bins * np.arange(rows)[:, None]).ravel(), minlength=rows * bins)
    return counts.reshape(rows, bins)[:, :0:-1].cumsum(axis=1)[:, ::-1]


def _area(fp: np.ndarray, tp: np.ndarray) -> np.ndarray:
    """Area under ROC curves from (0, 0) to (1, 1), by straight lines; rates `(…, points)` descend."""
    fp, tp = (np.concatenate([0 * rates[..., :1] + 1, rates, 0 * rates[..., :1]], axis=-1) for rates in (fp, tp))
    return ((fp[..., :-1] - fp[..., 1:]) * (tp[..., :-1] + tp[..., 1:])).sum(axis=-1) / 2


__all__ = ["auc_judd", "auc_shuffled", "cc", "counted", "information_gain", "kldiv", "nss", "sim"]
