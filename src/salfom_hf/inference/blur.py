"""Gaussian blur of maps, as densities are made of fixations."""

import torch


def blur_matrix(length: int, sigma: float, border: str) -> torch.Tensor:
    """float64 `(length, length)`: the blur along one axis as a matrix that a column of pixels is multiplied with."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(length, -1)
    sources = torch.arange(length)[:, None] + offsets
    if border == "reflect":
        sources = sources % (2 * length)
        sources = torch.minimum(sources, 2 * length - 1 - sources)
    else:
        kernel = kernel * ((sources >= 0) & (sources < length))
        sources = sources.clamp(0, length - 1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, sources, kernel)


def gaussian_blur(maps: torch.Tensor, sigma: float, border: str = "zeros") -> torch.Tensor:
    """
    Blur each map with a Gaussian of sum 1, cut off at four standard deviations.

    Args:
        maps: `(…, height, width)` of any type; all but float64 are computed in float32.
        sigma: standard deviation in pixels; 0 leaves the maps as they are.
        border: what is outside of a map: `"zeros"`, or `"reflect"`, its mirror image, which begins with the outermost
            pixel.

    Returns:
        float32 (float64 for float64) `(…, height, width)` on the maps' device.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if sigma == 0:
        return maps
    # Two products of matrices: for wide kernels, several times as fast as convolutions.
    vertical, horizontal = (blur_matrix(length, sigma, border).to(maps) for length in maps.shape[-2:])
    return vertical @ maps @ horizontal.T


__all__ = ["gaussian_blur"]
