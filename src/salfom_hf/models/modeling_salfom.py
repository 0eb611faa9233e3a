"""SalFoM: the encoder, the decoder's three branches, their fusion into one saliency map.

Moradi et al., "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024 (arXiv 2404.03097).
"""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .arguments import check_keywords, check_pixels
from .configuration_salfom import SalFoMConfig
from .encoders import EncoderAdapter, adapter_for, build_encoder
from .losses import saliency_loss
from .modeling_umt import PicklableModel
from .names import resolve


@dataclass
class SalFoMModelOutput(ModelOutput):
    """
    Output of [`SalFoMModel`]. A branch that is switched off gives `None`; `rows` and `columns` are those of the
    feature volume, 1/16 of the input for the paper's encoder, and `scale` is `16 / config.output_stride`.

    Args:
        last_hidden_state: feature volume `(batch, channels, time, rows, columns)` that the decoder reads.
        static_features: output of SFD, `(batch, channels, scale · rows, scale · columns)`.
        transformer_features: output of TCFE, likewise.
        dynamic_features: output of DFD, likewise.
        hidden_states, attentions: those of the encoder, on request.
    """

    last_hidden_state: torch.FloatTensor | None = None
    static_features: torch.FloatTensor | None = None
    transformer_features: torch.FloatTensor | None = None
    dynamic_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SalFoMOutput(ModelOutput):
    """
    Output of [`SalFoMForVideoSaliencyPrediction`].

    Args:
        loss: scalar, when labels were given.
        logits: `(batch, height, width)` at input size.
        saliency: `sigmoid(logits)`, values in 0…1.
        hidden_states, attentions: those of the encoder, on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    saliency: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


def upsample(volume: torch.Tensor, scale: int) -> torch.Tensor:
    """Linear up-sampling of the last two dimensions of a 4-D or 5-D tensor, `align_corners=False`."""
    if scale == 1:
        return volume
    if volume.ndim == 4:
        return F.interpolate(volume, scale_factor=scale, mode="bilinear", align_corners=False)
    return F.interpolate(volume, scale_factor=(1, scale, scale), mode="trilinear", align_corners=False)


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


class Fusion(nn.Module):
    """The branches' outputs, stacked, to one map of logits."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        branches = config.use_sfd + config.use_tcfe + config.use_dfd
        channels = (branches * config.decoder_channels[-1], *config.fusion_channels, 1)
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False) for i in range(3)]
        )

    def forward(self, branches: list[torch.Tensor]) -> torch.Tensor:
        first, second, last = self.convolutions
        return last(second(first(torch.cat(branches, dim=1)).relu()).relu())


class CenterPrior(nn.Module):
    """
    People look at the centre more than at the border, and at moving pictures more so than at stills: learned
    log-densities, added to the logits.

    The one of moving pictures, at first a Gaussian, counts in the measure in which the features change from frame to
    frame; that of stills, at first flat, always.
    """

    GRID = (12, 16)
    # Standard deviation of the initial Gaussian as a fraction of the frame.
    SIGMA = 0.22
    # Features of filmed scenes change by 2 to 20 % from frame to frame; at first, 2 % make 63 % of a moving picture.
    SENSITIVITY = 50.0

    def __init__(self):
        super().__init__()
        self.log_density = nn.Parameter(self.initial_density())
        self.log_sensitivity = nn.Parameter(torch.tensor(math.log(self.SENSITIVITY)))

    def initial_density(self, device: torch.device | None = None) -> torch.Tensor:
        """Of stills and of moving pictures, float32 `(2, 1, *GRID)`."""
        y, x = ((torch.arange(size, device=device) + 0.5) / size - 0.5 for size in self.GRID)
        moving = -(y[:, None] ** 2 + x[None, :] ** 2) / (2 * self.SIGMA**2)
        return torch.stack([torch.zeros_like(moving), moving]).unsqueeze(1)

    def log_densities(self, size: tuple[int, int]) -> torch.Tensor:
        """Those of stills and of moving pictures, at the (height, width) of the map: `(2, 1, height, width)`."""
        return F.interpolate(self.log_density, size=size, mode="bilinear", align_corners=False)

    def motion(self, change: torch.Tensor) -> torch.Tensor:
        """Mean change of the features from frame to frame, relative to their mean, to 0 (still) … 1 (moving)."""
        return -torch.expm1(-change * self.log_sensitivity.exp())

    def forward(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Args:
            features: `(batch, channels, time, rows, columns)`; one time step stands for a still.
            size: (height, width) of the map.

        Returns:
            `(batch, 1, height, width)`.
        """
        still, moving = self.log_densities(size)
        if features.shape[2] == 1:
            return still.expand(len(features), 1, *size)
        features = features.detach()  # They are there for the branches; here they are only measured.
        change = features.diff(dim=2).abs().mean((1, 2, 3, 4)) / features.abs().mean((1, 2, 3, 4)).clamp_min(1e-6)
        return still + self.motion(change).view(-1, 1, 1, 1) * moving


class SalFoMPreTrainedModel(PicklableModel):
    config: SalFoMConfig
    base_model_prefix = "salfom"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("TemporalSwinBlock", "UMTEmbeddings", "UMTLayer", "InvertedResidual")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also accepts the package's own names (`salfom_hf.models.names`)."""
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            # All temporal taps start equal: an untrained decoder takes every clip for a still. From taps of opposite
            # signs it would start with noise that training on slow video never removes.
            spatial = torch.empty_like(module.weight[:, :, :1] if module.weight.ndim == 5 else module.weight)
            nn.init.kaiming_normal_(spatial, nonlinearity="relu")
            taps = module.weight.shape[2] if module.weight.ndim == 5 else 1
            init.copy_(module.weight, spatial.expand_as(module.weight) / taps)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, TemporalWindowAttention):
            init.trunc_normal_(module.relative_position_bias, std=self.config.initializer_range)
        elif isinstance(module, CenterPrior):
            init.copy_(module.log_density, module.initial_density(module.log_density.device))
            init.constant_(module.log_sensitivity, math.log(module.SENSITIVITY))


class SalFoMModel(SalFoMPreTrainedModel):
    """Encoder and the three branches of the decoder, without their fusion."""

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config, config.num_frames)
        self.projection = None
        if config.decoder_hidden_size is not None:
            self.projection = nn.Conv2d(self.adapter.channels(config.encoder_config), config.decoder_hidden_size, 1)
        self.tcfe = TCFE(config) if config.use_tcfe else None
        self.dfd = DFD(config) if config.use_dfd else None
        self.sfd = SFD(config) if config.use_sfd else None
        self._frozen_parts: tuple[str, ...] = ()
        self.post_init()

    @property
    def adapter(self) -> EncoderAdapter:
        return adapter_for(self.config.encoder_config)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def train(self, mode: bool = True):
        """As in torch; frozen parts stay in evaluation mode, so that their batch norms and dropout do not change."""
        super().train(mode)
        for part in self._frozen_parts:
            getattr(self, part).eval()
        return self

    def freeze(self, *parts: str) -> None:
        """
        Exclude parts from training.

        Args:
            parts: any of `"encoder"`, `"projection"`, `"tcfe"`, `"dfd"`, `"sfd"`.

        Raises:
            ValueError: this model has no such part.
        """
        available = [name for name, _ in self.named_children()]
        for part in parts:
            if part not in available:
                raise ValueError(f"No part '{part}' to freeze; this model has {', '.join(available)}.")
        self._frozen_parts = tuple(dict.fromkeys(self._frozen_parts + parts))
        for part in parts:
            getattr(self, part).requires_grad_(False)
        self.train(self.training)

    def check_input(self, pixel_values_videos: torch.Tensor) -> None:
        check_pixels(pixel_values_videos)
        if pixel_values_videos.ndim != 5 or pixel_values_videos.shape[2] != 3:
            raise ValueError(
                f"This model takes (batch, frames, 3, height, width), not {tuple(pixel_values_videos.shape)}."
            )
        _, frames, _, height, width = pixel_values_videos.shape
        if frames not in (1, self.config.num_frames):
            raise ValueError(
                f"This model takes clips of {self.config.num_frames} frames, or stills of one frame, not {frames}."
            )
        stride = self.adapter.stride(self.config.encoder_config)
        if height % stride or width % stride:
            raise ValueError(f"This model takes heights and widths that {stride} divides, not {height}x{width}.")

    def encode(self, pixel_values_videos: torch.Tensor, **flags) -> tuple[torch.Tensor, ModelOutput]:
        """
        Clips `(batch, frames, 3, height, width)` to the feature volume that the decoder reads. A frame-wise encoder
        sees a still once, and its volume has one time step; any other encoder sees it as often as a clip has frames.
        """
        self.check_input(pixel_values_videos)
        if pixel_values_videos.shape[1] == 1 and not self.adapter.framewise:
            pixel_values_videos = pixel_values_videos.expand(-1, self.config.num_frames, -1, -1, -1)
        batch, frames = pixel_values_videos.shape[:2]
        if not self.adapter.framewise:
            features, outputs = self.adapter.features(self.encoder, pixel_values_videos, **flags)
            return self.project(features), outputs
        features, outputs = self.adapter.features(self.encoder, pixel_values_videos.flatten(0, 1), **flags)
        return self.project(features).unflatten(0, (batch, frames)).transpose(1, 2), outputs

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Single frames to their slices of the feature volume; stacked along a new time dimension, the slices of
        `num_frames` frames are what `encode` gives for their clip. Only for frame-wise encoders.

        Args:
            pixel_values: float `(frames, 3, height, width)`.

        Returns:
            `(frames, channels, rows, columns)`.
        """
        if not self.adapter.framewise:
            raise ValueError(f"Encoders of type '{self.config.encoder_config.model_type}' do not see single frames.")
        check_pixels(pixel_values)
        return self.project(self.adapter.features(self.encoder, pixel_values)[0])

    def project(self, features: torch.Tensor) -> torch.Tensor:
        if self.projection is None:
            return features
        if features.ndim == 4:
            return self.projection(features).relu()
        batch = features.shape[0]
        features = self.projection(features.transpose(1, 2).flatten(0, 1)).relu()
        return features.unflatten(0, (batch, -1)).transpose(1, 2)

    def decode(self, features: torch.Tensor) -> SalFoMModelOutput:
        """
        Feature volume `(batch, channels, time, rows, columns)` to the outputs of the branches. One time step stands
        for a still, at a fraction of the cost of that step repeated, and with the same result.
        """
        from_transformer, transformer_features = None, None
        if self.tcfe is not None:
            *from_transformer, transformer_features = self.tcfe(features)
        from_dynamic, dynamic_features = None, None
        if self.dfd is not None:
            *from_dynamic, dynamic_features = self.dfd(features, from_transformer)
        static_features = self.sfd(features, from_dynamic) if self.sfd is not None else None
        return SalFoMModelOutput(
            last_hidden_state=features,
            static_features=static_features,
            transformer_features=transformer_features,
            dynamic_features=dynamic_features,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> SalFoMModelOutput:
        r"""
        Args:
            pixel_values_videos: float `(batch, frames, 3, height, width)`, normalised as [`SalFoMVideoProcessor`]
                does; `config.num_frames` frames, or one, which stands for a still; height and width multiples of the
                encoder's stride.
            output_hidden_states, output_attentions: whether to return those of the encoder.
            kwargs: those of `TransformersKwargs`, which change nothing.

        Raises:
            TypeError: an argument is unknown, or the pixels are no float tensor.
            ValueError: the number of frames or the size does not fit the model.
        """
        check_keywords(kwargs)
        flags = {
            "output_hidden_states": self.config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states,
            "output_attentions": self.config.output_attentions if output_attentions is None else output_attentions,
        }
        features, encoder_outputs = self.encode(pixel_values_videos, **flags)
        outputs = self.decode(features)
        if flags["output_hidden_states"]:
            outputs.hidden_states = encoder_outputs.hidden_states
        if flags["output_attentions"]:
            outputs.attentions = getattr(encoder_outputs, "attentions", None)
        return outputs


class SalFoMForVideoSaliencyPrediction(SalFoMPreTrainedModel):
    """SalFoM with its fusion: a clip to the saliency map of its last frame."""

    # The loss is a mean over the batch: transformers' Trainer has to divide it by the steps that it accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        self.salfom = SalFoMModel(config)
        self.fusion = Fusion(config)
        self.center_prior = CenterPrior() if config.center_prior else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.salfom.get_input_embeddings()

    @classmethod
    def from_encoder_pretrained(cls, encoder: str | os.PathLike, **config_kwargs):
        """
        A model for fine-tuning: a pretrained encoder under a decoder with fresh weights.

        Args:
            encoder: folder or Hub name of any encoder in `salfom_hf.encoders.ENCODERS`, for instance what
                `salfom convert` made of a UMT checkpoint.
            config_kwargs: fields of [`SalFoMConfig`].
        """
        from transformers import AutoModel

        pretrained = AutoModel.from_pretrained(encoder)
        if os.path.isdir(encoder):  # A folder of this machine has no place in what is saved and perhaps published.
            pretrained.config._name_or_path = ""
        model = cls(SalFoMConfig(encoder_config=pretrained.config, **config_kwargs))
        model.salfom.adapter.prepare(pretrained, model.config.num_frames)
        model.salfom.encoder = pretrained
        return model.to(pretrained.dtype).eval()

    def freeze(self, *parts: str) -> None:
        """Exclude parts from training: `"fusion"`, `"center_prior"`, or any that [`SalFoMModel.freeze`] knows."""
        own = [part for part in parts if part in ("fusion", "center_prior") and getattr(self, part) is not None]
        self.salfom.freeze(*(part for part in parts if part not in own))
        for part in own:
            getattr(self, part).requires_grad_(False)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`SalFoMModel.encode_frames`]."""
        return self.salfom.encode_frames(pixel_values)

    def fuse(self, branches: SalFoMModelOutput, size: tuple[int, int]) -> torch.Tensor:
        """Outputs of the branches to logits `(batch, height, width)` of the given size."""
        outputs = (branches.static_features, branches.transformer_features, branches.dynamic_features)
        logits = self.fusion([output for output in outputs if output is not None])
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        if self.center_prior is not None:
            logits = logits + self.center_prior(branches.last_hidden_state, size)
        return logits.squeeze(1)

    def decode(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Feature volume to logits.

        Args:
            features: `(batch, channels, time, rows, columns)`, from [`SalFoMModel.encode`] or stacked slices of
                `encode_frames`; one time step stands for a still.
            size: (height, width) of the frames.

        Returns:
            `(batch, height, width)`.
        """
        return self.fuse(self.salfom.decode(features), size)

    @can_return_tuple
    def forward(self, pixel_values_videos: torch.Tensor, labels: torch.Tensor | None = None, **kwargs) -> SalFoMOutput:
        r"""
        Args:
            pixel_values_videos: float `(batch, frames, 3, height, width)`, normalised as [`SalFoMVideoProcessor`]
                does; `config.num_frames` frames, or one, which stands for a still; height and width multiples of the
                encoder's stride.
            labels: densities `(batch, height', width')` of the last frames, of any size, to compute the loss.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Raises:
            TypeError: an argument is unknown, or the pixels are no float tensor.
            ValueError: the number of frames, the size or the labels do not fit the model.
        """
        branches = self.salfom(pixel_values_videos, **{**kwargs, "return_dict": True})
        logits = self.fuse(branches, tuple(pixel_values_videos.shape[-2:]))
        loss = None
        if labels is not None:
            if not isinstance(labels, torch.Tensor) or labels.ndim != 3 or len(labels) != len(logits):
                found = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
                raise ValueError(f"labels must be a tensor ({len(logits)}, height, width), not {found}.")
            loss = saliency_loss(logits, labels, self.config.kl_weight, self.config.cc_weight)
        return SalFoMOutput(
            loss=loss,
            logits=logits,
            saliency=logits.sigmoid(),
            hidden_states=branches.hidden_states,
            attentions=branches.attentions,
        )


__all__ = [
    "SalFoMForVideoSaliencyPrediction",
    "SalFoMModel",
    "SalFoMModelOutput",
    "SalFoMOutput",
    "SalFoMPreTrainedModel",
    "collapse",
    "collapse_padded",
    "convolve",
]
