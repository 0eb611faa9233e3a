import numpy as np
import pytest
import torch
from torch.nn import functional as F

from salfom_hf.models.losses import correlation, kl_divergence, normalized_scanpath_saliency, saliency_loss, similarity

EPS = 2.2204e-16


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 20, 30, generator=generator)
    return logits, torch.rand(3, 20, 30, generator=generator) ** 4


def naive_kl(logits, density):
    results = []
    for z, gt in zip(logits.double().numpy(), density.double().numpy(), strict=True):
        pred = 1 / (1 + np.exp(-z))
        pred, gt = pred / pred.sum(), gt / gt.sum()
        results.append((gt * np.log(EPS + gt / (pred + EPS))).sum())
    return np.array(results)


def naive_cc(logits, density):
    pairs = zip(logits.double().sigmoid().numpy(), density.double().numpy(), strict=True)
    return np.array([np.corrcoef(pred.ravel(), gt.ravel())[0, 1] for pred, gt in pairs])


def naive_sim(saliency, density):
    results = []
    for one, other in zip(saliency.double().numpy(), density.double().numpy(), strict=True):
        one, other = ((x - x.min()) / (x.max() - x.min()) for x in (one, other))
        results.append(np.minimum(one / one.sum(), other / other.sum()).sum())
    return np.array(results)


def naive_nss(saliency, fixations):
    return np.array(
        [((x - x.mean()) / x.std())[at].mean() for x, at in zip(saliency.double().numpy(), fixations, strict=True)]
    )


@pytest.fixture
def fixations():
    return torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(1)) > 0.97


def test_terms_match_float64_formulas(maps, fixations):
    logits, density = maps
    saliency = logits.sigmoid()
    np.testing.assert_allclose(kl_divergence(logits, density), naive_kl(logits, density), rtol=1e-4)
    np.testing.assert_allclose(correlation(saliency, density), naive_cc(logits, density), atol=1e-5)
    np.testing.assert_allclose(similarity(saliency, density), naive_sim(saliency, density), atol=1e-5)
    nss = normalized_scanpath_saliency(saliency, fixations)
    np.testing.assert_allclose(nss, naive_nss(saliency, fixations.numpy()), atol=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (0.5, 2.0, 3.0, 0.25)])
def test_loss_is_the_weighted_mean(maps, fixations, weights):
    logits, density = maps
    saliency = logits.sigmoid()
    terms = [naive_kl(*maps), -naive_cc(*maps)]
    terms += [-naive_sim(saliency, density), -naive_nss(saliency, fixations.numpy())]
    expected = sum(weight * term.mean() for weight, term in zip(weights, terms, strict=False))
    assert saliency_loss(*maps, *weights, fixations=fixations).item() == pytest.approx(expected, abs=1e-3)


def test_scale_of_labels_does_not_matter(maps):
    logits, density = maps
    torch.testing.assert_close(saliency_loss(logits, 255 * density), saliency_loss(logits, density))


def test_labels_of_another_size_are_resized(maps):
    logits, _ = maps
    labels = torch.rand(3, 31, 17)
    resized = F.interpolate(labels[:, None], size=(20, 30), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(saliency_loss(logits, labels), saliency_loss(logits, resized))


def test_perfect_prediction():
    density = torch.rand(2, 20, 30) * 0.8 + 0.1
    assert saliency_loss(density.logit(), density).item() == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("prediction", ["zero", "low", "high", "both", "noise"])
def test_finite_loss_and_gradient(dtype, prediction):
    """Whatever was predicted, and whatever people looked at; of the further terms in float32 only."""
    torch.manual_seed(0)
    empty = torch.zeros(1, 32, 32)
    peak = empty.index_fill(2, torch.tensor([3]), 1.0)
    start = {
        "zero": empty,
        "low": torch.full_like(empty, -100.0),
        "high": torch.full_like(empty, 100.0),
        "both": torch.randint(0, 2, empty.shape) * 200.0 - 100,
        "noise": torch.randn_like(empty),
    }[prediction]
    for density in (empty, torch.ones_like(empty), peak, torch.rand_like(empty)):
        for fixations in (None, empty > 0, peak > 0, empty == 0)[: 4 if dtype == torch.float32 else 1]:
            logits, further = start.to(dtype, copy=True).requires_grad_(), float(fixations is not None)
            loss = saliency_loss(logits, density, sim_weight=further, nss_weight=further, fixations=fixations)
            loss.backward()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
            assert logits.grad.isfinite().all()


def test_constant_and_empty_maps_have_no_correlation():
    noise = torch.rand(2, 16, 16)
    constant = torch.stack([torch.zeros(16, 16), torch.full((16, 16), 0.3)])
    torch.testing.assert_close(correlation(noise, constant), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(correlation(constant, noise), torch.zeros(2), atol=1e-4, rtol=0)
    assert kl_divergence(noise, torch.zeros(2, 16, 16)).tolist() == [0, 0]


def test_tiny_negative_labels_count_as_zero():
    labels = torch.rand(2, 6, 8)
    labels[:, 0] = 0
    negative = labels.clone()
    negative[:, 0] = -1e-9
    logits = torch.randn(2, 6, 8)
    assert saliency_loss(logits, negative).isfinite()
    torch.testing.assert_close(saliency_loss(logits, negative), saliency_loss(logits, labels))


def test_descending_along_a_further_term_improves_it(maps, fixations):
    logits, density = maps
    for options in ({"sim_weight": 1.0}, {"nss_weight": 1.0}):
        start = logits.clone().requires_grad_()
        before = saliency_loss(start, density, 0.0, 0.0, fixations=fixations, **options)
        (gradient,) = torch.autograd.grad(before, start)
        after = saliency_loss(
            start - gradient / gradient.abs().max(), density, 0.0, 0.0, fixations=fixations, **options
        )
        assert after < before - 1e-3


def test_nss_needs_fixations(maps):
    for fixations in (None, torch.ones(3, 10, 15, dtype=torch.bool)):
        with pytest.raises(ValueError, match="fixations of the shape"):
            saliency_loss(*maps, nss_weight=1.0, fixations=fixations)
