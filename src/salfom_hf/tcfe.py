"""TCFE, transformer-based complementary feature extraction: SalFoM's branch for long-range relations in time.

Three stages of a strided patch embedding and video-Swin blocks whose window covers one spatial position, so that
attention runs along time only (Liu et al., "Video Swin Transformer", CVPR 2022).
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_salfom import SalFoMConfig
from .temporal import convolve
from .upsampling import upsample

# Added to the attention between tokens that a cyclic shift brought together, as in Swin.
SHIFT_MASK = -100.0


class TemporalWindowAttention(nn.Module):
    """Multi-head attention among the `window` time steps of one spatial position, with a relative-position bias."""

    def __init__(self, channels: int, num_heads: int, window: int):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.scaling = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.relative_position_bias = nn.Parameter(torch.zeros(2 * window - 1, num_heads))

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, windows, steps, positions, channels)` to the same; `mask` is `(windows, steps, steps)`."""
        steps = windows.shape[2]
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        # b batch, w window, q and k steps, p position, h head, c channel
        scores = torch.einsum("bwqphc,bwkphc->bwphqk", query * self.scaling, key)
        step = torch.arange(steps, device=windows.device)
        bias = self.relative_position_bias[step[:, None] - step[None, :] + self.window - 1]
        scores = scores + bias.permute(2, 0, 1)
        if mask is not None:
            scores = scores + mask[:, None, None]
        attended = torch.einsum("bwphqk,bwkphc->bwqphc", scores.softmax(dim=-1), value)
        return self.output(attended.flatten(-2))


class TemporalSwinBlock(GradientCheckpointingLayer):
    """Pre-norm Swin block over time: windowed attention, optionally shifted by half a window, then an MLP."""

    def __init__(self, channels: int, num_heads: int, window: int, shifted: bool, drop_path: float, config):
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.drop_path_rate = drop_path
        self.norm1 = nn.LayerNorm(channels, eps=config.tcfe_layer_norm_eps)
        self.attention = TemporalWindowAttention(channels, num_heads, window)
        self.norm2 = nn.LayerNorm(channels, eps=config.tcfe_layer_norm_eps)
        hidden = int(channels * config.tcfe_mlp_ratio)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def drop_path(self, residual: torch.Tensor) -> torch.Tensor:
        """Stochastic depth (Huang et al., ECCV 2016): leaves out the residual for a random part of the batch."""
        if not self.training or self.drop_path_rate == 0:
            return residual
        keep = 1 - self.drop_path_rate
        shape = (residual.shape[0],) + (1,) * (residual.ndim - 1)
        return residual * residual.new_empty(shape).bernoulli_(keep) / keep

    def attend(self, hidden_states: torch.Tensor) -> torch.Tensor:
        steps = hidden_states.shape[1]
        if steps <= self.window:  # One window holds all of time: nothing to shift.
            return self.attention(hidden_states.unsqueeze(1), None).squeeze(1)
        mask = None
        if self.shift:
            hidden_states = hidden_states.roll(-self.shift, dims=1)
            # The roll carries the first steps behind the last ones; in the last window the two do not attend.
            wrapped = torch.arange(steps, device=hidden_states.device) >= steps - self.shift
            wrapped = wrapped.unflatten(0, (-1, self.window))
            mask = hidden_states.new_full((), SHIFT_MASK) * (wrapped[:, :, None] != wrapped[:, None, :])
        windows = hidden_states.unflatten(1, (-1, self.window))
        hidden_states = self.attention(windows, mask).flatten(1, 2)
        return hidden_states.roll(self.shift, dims=1) if self.shift else hidden_states

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, time, positions, channels)` to the same."""
        hidden_states = hidden_states + self.drop_path(self.attend(self.norm1(hidden_states)))
        return hidden_states + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(hidden_states)))))


class TCFEStage(nn.Module):
    """Shortens time by a strided convolution, then lets the time steps of each position attend to one another."""

    def __init__(self, inputs: int, outputs: int, reduction: int, depth: int, num_heads: int, config: SalFoMConfig):
        super().__init__()
        kernel = (reduction, 1, 1)
        self.patch_embedding = nn.Conv3d(inputs, outputs, kernel_size=kernel, stride=kernel)
        drop_path = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.blocks = nn.ModuleList(
            [
                TemporalSwinBlock(outputs, num_heads, reduction, index % 2 == 1, drop_path[index], config)
                for index in range(depth)
            ]
        )

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """`(batch, inputs, time, rows, columns)` to `(batch, outputs, time / reduction, rows, columns)`."""
        volume = convolve(self.patch_embedding, volume)
        rows, columns = volume.shape[-2:]
        tokens = volume.flatten(3).permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.permute(0, 3, 1, 2).unflatten(3, (rows, columns))


class TCFE(nn.Module):
    def __init__(self, config: SalFoMConfig):
        super().__init__()
        channels = (config.feature_channels, *config.decoder_channels[1::2])
        first, second, third, fourth = config.time_reductions
        reductions = (first, second, third * fourth)
        self.stages = nn.ModuleList(
            [
                TCFEStage(
                    channels[i],
                    channels[i + 1],
                    reductions[i],
                    config.tcfe_depths[i],
                    config.tcfe_num_heads[i],
                    config,
                )
                for i in range(3)
            ]
        )
        self.last_scale = config.last_scales[0] * config.last_scales[1]

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            features: `(batch, channels, time, rows, columns)`; one time step stands for a still.

        Returns:
            What DFD adds at its 2nd step, `(batch, channels, time / 2, rows, columns)`; at its 4th,
            `(batch, channels, time / 4, 4 rows, 4 columns)`; and the branch's own output,
            `(batch, channels, 16 rows / output_stride, 16 columns / output_stride)`.
        """
        first = self.stages[0](features)
        second = upsample(self.stages[1](first), 4)
        third = upsample(self.stages[2](second).squeeze(2), self.last_scale)
        return first, second, third
