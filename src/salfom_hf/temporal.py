"""Convolutions over time, which take a volume of one time step for a still: all its time steps are equal."""

import torch
from torch import nn
from torch.nn import functional as F


def convolve(convolution: nn.Conv3d, volume: torch.Tensor) -> torch.Tensor:
    """
    A convolution without padding in time, or of a still: there the taps see the same frame, and only their sum counts.

    Args:
        volume: `(batch, channels, time, rows, columns)`; `time` is 1 for a still, whatever the kernel.
    """
    if volume.shape[2] > 1:
        return convolution(volume)
    # Without the dimension of time: 2-D convolutions are the faster ones.
    taps = convolution.weight.sum(2)
    return F.conv2d(volume.squeeze(2), taps, convolution.bias, padding=convolution.padding[1:]).unsqueeze(2)


def collapse(volume: torch.Tensor, convolutions: nn.ModuleList) -> torch.Tensor:
    """Run temporal convolutions that leave one time step: `(b, c, time, h, w)` to `(b, c, h, w)`."""
    for convolution in convolutions:
        volume = convolve(convolution, volume).relu()
    return volume.squeeze(2)


def collapse_padded(volume: torch.Tensor, convolutions: nn.ModuleList) -> torch.Tensor:
    """
    [`collapse`] for kernels `(3, 1, 1)` of stride 2 that pad time with zeros, as SFD has them over DFD's volumes.

    The padding stands before the first time step, so of a still that step and the others, equal among themselves, are
    carried on.
    """
    if volume.shape[2] > 1:
        return collapse(volume, convolutions)
    first = others = volume.squeeze(2)
    for convolution in convolutions:
        before, now, after = convolution.weight[..., 0].unbind(2)
        first = (F.conv2d(first, now[..., None], convolution.bias) + F.conv2d(others, after[..., None])).relu()
        others = F.conv2d(others, (before + now + after)[..., None], convolution.bias).relu()
    return first


__all__ = ["collapse", "collapse_padded", "convolve"]
