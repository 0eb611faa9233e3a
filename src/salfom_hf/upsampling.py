"""Spatial up-sampling as all branches of the decoder do it."""

import torch
from torch.nn import functional as F


def upsample(volume: torch.Tensor, scale: int) -> torch.Tensor:
    """Linear up-sampling of the last two dimensions of a 4-D or 5-D tensor, `align_corners=False`."""
    if scale == 1:
        return volume
    if volume.ndim == 4:
        return F.interpolate(volume, scale_factor=scale, mode="bilinear", align_corners=False)
    return F.interpolate(volume, scale_factor=(1, scale, scale), mode="trilinear", align_corners=False)
