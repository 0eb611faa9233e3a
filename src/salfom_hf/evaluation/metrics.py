"""
Scores of saliency maps: AUC-Judd, shuffled AUC, NSS, CC, SIM, KLD and information gain.

Every function takes one map `(height, width)` or a batch `(batch, height, width)` and gives one float64 number per
map: a scalar tensor or `(batch,)`, on the device of the saliency maps. Whatever the dtype, computing is in float64
(which Apple's `mps` lacks: move maps to the CPU there). Saliency may have any scale; nothing is resized here. Shapes
that differ, values that are not finite, and negative values where none may be are a ValueError that says which.

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

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

EPSILON = 2.0**-52

# Maps that vary by less, relative to their values, are constant: float32 leaves such errors in resizing and blurring.
ROUNDING = 1e-5

# Borji's 0 : 0.1 : 1, correctly rounded: a product of 0.1 would put the value 153/255 below the threshold 0.6.
THRESHOLDS = torch.arange(11, dtype=torch.float64) / 10
SPLITS = 100  # how often negatives are drawn for shuffled AUC


def auc_judd(saliency: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """
    AUC-Judd: how well the saliency separates the fixated pixels from all others.

    As published with the MIT benchmark, without its random jitter: the thresholds are the N fixated values in
    descending order, with repeats; at the i-th of them `tp = i / N` and
    `fp = (#{saliency ≥ threshold} − i) / (pixels − N)`. Tied fixated values cost area.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.

    Returns:
        float64 `(batch,)` or scalar, at most 1; it can fall below 0 with ties.
    """
    shape, (saliency, fixations) = _rows(saliency, fixations=fixations)
    fixated = fixations > 0
    values, number = _fixated_values(saliency, fixated)
    others = saliency.shape[1] - number
    # The thresholds ascend here: of the sorted values, the j-th has `number − j` fixated values at or above it.
    hits = (number[:, None] - torch.arange(values.shape[1], device=values.device)).clamp_min(0)
    above = _reaching(torch.searchsorted(values, saliency, right=True), values.shape[1])
    score = _trapezoid((above - hits) / others[:, None], hits / number.double()[:, None])
    undefined = (number == 0) | (others == 0) | _constant(saliency)
    return score.masked_fill(undefined, torch.nan).reshape(shape[:-2])


def auc_shuffled(
    saliency: torch.Tensor,
    fixations: torch.Tensor,
    other: torch.Tensor,
    *,
    variant: str = "sampled",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    Shuffled AUC: the negatives are fixations of other frames, so that a centre bias is worth nothing.

    - `"sampled"`: as published by Borji. The map is scaled to 0…1; each of 100 splits draws as many negatives as there
      are fixations (or as many as there are), without replacement, from the pixels that were fixated in other frames;
      the thresholds are 0, 0.1, …, 1; the areas of all splits are averaged.
    - `"exact"`: the exact area against all other fixations, with multiplicity, ties counting ½, as in pysaliency.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        other: number of other frames' fixations at each pixel (their sum, not a stack), of the same shape, or one
            `(height, width)` for the whole batch.
        variant: `"sampled"` or `"exact"`.
        generator: draws the negatives, on its device; without one, torch's global CPU generator does. A batch draws as
            its maps would one after the other.

    Returns:
        float64 `(batch,)` or scalar, in 0…1.
    """
    if variant not in ("sampled", "exact"):
        raise ValueError(f'There is no shuffled AUC variant {variant!r}; take "sampled" or "exact".')
    shape, (saliency, fixations, other) = _rows(saliency, fixations=fixations, other=other)
    fixated = fixations > 0
    if variant == "exact":
        return _exact_area(saliency, fixated, other).reshape(shape[:-2])
    draws = _draw(other > 0, fixated.sum(1).tolist(), generator)
    low, high = saliency.aminmax(dim=1, keepdim=True)
    # How many thresholds each pixel reaches; a constant map, here 0 / 0, is left to the end.
    level = torch.bucketize(saliency.sub(low).div(high - low).nan_to_num(), THRESHOLDS.to(saliency.device), right=True)
    drawn = level.gather(1, draws.clamp_min(0).flatten(1)).view_as(draws).masked_fill(draws < 0, 0)
    # The lowest threshold, 0, is reached by all that counts.
    hits = _reaching(level.masked_fill(~fixated, 0).unsqueeze(2), len(THRESHOLDS))
    alarms = _reaching(drawn, len(THRESHOLDS))
    score = _trapezoid(alarms / alarms[:, :1], hits / hits[:, :1]).mean(1)
    undefined = ~fixated.any(1) | ~other.any(1) | _constant(saliency)
    return score.masked_fill(undefined, torch.nan).reshape(shape[:-2])


def nss(saliency: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """
    NSS: mean at the fixations of the map with mean 0 and standard deviation 1 (of the sample, as in the MIT code).
    For scores; `losses.normalized_scanpath_saliency`, for gradients, takes the deviation of all pixels.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.

    Returns:
        float64 `(batch,)` or scalar.
    """
    shape, (saliency, fixations) = _rows(saliency, fixations=fixations)
    fixated = fixations > 0
    centred = saliency - saliency.mean(1, keepdim=True)
    deviation = (centred.square().sum(1) / (saliency.shape[1] - 1)).sqrt()
    number = fixated.sum(1)
    score = torch.where(fixated, centred, 0).sum(1) / number / deviation
    return score.masked_fill(_constant(saliency) | (number == 0), torch.nan).reshape(shape[:-2])


def cc(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    CC: Pearson's correlation over the pixels.

    Args:
        saliency, density: `(batch, height, width)` or `(height, width)`, on any scale; the density is not negative.

    Returns:
        float64 `(batch,)` or scalar, in −1…1.
    """
    shape, (saliency, density) = _rows(saliency, density=density)
    x = saliency - saliency.mean(1, keepdim=True)
    y = density - density.mean(1, keepdim=True)
    score = ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).clamp(-1, 1)
    return score.masked_fill(_constant(saliency) | _constant(density), torch.nan).reshape(shape[:-2])


def sim(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    SIM: the histogram intersection `Σ min(P, Q)` of both maps, scaled to 0…1 and then divided by their sums.

    Args:
        saliency, density: `(batch, height, width)` or `(height, width)`, on any scale; the density is not negative.

    Returns:
        float64 `(batch,)` or scalar, in 0…1; 0 for constant saliency, nothing of which is left after scaling.
    """
    shape, (saliency, density) = _rows(saliency, density=density)
    # The division by the range would cancel in the one by the sum.
    p, q = (maps - maps.amin(1, keepdim=True) for maps in (saliency, density))
    score = torch.minimum(p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)).sum(1)
    score = score.masked_fill(_constant(saliency), 0.0)
    return score.masked_fill(_constant(density), torch.nan).reshape(shape[:-2])


def kldiv(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    KLD: `Σ Q · log(ε + Q / (P + ε))`, with the saliency P and the density Q divided by their sums and ε = 2^-52.

    Saliency that is 0 everywhere stays 0, and is then as far away as ε allows.

    Args:
        saliency, density: `(batch, height, width)` or `(height, width)`, on any scale, not negative.

    Returns:
        float64 `(batch,)` or scalar, at least 0 (within ε), in nats; smaller is better.
    """
    shape, (saliency, density) = _rows(saliency, density=density)
    _demand_non_negative("saliency", saliency)
    p, q = _shares(saliency), _shares(density)
    score = (q * (EPSILON + q / (p + EPSILON)).log()).sum(1)
    return score.masked_fill(density.sum(1) == 0, torch.nan).reshape(shape[:-2])


def information_gain(saliency: torch.Tensor, fixations: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """
    Information gain: by how many bits per fixation the saliency predicts the fixations better than the prior.

    `1/N · Σ_i [log2(ε + P(x_i)) − log2(ε + B(x_i))]` over the fixated pixels x_i, with saliency P and prior B divided
    by their sums (Kümmerer, Wallis and Bethge, PNAS 2015) and ε = 2^-52, as in the MIT benchmark's code. Unlike there,
    maps are not scaled to a minimum of 0 first, which would change the probabilities that a model states.

    Args:
        saliency: non-negative `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        prior: not negative, nor 0 everywhere; usually the blurred fixations of other frames (a centre bias); of the
            same shape, or one `(height, width)` for the whole batch.

    Returns:
        float64 `(batch,)` or scalar, in bits per fixation; 0 for the prior itself.
    """
    shape, (saliency, fixations, prior) = _rows(saliency, fixations=fixations, prior=prior)
    _demand_non_negative("saliency", saliency)
    if (prior.sum(1) == 0).any():
        raise ValueError("The prior is empty (all zeros); it has to be a probability distribution, on any scale.")
    fixated = fixations > 0
    gain = (EPSILON + _shares(saliency)).log2() - (EPSILON + _shares(prior)).log2()
    # Without fixations this is 0 / 0, which is NaN.
    return (torch.where(fixated, gain, 0).sum(1) / fixated.sum(1)).reshape(shape[:-2])


# What a map that says nothing scores, in the metrics that are NaN for it.
CHANCE = {auc_judd: 0.5, auc_shuffled: 0.5, nss: 0.0, cc: 0.0}


def counted(
    metric: Callable[..., torch.Tensor], saliency: torch.Tensor, *truth: torch.Tensor, **options: Any
) -> torch.Tensor:
    """
    A metric by which nothing is gained by predicting nothing: constant maps, empty or not, score as chance, AUC 0.5,
    NSS and CC 0 (SIM is 0 by itself; KLD and information gain follow their formulas). NaN is left only where the
    ground truth defines no score, whatever is predicted.

    Args:
        metric: one of this module's functions; what follows are its arguments.
    """
    if metric not in CHANCE:
        return metric(saliency, *truth, **options)
    saliency = torch.as_tensor(saliency).double()
    # What is not finite is left to the metric, which refuses it.
    constant = _constant(_without_rounding(saliency.flatten(-2))) & saliency.flatten(-2).isfinite().all(-1)
    # Any map that is not constant tells whether the ground truth defines a score.
    other = torch.arange(saliency.shape[-2:].numel(), dtype=saliency.dtype, device=saliency.device)
    other = other.view(saliency.shape[-2:])
    scores = metric(torch.where(constant[..., None, None], other, saliency), *truth, **options)
    return scores.masked_fill(constant & ~scores.isnan(), CHANCE[metric])


def _rows(saliency: torch.Tensor, **others: torch.Tensor) -> tuple[torch.Size, list[torch.Tensor]]:
    """The shape of the saliency; it and the other maps, checked, as float64 `(batch, pixels)` on its device."""
    shape, rows = torch.as_tensor(saliency).shape, []
    if len(shape) not in (2, 3) or 0 in shape[-2:]:
        raise ValueError(f"saliency must be (batch, height, width) or (height, width), not {tuple(shape)}.")
    for name, maps in {"saliency": saliency, **others}.items():
        maps, shared = torch.as_tensor(maps), name in ("other", "prior")
        if maps.shape != shape and not (shared and maps.shape == shape[-2:]):
            raise ValueError(
                f"{name} has the shape {tuple(maps.shape)}, but saliency has {tuple(shape)}; bring both to one size."
            )
        maps = maps.to(device=rows[0].device if rows else None, dtype=torch.float64).expand(shape).flatten(-2)
        maps = maps if len(shape) == 3 else maps.unsqueeze(0)
        # One number is cheaper to look at: NaN and infinity survive in a sum.
        if not maps.sum().isfinite():
            raise ValueError(
                f"{name} holds values that are not finite (NaN or infinity); repair or leave out that map."
            )
        if name not in ("saliency", "fixations"):
            _demand_non_negative(name, maps)
        rows.append(maps if shared else _without_rounding(maps))
    return shape, rows


def _demand_non_negative(name: str, maps: torch.Tensor) -> None:
    if (maps < 0).any():
        raise ValueError(f"{name} holds negative values; give it as non-negative numbers, on any scale.")


def _without_rounding(maps: torch.Tensor) -> torch.Tensor:
    """The rows; those that vary by no more than rounding errors become exactly constant."""
    low, high = maps.aminmax(dim=-1, keepdim=True)
    return torch.where(high - low <= ROUNDING * torch.maximum(low.abs(), high.abs()), low, maps)


def _draw(places: torch.Tensor, numbers: list[int], generator: torch.Generator | None) -> torch.Tensor:
    """So many of the `places` per row, without replacement: int64 `(batch, negatives, splits)`, padded with −1."""
    device = "cpu" if generator is None else generator.device
    draws = []
    for row, number in zip(places, numbers, strict=True):
        pool = row.nonzero().squeeze(1)
        order = torch.rand(SPLITS, len(pool), generator=generator, device=device).argsort(1)[:, :number]
        draws.append(pool[order.T.to(pool.device)])
    return pad_sequence(draws, batch_first=True, padding_value=-1)


def _constant(maps: torch.Tensor) -> torch.Tensor:
    """Whether all pixels of a row have one value: exact, where a standard deviation would leave a rounding error."""
    low, high = maps.aminmax(dim=-1)
    return low == high


def _shares(maps: torch.Tensor) -> torch.Tensor:
    """Rows divided by their sums; empty ones stay 0."""
    total = maps.sum(1, keepdim=True)
    return maps / torch.where(total == 0, 1.0, total)


def _fixated_values(saliency: torch.Tensor, fixated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values at the fixations of each row in ascending order, padded with infinity, and how many there are."""
    number = fixated.sum(1)
    values = saliency.new_full((len(saliency), max(number.tolist(), default=0)), torch.inf)
    values[torch.arange(values.shape[1], device=values.device) < number[:, None]] = saliency[fixated]
    return values.sort(dim=1).values, number


def _exact_area(saliency: torch.Tensor, fixated: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """
    The probability that a fixated pixel has more saliency than a negative one, ties counting ½; NaN without either.
    `negatives` says how often each pixel is one.
    """
    values, number = _fixated_values(saliency, fixated)
    # Other frames' fixations are few: most pixels need not be looked up.
    used = negatives.any(0)
    saliency, negatives = saliency[:, used], negatives[:, used]
    not_below = number[:, None] - torch.searchsorted(values, saliency)
    above = number[:, None] - torch.searchsorted(values, saliency, right=True)
    return (negatives * (not_below + above)).sum(1) / (2 * number * negatives.sum(1))


def _reaching(level: torch.Tensor, thresholds: int) -> torch.Tensor:
    """
    How many items reach each threshold, from the lowest to the highest, float64 `(batch, thresholds, …)`: of
    `(batch, items, …)` that say how many thresholds each reaches, 0 for what does not count.
    """
    counts = torch.zeros(len(level), thresholds + 1, *level.shape[2:], dtype=torch.float64, device=level.device)
    counts.scatter_add_(1, level, torch.ones(1, dtype=torch.float64, device=level.device).expand_as(level))
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def _trapezoid(fp: torch.Tensor, tp: torch.Tensor) -> torch.Tensor:
    """Area under ROC curves from (0, 0) to (1, 1), by straight lines; rates `(batch, points, …)` descend."""

    def closed(rates: torch.Tensor) -> torch.Tensor:
        end = torch.ones_like(rates.sum(1, keepdim=True))
        return torch.cat([end, rates, torch.zeros_like(end)], dim=1)

    return torch.trapezoid(closed(tp).flip(1), closed(fp).flip(1), dim=1)


__all__ = ["auc_judd", "auc_shuffled", "cc", "counted", "information_gain", "kldiv", "nss", "sim"]
