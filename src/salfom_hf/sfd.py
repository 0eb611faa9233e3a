"""SFD, static feature decoding: SalFoM's branch that collapses time first, then decodes space in 2-D."""

import torch
from torch import nn

from .configuration_salfom import SalFoMConfig
from .temporal import collapse, collapse_padded
from .upsampling import upsample


def halvings(steps: int) -> int:
    """How often `steps`, a power of two, can be halved."""
    return steps.bit_length() - 1


class SFD(nn.Module):
    def __init__(self, config: SalFoMConfig):
        super().__init__()
        inputs = config.feature_channels
        c1, c2, c3, c4, c5, c6 = config.decoder_channels
        time, (second, fourth, *_) = config.time_steps, config.time_reductions

        self.temporal = nn.ModuleList(
            [
                nn.Conv3d(inputs, inputs, (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1), bias=False)
                for _ in range(halvings(time))
            ]
        )

        def from_dynamic(channels: int, steps: int) -> nn.ModuleList:
            return nn.ModuleList(
                [
                    nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
                    for _ in range(halvings(steps))
                ]
            )

        # Without DFD there is nothing to read, and modules that nothing uses would never be trained.
        self.from_dynamic_2 = from_dynamic(c2, time // second if config.use_dfd else 1)
        self.from_dynamic_4 = from_dynamic(c4, time // (second * fourth) if config.use_dfd else 1)

        self.scales = (1, 1, 1, 1, 2, 2, 1, *config.last_scales)
        channels = (inputs, c1, c2, c2, c3, c4, c4, c5, c6, c6)
        self.spatial = nn.ModuleList(
            [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False) for i in range(len(self.scales))]
        )

    def forward(self, features: torch.Tensor, dynamic: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        """
        Args:
            features: `(batch, channels, time, rows, columns)`; one time step stands for a still.
            dynamic: DFD's volumes after its 2nd and 4th step, `None` without that branch.

        Returns:
            `(batch, channels, 16 rows / output_stride, 16 columns / output_stride)`.
        """
        static = collapse(features, self.temporal)
        for index, (convolution, scale) in enumerate(zip(self.spatial, self.scales, strict=True)):
            static = upsample(convolution(static).relu(), scale)
            if dynamic is not None and index == 2:
                static = static + collapse_padded(dynamic[0], self.from_dynamic_2)
            if dynamic is not None and index == 5:
                static = static + collapse_padded(dynamic[1], self.from_dynamic_4)
        return static
