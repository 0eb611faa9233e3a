"""Metrics against the published code's values, formulas written out in numpy, and what has to hold for any map."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from salfom_hf import metrics

DATA = Path(__file__).parent / "data" / "metrics"
CASES = np.load(DATA / "cases.npz")
EXPECTED = json.loads((DATA / "expected.json").read_text())
# The DHF1K authors' code gives 0 for a map without any value, where the MIT benchmark's gives NaN.
EXPECTED["const_half_36x64"]["sim_mit"] = 0


def from_given_draws(case):
    """The sampled shuffled AUC, with the negatives that the published code drew."""
    rows = [array if case["sal"].dim() == 3 else array[None] for array in (case["draws"], case["other"])]
    given = iter(zip(*(array.cpu().numpy() for array in rows), strict=True))

    def draw(*_):
        draws, other = next(given)
        return np.searchsorted(np.flatnonzero(other), draws[draws[:, 0] >= 0].T)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_draw", draw)
        return metrics.auc_shuffled(case["sal"], case["fix"], case["other"])


SCORES = {
    "aucj_mit_nojitter": lambda case: metrics.auc_judd(case["sal"], case["fix"]),
    "nss_mit": lambda case: metrics.nss(case["sal"], case["fix"]),
    "cc_mit": lambda case: metrics.cc(case["sal"], case["gt"]),
    "sim_mit": lambda case: metrics.sim(case["sal"], case["gt"]),
    "kld_mit": lambda case: metrics.kldiv(case["sal"], case["gt"]),
    "sauc_mit_given_draws": from_given_draws,
    "sauc_exact_multiset": lambda case: metrics.auc_shuffled(case["sal"], case["fix"], case["other"], variant="exact"),
}
SMALL = [name for name, expected in EXPECTED.items() if expected["_shape"] == [36, 64]]


def load(name, dtype=torch.float64, device="cpu"):
    """A case as tensors, the other frames' fixations already counted per pixel."""
    case = {key: torch.from_numpy(CASES[f"{name}/{key}"]).to(device) for key in ("sal", "gt", "fix", "other", "draws")}
    return case | {"sal": case["sal"].to(dtype), "gt": case["gt"].to(dtype), "other": case["other"].sum(0)}


def batch_of(names, dtype, device="cpu"):
    cases = [load(name, dtype, device) for name in names]
    batch = {key: torch.stack([case[key] for case in cases]) for key in ("sal", "gt", "fix", "other")}
    negatives = max(len(case["draws"]) for case in cases)
    batch["draws"] = torch.full((len(cases), negatives, 100), -1, device=device)
    for row, case in zip(batch["draws"], cases, strict=True):
        row[: len(case["draws"])] = case["draws"]
    return batch


def random_maps(count=6, height=11, width=13, levels=6, seed=0):
    """Saliency with many ties, densities, fixations of different number (the third map has none), other fixations."""
    generator = np.random.default_rng(seed)
    saliency = generator.integers(0, levels, (count, height, width)) / (levels - 1)
    density = generator.random((count, height, width)) ** 4
    share = generator.uniform(0.02, 0.5, (count, 1, 1))
    share[2] = 0
    fixations = generator.random((count, height, width)) < share
    other = generator.poisson(0.2, (count, height, width))
    return [torch.from_numpy(array) for array in (saliency, density, fixations, other)]


def area_of_pairs(positives, negatives):
    difference = positives[:, None] - negatives[None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def area_over_thresholds(positives, negatives, thresholds):
    points = [(0.0, 0.0)]
    points += [((negatives >= threshold).mean(), (positives >= threshold).mean()) for threshold in thresholds]
    fp, tp = np.transpose([*points, (1.0, 1.0)])
    return np.trapezoid(tp, fp) if hasattr(np, "trapezoid") else np.trapz(tp, fp)


@pytest.mark.parametrize("score", SCORES)
def test_published_values(score):
    for name, expected in EXPECTED.items():
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
            found = SCORES[score](load(name, dtype))
            assert (found.dtype, found.shape) == (torch.float64, ())
            assert found.item() == pytest.approx(float(expected[score]), abs=tolerance, nan_ok=True), name
    # In a batch, numbers of fixations differ, one map has none, one is constant.
    found = SCORES[score](batch_of(SMALL, torch.float64))
    assert (found.dtype, found.shape) == (torch.float64, (len(SMALL),))
    np.testing.assert_allclose(found, [float(EXPECTED[name][score]) for name in SMALL], rtol=0, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_published_values_on_a_gpu():
    batch = batch_of(SMALL, torch.float32, "cuda")
    for name, score in SCORES.items():
        found = score(batch)
        assert (found.dtype, found.device.type) == (torch.float64, "cuda")
        np.testing.assert_allclose(found.cpu(), [float(EXPECTED[case][name]) for case in SMALL], rtol=0, atol=1e-6)
    # Drawn on the CPU, so that a seed gives the same negatives everywhere.
    maps = batch["sal"], batch["fix"], batch["other"]
    found = metrics.auc_shuffled(*maps, generator=torch.Generator().manual_seed(0)).cpu()
    expected = metrics.auc_shuffled(*(array.cpu() for array in maps), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("seed", range(2))
def test_areas_are_those_of_the_curves(seed):
    # Without ties, which cost AUC-Judd area, its curve is the one over all thresholds.
    saliency, _, fixations, other = random_maps(levels=10**9, seed=seed)
    judd = metrics.auc_judd(saliency, fixations)
    tied, *_ = random_maps(seed=seed)
    shuffled = metrics.auc_shuffled(tied, fixations, other, variant="exact")
    for index, (values, fixated) in enumerate(zip(saliency.numpy(), fixations.numpy(), strict=True)):
        if not fixated.any():
            assert judd[index].isnan()
            assert shuffled[index].isnan()
            continue
        area = area_over_thresholds(values[fixated], values[~fixated], np.sort(values[fixated])[::-1])
        assert judd[index].item() == pytest.approx(area, abs=1e-12)
        repeated = np.repeat(tied[index].numpy().ravel(), other[index].numpy().ravel())
        area = area_of_pairs(tied[index].numpy()[fixated], repeated)
        assert shuffled[index].item() == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_linear_scores_are_their_formulas(seed):
    saliency, density, fixations, other = random_maps(seed=seed)
    fixations[2, 3, 4] = True
    prior = other.double() + 0.1
    found = {
        "nss": metrics.nss(saliency, fixations),
        "cc": metrics.cc(saliency, density),
        "sim": metrics.sim(saliency, density),
        "kldiv": metrics.kldiv(saliency, density),
        "gain": metrics.information_gain(saliency + 0.01, fixations, prior),
    }
    for index in range(len(saliency)):
        p, q, fixated = saliency[index].numpy(), density[index].numpy(), fixations[index].numpy()
        lifted, base = p + 0.01, prior[index].numpy()
        shares = [(x - x.min()) / (x - x.min()).sum() for x in (p, q)]
        # Where P is 0, the published epsilon alone decides.
        ratio = q / q.sum() / (p / p.sum() + 2**-52)
        expected = {
            "nss": (p[fixated].mean() - p.mean()) / p.std(ddof=1),
            "cc": np.corrcoef(p.ravel(), q.ravel())[0, 1],
            "sim": 1 - np.abs(shares[0] - shares[1]).sum() / 2,
            "kldiv": (q / q.sum() * np.log(2**-52 + ratio)).sum(),
            "gain": np.mean(
                np.log2(lifted[fixated] / base[fixated]) - math.log2(lifted.sum()) + math.log2(base.sum())
            ),
        }
        for name, value in expected.items():
            assert found[name][index].item() == pytest.approx(value, abs=1e-11), name


def test_information_gain_in_bits():
    # Two of four pixels are fixated. The prior gives each a quarter, the model a half and three eighths.
    saliency = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    fixations = torch.tensor([[1, 1], [0, 0]])
    gain = metrics.information_gain(saliency, fixations, torch.ones(2, 2)).item()
    assert gain == pytest.approx((1 + math.log2(1.5)) / 2, abs=1e-12)
    assert metrics.information_gain(saliency, fixations, 5 * saliency).item() == pytest.approx(0, abs=1e-12)
    # A fixation where the model has no probability costs what epsilon allows: 52 bits, less the two of the prior.
    corner = torch.tensor([[0, 0], [0, 1]])
    missed = metrics.information_gain(saliency, corner, torch.ones(2, 2)).item()
    assert missed == pytest.approx(-50, abs=1e-9)


def test_one_prior_and_one_set_of_others_for_the_batch():
    saliency, _, fixations, other = random_maps()
    exact = partial(metrics.auc_shuffled, variant="exact")
    for metric, shared in ((exact, other[1]), (metrics.information_gain, other[0] + 0.5)):
        one, each = (metric(saliency, fixations, maps) for maps in (shared, shared.expand_as(saliency)))
        assert one.isnan().tolist() == [False, False, True, False, False, False]
        torch.testing.assert_close(one, each, rtol=0, atol=0, equal_nan=True)


def test_sampled_negatives_are_seeded_and_independent_of_batching():
    saliency, _, fixations, other = random_maps(levels=50)
    other += 1

    def score(seed):
        return metrics.auc_shuffled(saliency, fixations, other, generator=torch.Generator().manual_seed(seed))

    torch.testing.assert_close(score(3), score(3), rtol=0, atol=0, equal_nan=True)
    assert (score(4) != score(3)).all()
    generator = torch.Generator().manual_seed(3)
    singly = [
        metrics.auc_shuffled(*maps, generator=generator) for maps in zip(saliency, fixations, other, strict=True)
    ]
    torch.testing.assert_close(torch.stack(singly), score(3), rtol=0, atol=0, equal_nan=True)


def test_sampled_negatives_come_from_the_other_fixations_without_replacement(monkeypatch):
    generator = np.random.default_rng(0)
    saliency = generator.random((20, 30))
    saliency.flat[:2] = 0, 1
    places = generator.permutation(600)
    fixations, other = np.zeros(600, int), np.zeros(600, int)
    fixations[places[:25]] = 1
    # As many places as fixations: every split draws them all, however often each was fixated.
    other[places[15:40]] = generator.integers(1, 9, 25)
    maps = [torch.from_numpy(array.reshape(20, 30)) for array in (saliency, fixations, other)]
    expected = area_over_thresholds(
        saliency.flat[places[:25]], saliency.flat[places[15:40]], np.arange(10, -1, -1) / 10
    )
    assert metrics.auc_shuffled(*maps).item() == pytest.approx(expected, abs=1e-12)
    # With more places than fixations, the mean over many splits comes close to the area against all of them.
    maps[2] = torch.ones(20, 30)
    expected = area_over_thresholds(saliency.flat[places[:25]], saliency.ravel(), np.arange(10, -1, -1) / 10)
    monkeypatch.setattr(metrics, "SPLITS", 4000)
    assert metrics.auc_shuffled(*maps, generator=torch.Generator().manual_seed(0)).item() == pytest.approx(
        expected, abs=5e-3
    )


def test_sampled_score_without_other_fixations_is_undefined():
    saliency, _, fixations, other = random_maps()
    other[1] = 0
    for variant in ("sampled", "exact"):
        found = metrics.auc_shuffled(saliency, fixations, other, variant=variant)
        assert found.isnan().tolist() == [False, True, True, False, False, False]


def test_scale_and_offset():
    saliency, density, fixations, other = random_maps()
    moved = 3 * saliency + 40
    targets = {metrics.cc: density, metrics.sim: density, metrics.nss: fixations, metrics.auc_judd: fixations}
    for score, target in targets.items():
        torch.testing.assert_close(score(moved, target), score(saliency, target), equal_nan=True)
    torch.testing.assert_close(metrics.cc(-moved, density), -metrics.cc(saliency, density))
    torch.testing.assert_close(metrics.cc(saliency, 3 * density + 1), metrics.cc(saliency, density))
    torch.testing.assert_close(metrics.kldiv(7 * saliency, 255 * density), metrics.kldiv(saliency, density))
    gains = [metrics.information_gain(scale * saliency, fixations, other + 1) for scale in (1, 100)]
    torch.testing.assert_close(*gains, equal_nan=True)
    draws = [
        metrics.auc_shuffled(maps, fixations, other, generator=torch.Generator().manual_seed(0))
        for maps in (saliency, 1024 * saliency)
    ]
    torch.testing.assert_close(*draws, equal_nan=True)


def test_undefined_is_nan_and_touches_no_other_map():
    saliency, density, fixations, other = random_maps()
    saliency[0] = 0.1
    density[1] = 0
    density[3] = 0.1
    fixations[4] = True
    for scores, undefined in (
        (metrics.auc_judd(saliency, fixations), [0, 2, 4]),
        (metrics.auc_shuffled(saliency, fixations, other, variant="exact"), [2]),
        (metrics.auc_shuffled(saliency, fixations, other), [0, 2]),
        (metrics.nss(saliency, fixations), [0, 2]),
        (metrics.cc(saliency, density), [0, 1, 3]),
        (metrics.sim(saliency, density), [1, 3]),
        (metrics.kldiv(saliency, density), [1]),
        (metrics.information_gain(saliency, fixations, density[0]), [2]),
        # Counted, nothing is left out for what is predicted.
        (metrics.counted(metrics.auc_judd, saliency, fixations), [2, 4]),
        (metrics.counted(metrics.auc_shuffled, saliency, fixations, other), [2]),
        (metrics.counted(metrics.nss, saliency, fixations), [2]),
        (metrics.counted(metrics.cc, saliency, density), [1, 3]),
    ):
        assert scores.isnan().nonzero().flatten().tolist() == undefined
    singles = [metrics.auc_judd(*maps) for maps in zip(saliency, fixations, strict=True)]
    torch.testing.assert_close(torch.stack(singles), metrics.auc_judd(saliency, fixations), equal_nan=True)
    torch.testing.assert_close(metrics.counted(metrics.cc, saliency, density)[4:], metrics.cc(saliency, density)[4:])


@pytest.mark.parametrize(
    "constant",
    [
        torch.zeros(11, 13),
        torch.full((11, 13), -3.0),
        torch.full((11, 13), 0.1, dtype=torch.float16),
        torch.full((11, 13), 7, dtype=torch.uint8),
        # What resizing and blurring in float32 leave of a constant.
        0.7 + 1e-6 * torch.rand(11, 13, generator=torch.Generator().manual_seed(0)),
    ],
    ids=["zero", "negative", "float16", "uint8", "rounded"],
)
def test_nothing_is_won_by_a_constant(constant):
    _, density, fixations, other = random_maps()
    fixations[0, 0, :2] = torch.tensor([True, False])
    assert metrics.counted(metrics.auc_judd, constant, fixations[0]) == 0.5
    for variant in ("sampled", "exact"):
        assert metrics.counted(metrics.auc_shuffled, constant, fixations[0], other[0], variant=variant) == 0.5
    assert metrics.counted(metrics.nss, constant, fixations[0]) == 0
    assert metrics.counted(metrics.cc, constant, density[0]) == 0
    assert metrics.sim(constant, density[0]) == 0
    if constant.min() > 0:
        # As far as the uniform distribution is from the density: the logarithm of 143 pixels less the entropy.
        share = density[0] / density[0].sum()
        expected = math.log(143) + (share * share.log()).sum().item()
        assert metrics.kldiv(constant, density[0]).item() == pytest.approx(expected, abs=1e-9)
        gain = metrics.information_gain(constant, fixations[0], torch.ones(11, 13)).item()
        assert gain == pytest.approx(0, abs=1e-9)


def test_a_low_contrast_is_no_constant():
    saliency, density, fixations, _ = random_maps()
    low = 1 + 1e-4 * saliency
    torch.testing.assert_close(metrics.sim(low, density), metrics.sim(saliency, density), rtol=0, atol=1e-9)
    torch.testing.assert_close(metrics.nss(low, fixations), metrics.nss(saliency, fixations), equal_nan=True)


def test_empty_saliency_is_as_far_away_as_epsilon_allows():
    found = metrics.kldiv(torch.zeros(2, 2), torch.ones(2, 2)).item()
    assert found == pytest.approx(50 * math.log(2), abs=1e-9)


def test_no_maps_give_no_scores():
    empty = torch.zeros(0, 4, 5)
    for score in (metrics.auc_judd, metrics.nss, metrics.cc, metrics.sim, metrics.kldiv):
        assert score(empty, empty).shape == (0,)


MAP = torch.rand(2, 4, 5)
NAN = MAP.clone().index_fill_(1, torch.tensor([2]), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.nss(MAP, MAP[:, :3]), r"fixations has the shape \(2, 3, 5\), but saliency has \(2, 4, 5\)"),
        (lambda: metrics.cc(MAP, MAP[0]), r"density has the shape \(4, 5\), but saliency has \(2, 4, 5\)"),
        (lambda: metrics.cc(MAP[0], MAP), r"density has the shape \(2, 4, 5\), but saliency has \(4, 5\)"),
        (lambda: metrics.sim(MAP[None], MAP[None]), r"saliency must be \(batch, height, width\) or \(height, width\)"),
        (lambda: metrics.cc(MAP[:, :0], MAP[:, :0]), r"not \(2, 0, 5\)"),
        (lambda: metrics.kldiv(MAP, MAP - 1), "density holds negative values"),
        (lambda: metrics.kldiv(MAP - 1, MAP), "saliency holds negative values"),
        (lambda: metrics.cc(MAP, -MAP), "density holds negative values"),
        (lambda: metrics.cc(NAN, MAP), "saliency holds values that are not finite"),
        (lambda: metrics.auc_judd(MAP / 0, MAP), "saliency holds values that are not finite"),
        (lambda: metrics.sim(MAP, NAN), "density holds values that are not finite"),
        (lambda: metrics.information_gain(MAP, MAP, MAP - 1), "prior holds negative values"),
        (lambda: metrics.information_gain(MAP, MAP, 0 * MAP), "prior is empty"),
        (lambda: metrics.information_gain(MAP, MAP, MAP[:, :2]), r"prior has the shape \(2, 2, 5\)"),
        (lambda: metrics.auc_shuffled(MAP, MAP, MAP, variant="borji"), "no shuffled AUC variant 'borji'"),
        (lambda: metrics.auc_shuffled(MAP, MAP, -MAP), "other holds negative values"),
        (lambda: metrics.auc_shuffled(MAP, MAP, MAP[None]), r"other has the shape \(1, 2, 4, 5\)"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
