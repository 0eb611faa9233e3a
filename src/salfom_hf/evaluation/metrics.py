"""
Scores of saliency maps: AUC-Judd, shuffled AUC, NSS, CC, SIM, KLD and information gain.

Every function takes one map `(height, width)` or a batch `(batch, height, width)` and gives one float64 number per
map: a scalar tensor or `(batch,)`, on the device of the saliency maps. Whatever the dtype, computing is in float64
(which Apple's `mps` lacks: move maps to the CPU there). Saliency may have any scale; nothing is resized here.

A number that is undefined is NaN, never a guess: with `mean = scores.nanmean()` and `scores.isnan().sum()` it is left
out and counted. That is so

- for AUC, NSS and information gain of a frame without fixations, and for AUC where all pixels are fixated;
- for shuffled AUC without a single other fixation;
- for CC, SIM and KLD of an empty density (all zeros), and for CC and SIM of any other constant density;
- for a constant saliency map, in CC, AUC-Judd and shuffled AUC as published, and NSS with `ddof=1`. The other
  variants of AUC give it 0.5, NSS with `ddof=0` gives 0 as pysaliency does, SIM gives 0 as the DHF1K authors' code
  does; KLD and information gain are defined.

Means that leave constant maps out reward a model for predicting nothing. With [`counted`] they do not: what is left
out depends on the ground truth alone. Maps that vary by no more than float32's rounding errors, as a constant that was
resized does, are constant. Saliency that is not finite is an error, and so is negative saliency for KLD and
information gain.
"""

from collections.abc import Callable

import torch
from torch.nn.utils.rnn import pad_sequence

EPSILON = 2.0**-52

# Amplitude of the noise that breaks ties in the MIT benchmark's AUC-Judd.
JITTER = 1e-7

# Maps that vary by less, relative to their values, are constant: float32 leaves such errors in resizing and blurring.
ROUNDING = 1e-5

# Borji's 0 : 0.1 : 1, correctly rounded: a product of 0.1 would put the value 153/255 below the threshold 0.6.
THRESHOLDS = torch.arange(11, dtype=torch.float64) / 10


def auc_judd(
    saliency: torch.Tensor,
    fixations: torch.Tensor,
    *,
    variant: str = "mit",
    jitter: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """
    AUC-Judd: how well the saliency separates the fixated pixels from all others.

    The variants differ in where the ROC curve has its points, and so in ties and for few fixations:

    - `"mit"`: as published with the MIT benchmark, without its random jitter. The thresholds are the N fixated values
      in descending order, with repeats; at the i-th of them `tp = i / N` and
      `fp = (#{saliency ≥ threshold} − i) / (pixels − N)`. Tied fixated values cost area, which jitter would prevent.
    - `"pysaliency"`: the same thresholds, but tied fixated values make one straight line, as in pysaliency.
    - `"exact"`: the exact area, with all values as thresholds: the probability that a fixated pixel has more saliency
      than an unfixated one, ties counting ½.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        variant: `"mit"`, `"pysaliency"` or `"exact"`.
        jitter: noise of the same shape, added to the saliency first.
        generator: draws that noise instead, uniform in 0…1e-7, on the generator's device. Made for maps with values in
            0…1.

    Returns:
        float64 `(batch,)` or scalar, in 0…1 (`"mit"` can fall below 0 with ties).

    Raises:
        ValueError: shapes differ, values are not finite, the variant is unknown, or jitter and generator are both
            given.
    """
    if variant not in ("mit", "pysaliency", "exact"):
        raise ValueError(f'There is no AUC-Judd variant {variant!r}; take "mit", "pysaliency" or "exact".')
    if jitter is not None and generator is not None:
        raise ValueError("Give jitter or a generator that draws it, not both.")
    shape, saliency, fixations = _rows(saliency, fixations=fixations)
    if jitter is not None:
        saliency = saliency + _aligned("jitter", jitter, shape, saliency.device)
    elif generator is not None:
        noise = torch.rand(saliency.shape, generator=generator, device=generator.device, dtype=torch.float64)
        saliency = saliency + JITTER * noise.to(saliency.device)
    fixated = fixations > 0
    if variant == "exact":
        return _exact_area(saliency, fixated, (~fixated).double()).reshape(shape[:-2])
    values, number = _fixated_values(saliency, fixated)
    others = saliency.shape[1] - number
    # The thresholds ascend here: of the sorted values, the j-th has `number − j` fixated values at or above it.
    if variant == "mit":
        hits = (number[:, None] - torch.arange(values.shape[1], device=values.device)).clamp_min(0)
    else:
        hits = number[:, None] - torch.searchsorted(values, values)
    reached = torch.searchsorted(values, saliency, right=True)
    above = torch.zeros(len(values), values.shape[1] + 1, dtype=torch.float64, device=values.device)
    above.scatter_add_(1, reached, torch.ones_like(saliency))
    above = above.flip(1).cumsum(1).flip(1)[:, 1:]
    score = _trapezoid((above - hits) / others[:, None], hits / number.double()[:, None])
    undefined = (number == 0) | (others == 0)
    if variant == "mit":
        undefined |= _constant(saliency)
    return score.masked_fill(undefined, torch.nan).reshape(shape[:-2])


def auc_shuffled(
    saliency: torch.Tensor,
    fixations: torch.Tensor,
    other: torch.Tensor | None = None,
    *,
    variant: str = "sampled",
    draws: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    splits: int = 100,
) -> torch.Tensor:
    """
    Shuffled AUC: the negatives are fixations of other frames, so that a centre bias is worth nothing.

    - `"sampled"`: as published by Borji. The map is scaled to 0…1; each split draws as many negatives as there are
      fixations (or as many as there are), without replacement, from the pixels that were fixated in other frames; the
      thresholds are 0, 0.1, …, 1; the areas of all splits are averaged.
    - `"exact"`: the exact area against all other fixations, with multiplicity, ties counting ½, as in pysaliency.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        other: number of other frames' fixations at each pixel (their sum, not a stack), of the same shape, or one
            `(height, width)` for the whole batch. Not needed with `draws`.
        variant: `"sampled"` or `"exact"`.
        draws: the negatives of each split, int64 `(batch, negatives, splits)` or `(negatives, splits)`: row-major flat
            indices into the map, padded with −1 where frames have fewer.
        generator: draws them instead, on the generator's device; without one, torch's global CPU generator. A batch
            draws as its maps would one after the other.
        splits: number of splits to draw.

    Returns:
        float64 `(batch,)` or scalar, in 0…1.

    Raises:
        ValueError: shapes differ, values are not finite, counts are negative, draws are outside the map, the variant
            is unknown, or there is nothing to draw from.
    """
    if variant not in ("sampled", "exact"):
        raise ValueError(f'There is no shuffled AUC variant {variant!r}; take "sampled" or "exact".')
    if draws is not None and (variant == "exact" or generator is not None):
        raise ValueError('Draws are for the "sampled" variant, and replace a generator.')
    if other is None and draws is None:
        raise ValueError("Shuffled AUC needs `other`, the fixations of other frames.")
    if splits < 1:
        raise ValueError("Shuffled AUC needs at least one split.")
    shape, saliency, fixations = _rows(saliency, fixations=fixations)
    fixated = fixations > 0
    if other is not None:
        other = _aligned("other", other, shape, saliency.device, non_negative=True, shared=True)
    if variant == "exact":
        return _exact_area(saliency, fixated, other).reshape(shape[:-2])
    if draws is None:
        draws = _draw(other > 0, fixated.sum(1).tolist(), splits, generator)
    else:
        draws = _checked_draws(draws, shape, saliency.device)

    low, high = saliency.aminmax(dim=1, keepdim=True)
    # How many thresholds each pixel reaches; a constant map, here 0 / 0, is left to the end.
    level = torch.bucketize(saliency.sub(low).div(high - low).nan_to_num(), THRESHOLDS.to(saliency.device), right=True)
    drawn = level.gather(1, draws.clamp_min(0).flatten(1)).view_as(draws).masked_fill(draws < 0, 0)
    tp = _share_reaching(level.masked_fill(~fixated, 0).unsqueeze(2))
    fp = _share_reaching(drawn)
    score = _trapezoid(fp, tp).mean(1)
    undefined = ~fixated.any(1) | ~(draws >= 0).flatten(1).any(1) | _constant(saliency)
    return score.masked_fill(undefined, torch.nan).reshape(shape[:-2])


def nss(saliency: torch.Tensor, fixations: torch.Tensor, *, ddof: int = 1) -> torch.Tensor:
    """
    NSS: mean at the fixations of the map with mean 0 and standard deviation 1.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        ddof: 1 as in the MIT benchmark's code (a constant map gives NaN), or 0 as in pysaliency (it gives 0).

    Returns:
        float64 `(batch,)` or scalar.

    Raises:
        ValueError: shapes differ, values are not finite, or ddof is neither 0 nor 1.
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof is 0 or 1, not {ddof!r}.")
    shape, saliency, fixations = _rows(saliency, fixations=fixations)
    fixated = fixations > 0
    centred = saliency - saliency.mean(1, keepdim=True)
    deviation = (centred.square().sum(1) / (saliency.shape[1] - ddof)).sqrt()
    number = fixated.sum(1)
    score = torch.where(fixated, centred, 0).sum(1) / number / deviation
    score = score.masked_fill(_constant(saliency), torch.nan if ddof else 0.0)
    return score.masked_fill(number == 0, torch.nan).reshape(shape[:-2])


def cc(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    CC: Pearson's correlation over the pixels.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        density: fixation density of the same shape, on any scale.

    Returns:
        float64 `(batch,)` or scalar, in −1…1.

    Raises:
        ValueError: shapes differ, values are not finite, or the density is negative somewhere.
    """
    shape, saliency, density = _rows(saliency, density=density)
    x = saliency - saliency.mean(1, keepdim=True)
    y = density - density.mean(1, keepdim=True)
    score = ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).clamp(-1, 1)
    return score.masked_fill(_constant(saliency) | _constant(density), torch.nan).reshape(shape[:-2])


def sim(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    SIM: the histogram intersection `Σ min(P, Q)` of both maps, scaled to 0…1 and then divided by their sums.

    Args:
        saliency: `(batch, height, width)` or `(height, width)`.
        density: fixation density of the same shape, on any scale.

    Returns:
        float64 `(batch,)` or scalar, in 0…1; 0 for constant saliency, nothing of which is left after scaling.

    Raises:
        ValueError: shapes differ, values are not finite, or the density is negative somewhere.
    """
    shape, saliency, density = _rows(saliency, density=density)
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
        saliency: non-negative `(batch, height, width)` or `(height, width)`.
        density: fixation density of the same shape, on any scale.

    Returns:
        float64 `(batch,)` or scalar, at least 0 (within ε), in nats; smaller is better.

    Raises:
        ValueError: shapes differ, values are not finite, or either map is negative somewhere.
    """
    shape, saliency, density = _rows(saliency, density=density)
    _demand_non_negative("saliency", saliency)
    p, q = _shares(saliency), _shares(density)
    score = (q * (EPSILON + q / (p + EPSILON)).log()).sum(1)
    return score.masked_fill(density.sum(1) == 0, torch.nan).reshape(shape[:-2])


def information_gain(saliency: torch.Tensor, fixations: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """
    Information gain: by how many bits per fixation the saliency predicts the fixations better than the prior.

    `1/N · Σ_i [log2(ε + P(x_i)) − log2(ε + B(x_i))]` over the fixated pixels x_i, where saliency P and prior B are
    probability distributions over the pixels: the maps divided by their sums. The definition is that of Kümmerer,
    Wallis and Bethge, "Information-theoretic model comparison unifies saliency metrics" (PNAS 2015); ε = 2^-52 keeps
    the logarithm finite, as in the MIT benchmark's code. Unlike there, maps are not scaled to a minimum of 0 first,
    which would change the probabilities that a model states.

    Args:
        saliency: non-negative `(batch, height, width)` or `(height, width)`.
        fixations: of the same shape; fixated where above 0.
        prior: non-negative, usually the blurred fixations of other frames (a centre bias); of the same shape, or one
            `(height, width)` for the whole batch.

    Returns:
        float64 `(batch,)` or scalar, in bits per fixation; 0 for the prior itself.

    Raises:
        ValueError: shapes differ, values are not finite, saliency or prior is negative somewhere, or the prior is
            empty.
    """
    shape, saliency, fixations = _rows(saliency, fixations=fixations)
    _demand_non_negative("saliency", saliency)
    prior = _aligned("prior", prior, shape, saliency.device, non_negative=True, shared=True)
    if (prior.sum(1) == 0).any():
        raise ValueError("The prior is empty (all zeros); it has to be a probability distribution, on any scale.")
    fixated = fixations > 0
    gain = (EPSILON + _shares(saliency)).log2() - (EPSILON + _shares(prior)).log2()
    # Without fixations this is 0 / 0, which is NaN.
    return (torch.where(fixated, gain, 0).sum(1) / fixated.sum(1)).reshape(shape[:-2])


# What a map that says nothing scores, in the metrics that are NaN for it.
CHANCE = {auc_judd: 0.5, auc_shuffled: 0.5, nss: 0.0, cc: 0.0}


def counted(
    metric: Callable[..., torch.Tensor], saliency: torch.Tensor, *truth: torch.Tensor, **options
) -> torch.Tensor:
    """
    A metric by which nothing is gained by predicting nothing: constant maps, empty or not, score as chance, AUC 0.5,
    NSS and CC 0 (SIM is 0 by itself; KLD and information gain follow their formulas). NaN is left only where the
    ground truth defines no score, whatever is predicted.

    Args:
        metric: one of this module's functions.
        saliency, truth, options: its arguments.

    Returns:
        float64 `(batch,)` or scalar.
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


def _rows(saliency, **target) -> tuple[torch.Size, torch.Tensor, torch.Tensor]:
    """
    The shape of the saliency, and both maps as float64 `(batch, pixels)`; a density is checked for its sign, and what
    is constant but for rounding is made constant.
    """
    saliency = torch.as_tensor(saliency)
    shape = saliency.shape
    if len(shape) not in (2, 3) or 0 in shape[-2:]:
        raise ValueError(f"saliency must be (batch, height, width) or (height, width), not {tuple(shape)}.")
    ((name, maps),) = target.items()
    return (
        shape,
        _without_rounding(_aligned("saliency", saliency, shape, saliency.device)),
        _without_rounding(_aligned(name, maps, shape, saliency.device, non_negative=name == "density")),
    )


def _without_rounding(maps: torch.Tensor) -> torch.Tensor:
    """The rows; those that vary by no more than rounding errors become exactly constant."""
    low, high = maps.aminmax(dim=-1, keepdim=True)
    return torch.where(high - low <= ROUNDING * torch.maximum(low.abs(), high.abs()), low, maps)


def _aligned(name, maps, shape, device, non_negative=False, shared=False) -> torch.Tensor:
    """The maps as float64 `(batch, pixels)` on the device, checked to go with saliency of that shape."""
    maps = torch.as_tensor(maps)
    if maps.shape != shape and not (shared and maps.shape == shape[-2:]):
        raise ValueError(
            f"{name} has the shape {tuple(maps.shape)}, but saliency has {tuple(shape)}; bring both to one size."
        )
    maps = maps.to(device=device, dtype=torch.float64).expand(shape).flatten(-2)
    maps = maps if len(shape) == 3 else maps.unsqueeze(0)
    # One number is cheaper to look at: NaN and infinity survive in a sum.
    if not maps.sum().isfinite():
        raise ValueError(f"{name} holds values that are not finite (NaN or infinity); repair or leave out that map.")
    if non_negative:
        _demand_non_negative(name, maps)
    return maps


def _demand_non_negative(name: str, maps: torch.Tensor) -> None:
    if (maps < 0).any():
        raise ValueError(f"{name} holds negative values; give it as non-negative numbers, on any scale.")


def _checked_draws(draws, shape, device) -> torch.Tensor:
    """Given draws as int64 `(batch, negatives, splits)`."""
    draws = torch.as_tensor(draws).to(device)
    if draws.is_floating_point() or draws.dim() != len(shape) or draws.shape[:-2] != shape[:-2] or not draws.shape[-1]:
        wanted = "(batch, negatives, splits)" if len(shape) == 3 else "(negatives, splits)"
        raise ValueError(f"draws must be int64 {wanted} for this saliency, not {draws.dtype} {tuple(draws.shape)}.")
    pixels = shape[-2] * shape[-1]
    if draws.numel() and not -1 <= draws.min() <= draws.max() < pixels:
        raise ValueError(f"draws must be flat indices below {pixels} (height · width), or −1 for padding.")
    return draws.long() if len(shape) == 3 else draws.long().unsqueeze(0)


def _draw(places, numbers, splits, generator) -> torch.Tensor:
    """
    Negatives for Borji's shuffled AUC.

    Args:
        places: bool `(batch, pixels)`, where to draw from.
        numbers: of each map, how many to draw, without replacement.

    Returns:
        int64 `(batch, negatives, splits)`, padded with −1.
    """
    device = "cpu" if generator is None else generator.device
    draws = []
    for row, number in zip(places, numbers, strict=True):
        pool = row.nonzero().squeeze(1)
        order = torch.rand(splits, len(pool), generator=generator, device=device).argsort(1)[:, :number]
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
    The probability that a fixated pixel has more saliency than a negative one, ties counting ½.

    Args:
        saliency: float64 `(batch, pixels)`.
        fixated: bool `(batch, pixels)`.
        negatives: float64 `(batch, pixels)`, how often each pixel is a negative.

    Returns:
        float64 `(batch,)`, NaN without positives or negatives.
    """
    values, number = _fixated_values(saliency, fixated)
    # Other frames' fixations are few: most pixels need not be looked up.
    used = negatives.any(0)
    saliency, negatives = saliency[:, used], negatives[:, used]
    not_below = number[:, None] - torch.searchsorted(values, saliency)
    above = number[:, None] - torch.searchsorted(values, saliency, right=True)
    return (negatives * (not_below + above)).sum(1) / (2 * number * negatives.sum(1))


def _share_reaching(level: torch.Tensor) -> torch.Tensor:
    """
    Share of the items of each column that reach the thresholds, from the lowest to the highest.

    Args:
        level: int64 `(batch, items, splits)`, how many thresholds each item reaches; 0 for what is no item.

    Returns:
        float64 `(batch, thresholds, splits)`; NaN without items.
    """
    counts = torch.zeros(len(level), len(THRESHOLDS) + 1, level.shape[2], dtype=torch.float64, device=level.device)
    counts.scatter_add_(1, level, torch.ones(1, dtype=torch.float64, device=level.device).expand_as(level))
    counts = counts[:, 1:].flip(1).cumsum(1).flip(1)
    return counts / counts[:, :1]


def _trapezoid(fp: torch.Tensor, tp: torch.Tensor) -> torch.Tensor:
    """
    Area under ROC curves that run through (0, 0) and (1, 1), by straight lines.

    Args:
        fp, tp: rates at ascending thresholds (descending rates), float64 `(batch, points, …)`.

    Returns:
        float64 `(batch, …)`.
    """

    def closed(rates):
        end = torch.ones_like(rates.sum(1, keepdim=True))
        return torch.cat([end, rates, torch.zeros_like(end)], dim=1)

    return torch.trapezoid(closed(tp).flip(1), closed(fp).flip(1), dim=1)


__all__ = ["auc_judd", "auc_shuffled", "cc", "counted", "information_gain", "kldiv", "nss", "sim"]
