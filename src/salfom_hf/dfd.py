"""DFD, dynamic feature decoding: SalFoM's branch of 3-D convolutions, where time shrinks while space grows."""

import torch
from torch import nn

from .configuration_salfom import SalFoMConfig
from .temporal import convolve
from .upsampling import upsample


class DFD(nn.Module):
    def __init__(self, config: SalFoMConfig):
        super().__init__()
        channels = (config.feature_channels, *config.decoder_channels)
        second, fourth, fifth, sixth = config.time_reductions
        reductions = (1, second, 1, fourth, fifth, sixth)
        self.scales = (1, 1, 2, 2, *config.last_scales)
        self.steps = nn.ModuleList(
            [
                nn.Conv3d(
                    channels[i],
                    channels[i + 1],
                    kernel_size=(reduction, 3, 3),
                    stride=(reduction, 1, 1),
                    padding=(0, 1, 1),
                    bias=False,
                )
                for i, reduction in enumerate(reductions)
            ]
        )

    def forward(
        self, features: torch.Tensor, transformer: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            features: `(batch, channels, time, rows, columns)`; one time step stands for a still.
            transformer: what TCFE gives for the 2nd and 4th step, `None` without that branch.

        Returns:
            The volumes after the 2nd and the 4th step, which SFD reads, and the branch's own output,
            `(batch, channels, 16 rows / output_stride, 16 columns / output_stride)`.
        """
        volumes = []
        for index, (step, scale) in enumerate(zip(self.steps, self.scales, strict=True)):
            features = upsample(convolve(step, features).relu(), scale)
            if transformer is not None and index in (1, 3):
                features = features + transformer[index // 2]
            volumes.append(features)
        return volumes[1], volumes[3], features.squeeze(2)
