"""The blur against sums of Gaussians written out pixel by pixel."""

import numpy as np
import pytest
import torch

from salfom_hf.models.losses import gaussian_blur


def by_hand(image, sigma, mirrored=False):
    """Every pixel's share of every other, from the definition; with its mirror images if `mirrored`."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(image.astype(np.float64), radius, mode="symmetric" if mirrored else "constant")
    blurred = np.zeros(image.shape)
    for dy in offsets:
        for dx in offsets:
            share = kernel[dy + radius] * kernel[dx + radius]
            moved = padded[radius + dy :, radius + dx :][: image.shape[0], : image.shape[1]]
            blurred += share * moved
    return blurred


@pytest.mark.parametrize("sigma", [0.6, 2.0, 7.3])
@pytest.mark.parametrize("border", ["zeros", "reflect"])
def test_blur_is_the_weighted_sum_of_the_neighbourhood(sigma, border):
    # Kernels of up to 59 pixels on maps of 11 rows: the mirror image is mirrored again.
    maps = np.random.default_rng(0).random((2, 3, 11, 17))
    blurred = gaussian_blur(torch.from_numpy(maps), sigma, border)
    assert blurred.dtype == torch.float64
    for index in np.ndindex(2, 3):
        expected = by_hand(maps[index], sigma, border == "reflect")
        np.testing.assert_allclose(blurred[index], expected, rtol=0, atol=1e-12)


def test_a_point_becomes_a_gaussian_that_ends_at_four_standard_deviations():
    maps = torch.zeros(41, 61)
    maps[20, 30] = 1
    blurred = gaussian_blur(maps, 3.0)
    y, x = np.mgrid[-20:21, -30:31]
    inside = (abs(y) <= 12) & (abs(x) <= 12)
    gaussian = np.exp(-(y**2 + x**2) / 18) * inside
    np.testing.assert_allclose(blurred, gaussian / gaussian.sum(), rtol=0, atol=1e-7)
    assert not blurred[torch.from_numpy(~inside)].any()


def test_what_leaves_the_map_is_lost_or_comes_back():
    maps = torch.rand(20, 30)
    assert gaussian_blur(torch.ones(20, 30), 4.0)[0, 0] == pytest.approx(0.3, abs=0.1)
    assert gaussian_blur(maps, 4.0, "reflect").sum().item() == pytest.approx(maps.sum().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float32])
def test_maps_of_any_type_are_blurred_in_float32(dtype):
    maps = (torch.rand(12, 16, generator=torch.manual_seed(0)) > 0.7).to(dtype)
    blurred = gaussian_blur(maps, 1.5)
    assert blurred.dtype == torch.float32
    np.testing.assert_allclose(blurred, by_hand(maps.numpy(), 1.5), rtol=0, atol=1e-6)
    assert torch.equal(gaussian_blur(maps, 0), maps.float())
