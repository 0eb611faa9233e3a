"""SalFoM: the encoder, the decoder's three branches, their fusion into one saliency map.

Moradi et al., "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024 (arXiv 2404.03097).

Feature volumes are `(batch, channels, time, rows, columns)`. One of a single time step is a still: the result is that
of the step repeated, at a fraction of the cost.

On a CPU, `inference/shared_windows.py` computes the decoder of most models in its own way, and its tests compare both:
who changes the decoder here changes it there, too.
"""

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .center_prior import CenterPrior
from .checked import CheckedModel
from .configuration_salfom import SalFoMConfig
from .encoders import EncoderAdapter, build_encoder, check_clips
from .losses import saliency_loss
from .names import takes_names

# Indices of DFD's steps after which it adds what TCFE gives, and of SFD's after which it adds what DFD gives.
DFD_ADDS_AFTER, SFD_ADDS_AFTER = (1, 3), (2, 5)


def upsample(volume: torch.Tensor, scale: int) -> torch.Tensor:
    """Linear up-sampling of the last two dimensions of a 4-D or 5-D tensor, `align_corners=False`."""
    if scale == 1:
        return volume
    mode, scales = ("bilinear", (scale, scale)) if volume.ndim == 4 else ("trilinear", (1, scale, scale))
    return F.interpolate(volume, scale_factor=scales, mode=mode, align_corners=False)


def convolve(convolution: Any, volume: torch.Tensor) -> torch.Tensor:
    """An `nn.Conv3d` without padding in time; of a still, all taps see the same frame, and only their sum counts."""
    if volume.shape[2] > 1:
        return convolution(volume)
    taps = convolution.weight.sum(2)
    return F.conv2d(volume.squeeze(2), taps, convolution.bias, padding=convolution.padding[1:]).unsqueeze(2)


def collapse(volume: torch.Tensor, convolutions: nn.ModuleList) -> torch.Tensor:
    """Run temporal convolutions that leave one time step: `(b, c, time, h, w)` to `(b, c, h, w)`."""
    for convolution in convolutions:
        volume = convolve(convolution, volume).relu()
    return volume.squeeze(2)


class TemporalWindowAttention(nn.Module):
    """Multi-head attention among the `window` time steps of one spatial position, with a relative-position bias."""

    def __init__(self, channels: int, num_heads: int, window: int):
        super().__init__()
        self.num_heads, self.window = num_heads, window
        self.scaling = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        self.relative_position_bias = nn.Parameter(torch.zeros(2 * window - 1, num_heads))

    def forward(self, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(batch, windows, steps, positions, channels)` to the same; `mask` is `(windows, steps, steps)`."""
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        # b batch, w window, q and k steps, p position, h head, c channel
        scores = torch.einsum("bwqphc,bwkphc->bwphqk", query * self.scaling, key)
        step = torch.arange(windows.shape[2], device=windows.device)
        bias = self.relative_position_bias[step[:, None] - step[None, :] + self.window - 1]
        scores = scores + bias.permute(2, 0, 1)
        if mask is not None:
            scores = scores + mask[:, None, None]
        attended = torch.einsum("bwphqk,bwkphc->bwqphc", scores.softmax(dim=-1), value)
        return self.output(attended.flatten(-2))


class TemporalSwinBlock(GradientCheckpointingLayer):
    """Pre-norm Swin block over time: windowed attention, optionally shifted by half a window, then an MLP."""

    def __init__(self, channels: int, num_heads: int, window: int, shift: int, drop_path: float, config: SalFoMConfig):
        super().__init__()
        self.window, self.shift = window, shift
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
            mask = hidden_states.new_full((), -100.0) * (wrapped[:, :, None] != wrapped[:, None, :])
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
        self.patch_embedding = nn.Conv3d(inputs, outputs, kernel_size=(reduction, 1, 1), stride=(reduction, 1, 1))
        self.blocks = nn.ModuleList()
        for index in range(depth):
            drop_path = config.drop_path_rate * index / max(depth - 1, 1)
            shift = reduction // 2 if index % 2 else 0
            self.blocks.append(TemporalSwinBlock(outputs, num_heads, reduction, shift, drop_path, config))

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """`(batch, inputs, time, rows, columns)` to `(batch, outputs, time / reduction, rows, columns)`."""
        volume = convolve(self.patch_embedding, volume)
        rows, columns = volume.shape[-2:]
        tokens = volume.flatten(3).permute(0, 2, 3, 1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.permute(0, 3, 1, 2).unflatten(3, (rows, columns))


class TCFE(nn.Module):
    """Transformer-based complementary feature extraction: relations over long times."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        pairs = pairwise((config.feature_channels, *config.decoder_channels[1::2]))
        step_2, step_4, step_5, step_6 = config.time_reductions
        sizes = zip(pairs, (step_2, step_4, step_5 * step_6), config.tcfe_depths, config.tcfe_num_heads, strict=True)
        stages = [TCFEStage(*pair, reduction, depth, heads, config) for pair, reduction, depth, heads in sizes]
        self.stages = nn.ModuleList(stages)
        self.last_scale = config.last_scales[0] * config.last_scales[1]

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Feature volume to what DFD adds to its volumes after the 2nd and 4th step, and the branch's own output."""
        first = self.stages[0](features)
        second = upsample(self.stages[1](first), 4)
        third = upsample(self.stages[2](second).squeeze(2), self.last_scale)
        return first, second, third


class DFD(nn.Module):
    """Dynamic feature decoding: motion, by 3-D convolutions that shorten time while space grows."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        channels = (config.feature_channels, *config.decoder_channels)
        step_2, step_4, step_5, step_6 = config.time_reductions
        self.scales = (1, 1, 2, 2, *config.last_scales)
        self.steps = nn.ModuleList()
        for pair, reduction in zip(pairwise(channels), (1, step_2, 1, step_4, step_5, step_6), strict=True):
            self.steps.append(nn.Conv3d(*pair, (reduction, 3, 3), (reduction, 1, 1), padding=(0, 1, 1), bias=False))

    def forward(self, features: torch.Tensor, transformer: list[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
        """Feature volume, and what TCFE gives, to the volumes after the 2nd and 4th step and the branch's output."""
        volumes = []
        for index, (step, scale) in enumerate(zip(self.steps, self.scales, strict=True)):
            features = upsample(convolve(step, features).relu(), scale)
            if transformer is not None and index in DFD_ADDS_AFTER:
                features = features + transformer[DFD_ADDS_AFTER.index(index)]
            volumes.append(features)
        return volumes[1], volumes[3], features.squeeze(2)


def halving(channels: int, steps: int, kernel: tuple, padding: tuple, bias: bool) -> nn.ModuleList:
    """Convolutions that halve `steps` time steps, a power of two, down to one."""
    count = steps.bit_length() - 1
    return nn.ModuleList([nn.Conv3d(channels, channels, kernel, (2, 1, 1), padding, bias=bias) for _ in range(count)])


class SFD(nn.Module):
    """Static feature decoding: what is there, whenever; time is collapsed at once."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        inputs = config.feature_channels
        c1, c2, c3, c4, c5, c6 = config.decoder_channels
        time, (step_2, step_4, *_) = config.time_steps, config.time_reductions
        self.temporal = halving(inputs, time, (2, 3, 3), (0, 1, 1), bias=False)
        # Without DFD there is nothing to read, and modules that nothing uses would never be trained.
        steps_2, steps_4 = (time // step_2, time // (step_2 * step_4)) if config.use_dfd else (1, 1)
        self.from_dynamic_2 = halving(c2, steps_2, (3, 1, 1), (1, 0, 0), bias=True)
        self.from_dynamic_4 = halving(c4, steps_4, (3, 1, 1), (1, 0, 0), bias=True)
        self.scales = (1, 1, 1, 1, 2, 2, 1, *config.last_scales)
        channels = (inputs, c1, c2, c2, c3, c4, c4, c5, c6, c6)
        self.spatial = nn.ModuleList([nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairwise(channels)])

    def forward(self, features: torch.Tensor, dynamic: list[torch.Tensor] | None) -> torch.Tensor:
        """Feature volume, and those of DFD after its 2nd and 4th step, to the branch's output."""
        static = collapse(features, self.temporal)
        for index, (convolution, scale) in enumerate(zip(self.spatial, self.scales, strict=True)):
            static = upsample(convolution(static).relu(), scale)
            if dynamic is not None and index in SFD_ADDS_AFTER:
                number = SFD_ADDS_AFTER.index(index)
                convolutions = (self.from_dynamic_2, self.from_dynamic_4)[number]
                # They pad time with zeros, which changes the first step: a still is repeated before.
                repeated = dynamic[number].expand(-1, -1, 2 ** len(convolutions), -1, -1)
                static = static + collapse(repeated, convolutions)
        return static


class Fusion(nn.Module):
    """The branches' outputs, stacked, to one map of logits."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        branches = config.use_sfd + config.use_tcfe + config.use_dfd
        channels = (branches * config.decoder_channels[-1], *config.fusion_channels, 1)
        self.convolutions = nn.ModuleList([nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in pairwise(channels)])

    def forward(self, branches: list[torch.Tensor]) -> torch.Tensor:
        first, second, last = self.convolutions
        return last(second(first(torch.cat(branches, dim=1)).relu()).relu())


@dataclass
class SalFoMModelOutput(ModelOutput):
    """
    Output of [`SalFoMModel`]; a branch that is switched off gives `None`.

    Args:
        last_hidden_state: feature volume `(batch, channels, time, rows, columns)` that the decoder reads.
        static_features, transformer_features, dynamic_features: outputs of SFD, TCFE and DFD,
            `(batch, channels, 16 rows / output_stride, 16 columns / output_stride)`.
        hidden_states, attentions: those of the encoder, on request; `attentions` is `None` where it has none.
    """

    last_hidden_state: torch.Tensor | None = None
    static_features: torch.Tensor | None = None
    transformer_features: torch.Tensor | None = None
    dynamic_features: torch.Tensor | None = None
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
        hidden_states, attentions: as of [`SalFoMModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    saliency: torch.Tensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@takes_names
class SalFoMPreTrainedModel(CheckedModel):
    config: SalFoMConfig
    base_model_prefix = "salfom"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["TemporalSwinBlock", "UMTEmbeddings", "UMTLayer", "InvertedResidual"]  # noqa: RUF012
    _supports_sdpa = True  # No more, as TCFE computes its own attention; others can be set for the encoder alone.

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            # All temporal taps start equal: an untrained decoder cannot tell a clip from a still. From taps of
            # opposite signs it would start with noise that training on slow video never removes.
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

    _keys_to_ignore_on_load_unexpected = [r"^fusion\.", r"^center_prior\."]  # noqa: RUF012

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        facts, encoder_config = config.encoder_facts()
        self.encoder = build_encoder(encoder_config, config.num_frames)
        self.projection = None
        if config.decoder_hidden_size is not None:
            self.projection = nn.Conv2d(facts.channels(encoder_config), config.decoder_hidden_size, 1)
        self.feature_dropout = nn.Dropout3d(0.0)  # Of whole channels; training sets it.
        self.tcfe = TCFE(config) if config.use_tcfe else None
        self.dfd = DFD(config) if config.use_dfd else None
        self.sfd = SFD(config) if config.use_sfd else None
        self.post_init()

    @property
    def adapter(self) -> EncoderAdapter:
        return self.config.encoder_facts()[0]

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def encode(self, pixel_values_videos: torch.Tensor, **flags: bool) -> tuple[torch.Tensor, ModelOutput]:
        """
        Clips `(batch, frames, 3, height, width)` to the feature volume, and the encoder's own output. A frame-wise
        encoder sees a still once, and its volume has one time step; others see it as often as a clip has frames.
        """
        clips, num_frames, adapter = pixel_values_videos, self.config.num_frames, self.adapter
        check_clips(clips, num_frames, self.config.encoder_stride)
        if adapter.framewise:
            features, outputs = adapter.features(self.encoder, clips.flatten(0, 1), **flags)
        else:
            features, outputs = adapter.features(self.encoder, clips.expand(-1, num_frames, -1, -1, -1), **flags)
            if self.projection is None:
                return features, outputs
            features = features.transpose(1, 2).flatten(0, 1)
        if self.projection is not None:
            features = self.projection(features).relu()
        return features.unflatten(0, (clips.shape[0], -1)).transpose(1, 2), outputs

    def decode(self, features: torch.Tensor) -> SalFoMModelOutput:
        """Feature volume to the outputs of the branches."""
        from_transformer = from_dynamic = transformer = dynamic = static = None
        if self.tcfe is not None:
            *from_transformer, transformer = self.tcfe(features)
        if self.dfd is not None:
            *from_dynamic, dynamic = self.dfd(features, from_transformer)
        if self.sfd is not None:
            static = self.sfd(features, from_dynamic)
        return SalFoMModelOutput(features, static, transformer, dynamic)

    @can_return_tuple
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> SalFoMModelOutput:
        r"""Clips to the features of the decoder's branches.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`):
                Clips, normalised as [`SalFoMVideoProcessor`] does: `config.num_frames` frames, or one, which stands
                for a still; height and width are multiples of the encoder's stride.
            output_hidden_states, output_attentions (`bool`, default to those of the configuration):
                Whether to return those of the encoder; for attentions, most need `attn_implementation="eager"`.

        Returns:
            [`SalFoMModelOutput`], or with `return_dict=False` a tuple of what it holds.

        Raises:
            TypeError: an argument is unknown, or the pixels are no float tensor.
            ValueError: the number of frames or the size does not fit the model.
        """
        if unknown := sorted(kwargs.keys() - TransformersKwargs.__annotations__.keys()):
            raise TypeError(f"This model's forward has no argument {', '.join(unknown)}; check the spelling.")
        wanted: dict[str, Any] = {name: kwargs.get(name) for name in ("output_hidden_states", "output_attentions")}
        wanted = {name: getattr(self.config, name) if flag is None else flag for name, flag in wanted.items()}
        features, encoded = self.encode(pixel_values_videos, **wanted)
        outputs = self.decode(self.feature_dropout(features))
        # Some encoders always give their hidden states, of which the features are made.
        outputs.hidden_states = getattr(encoded, "hidden_states", None) if wanted["output_hidden_states"] else None
        outputs.attentions = (getattr(encoded, "attentions", None) or None) if wanted["output_attentions"] else None
        return outputs


class SalFoMForVideoSaliencyPrediction(SalFoMPreTrainedModel):
    """SalFoM with its fusion: a clip to the saliency map of its last frame."""

    # The loss is a mean over the batch: transformers' Trainer has to divide it by the number of steps whose gradients
    # it accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        self.salfom = SalFoMModel(config)
        self.fusion = Fusion(config)
        self.center_prior = CenterPrior(config.motion_sharpness) if config.center_prior else None
        self.post_init()

    @classmethod
    def from_encoder_pretrained(cls, encoder: str | os.PathLike, **fields: Any) -> "SalFoMForVideoSaliencyPrediction":
        """For fine-tuning: a pretrained encoder (folder or Hub name) under a new decoder; `fields` of the config."""
        pretrained = AutoModel.from_pretrained(encoder)
        if os.path.isdir(encoder):  # A folder of this machine has no place in what is saved and perhaps published.
            pretrained.config._name_or_path = ""
        model = cls(SalFoMConfig(encoder_config=pretrained.config, **fields))
        model.salfom.adapter.prepare(pretrained, model.config.num_frames)
        model.salfom.encoder = pretrained
        return model.to(pretrained.dtype).eval()  # type: ignore[arg-type]  # transformers' wrapper hides `self`.

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Frames `(frames, 3, height, width)`, each to its slice `(channels, rows, columns)` of the feature volume."""
        if not self.salfom.adapter.framewise:
            raise ValueError(f"Encoders of type '{self.salfom.encoder.config.model_type}' do not see single frames.")
        return self.salfom.encode(pixel_values.unsqueeze(1))[0].squeeze(2)

    def fuse(
        self, branches: SalFoMModelOutput, size: tuple[int, int], unseen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Outputs of the branches to logits `(batch, height, width)` of a size; `unseen`: see [`CenterPrior`]."""
        outputs = (branches.static_features, branches.transformer_features, branches.dynamic_features)
        logits = self.fusion([output for output in outputs if output is not None])
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        if self.center_prior is not None:
            logits = self.center_prior(logits, branches.last_hidden_state, unseen)
        return logits.squeeze(1)

    def decode(
        self, features: torch.Tensor, size: tuple[int, int], unseen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Feature volume, such as slices of `encode_frames`, to logits at the (height, width) of the frames."""
        return self.fuse(self.salfom.decode(features), size, unseen)

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SalFoMOutput:
        r"""Clips to the saliency maps of their last frames.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch_size, frames, 3, height, width)`):
                Clips, as for [`SalFoMModel`].
            labels (`torch.FloatTensor` of shape `(batch_size, label_height, label_width)`, *optional*):
                Densities of the last frames, at any size, for the loss.
            output_hidden_states, output_attentions (`bool`, *optional*): As for [`SalFoMModel`].

        Returns:
            [`SalFoMOutput`], or with `return_dict=False` a tuple of what it holds.

        Raises:
            ValueError: the labels do not fit the clips; and what [`SalFoMModel`] raises.
        """
        branches = self.salfom(pixel_values_videos, **{**kwargs, "return_dict": True})
        height, width = pixel_values_videos.shape[-2:]
        logits = self.fuse(branches, (height, width))
        loss = None
        if labels is not None:
            if not isinstance(labels, torch.Tensor) or labels.ndim != 3 or len(labels) != len(logits):
                found = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
                raise ValueError(f"labels must be a tensor ({len(logits)}, height, width), not {found}.")
            loss = saliency_loss(logits, labels, self.config.kl_weight, self.config.cc_weight)
        return SalFoMOutput(loss, logits, logits.sigmoid(), branches.hidden_states, branches.attentions)
