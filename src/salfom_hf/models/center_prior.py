"""What is known of where people look before a picture is seen, and of how much they agree."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class CenterPrior(nn.Module):
    """
    People look at the centre more than at the border, and at moving pictures more so than at stills; there, they also
    agree more. So two learned maps of log-densities are added to the logits: that of stills (at first flat) always,
    that of moving pictures (at first a Gaussian) weighted by how much the features change from frame to frame. In
    the same measure, the logits are then multiplied by `sharpness`.
    """

    GRID = (12, 16)
    SIGMA = 0.22  # Standard deviation of the initial Gaussian as a fraction of the frame.
    SENSITIVITY = 50.0  # At first, a change of 2 % weighs .63; filmed scenes change by 2 to 20 % from frame to frame.

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.log_density = nn.Parameter(self.initial_density())
        self.log_sensitivity = nn.Parameter(torch.tensor(math.log(self.SENSITIVITY)))

    def initial_density(self, device: torch.device | None = None) -> torch.Tensor:
        y, x = ((torch.arange(size, device=device) + 0.5) / size - 0.5 for size in self.GRID)
        moving = -(y[:, None] ** 2 + x[None, :] ** 2) / (2 * self.SIGMA**2)
        return torch.stack([torch.zeros_like(moving), moving]).unsqueeze(1)

    def log_densities(self, size: tuple[int, int]) -> torch.Tensor:
        """Those of stills and of moving pictures, `(2, 1, height, width)` of this size."""
        return F.interpolate(self.log_density, size=size, mode="bilinear", align_corners=False)

    def motion(self, change: torch.Tensor) -> torch.Tensor:
        """Mean change of the features from frame to frame, relative to their mean, to 0 (still) … 1 (moving)."""
        return -torch.expm1(-change * self.log_sensitivity.exp())

    def forward(
        self, logits: torch.Tensor, features: torch.Tensor, unseen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Logits `(batch, 1, height, width)` with the prior, from those without it and the feature volume; `unseen`,
        `(batch,)`, is the share of each window's steps of which nothing is known, and which count as moving.
        """
        still, moving = self.log_densities((logits.shape[-2], logits.shape[-1]))
        if features.shape[2] == 1:
            return logits + still
        features = features.detach()  # They are there for the branches; here they are only measured.
        change = features.diff(dim=2).abs().mean((1, 2, 3, 4)) / features.abs().mean((1, 2, 3, 4)).clamp_min(1e-6)
        motion = self.motion(change)
        if unseen is not None:
            motion = motion + (1 - motion) * unseen
        motion = motion.view(-1, 1, 1, 1)
        return (logits + still + motion * moving) * (1 + (self.sharpness - 1) * motion)
