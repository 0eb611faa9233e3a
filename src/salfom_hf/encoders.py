"""
The encoders that SalFoM can stand on: one table, `ENCODERS`, one line per model type.

Each entry says how to turn the output of a transformers model into the feature volume `(batch, channels, time, rows,
columns)` that the decoder reads. Video encoders see the whole clip; frame-wise encoders see one frame at a time, and
their features can be kept while the window slides on. To add an encoder, write its feature function and its line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.efficientnet.modeling_efficientnet import round_filters
from transformers.models.timesformer.modeling_timesformer import TimesformerEmbeddings
from transformers.models.videomae.modeling_videomae import VideoMAEEmbeddings
from transformers.models.vivit.modeling_vivit import VivitEmbeddings
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2RopeAttention
from transformers.utils import ModelOutput

from .efficientnet_lite import EfficientNetLiteModel, folded
from .umt import UMTModel, interpolate_positions

# Those that transformers does not have, and does not know where saved code runs without the package.
OWN_ENCODERS = {model.config_class.model_type: model for model in (UMTModel, EfficientNetLiteModel)}


def pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    """A size given as one number or as (height, width), as (height, width)."""
    return (value, value) if isinstance(value, int) else tuple(value)


def tokens_to_volume(tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """`(batch, time · rows · columns, channels)` to `(batch, channels, time, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def fuse_scales(fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Bring feature maps `(batch, channels, rows, columns)` of strides 8, 16 and 32 to stride 16 and stack them."""
    coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([F.pixel_unshuffle(fine, 2), middle, coarse], dim=1)


# --- Position tables that follow the input's size, for encoders whose own do not ---


class ResizableVideoMAEEmbeddings(VideoMAEEmbeddings):
    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None) -> torch.Tensor:
        features = self.patch_embeddings.projection(pixel_values.transpose(1, 2))
        (height, width), (rows, columns) = pair(self.config.image_size), pair(self.config.patch_size)
        stored = (self.config.num_frames // self.config.tubelet_size, height // rows, width // columns)
        positions = interpolate_positions(self.position_embeddings, stored, tuple(features.shape[2:]))
        return features.flatten(2).transpose(1, 2) + positions.to(features)


class ResizableVivitEmbeddings(VivitEmbeddings):
    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = True) -> torch.Tensor:
        features = self.patch_embeddings.projection(pixel_values.transpose(1, 2))
        (height, width), (patch_height, patch_width) = self.image_size, self.patch_size
        rows, columns = height // patch_height, width // patch_width
        stored = (self.patch_embeddings.num_patches // (rows * columns), rows, columns)
        of_class, of_patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        positions = torch.cat([of_class, interpolate_positions(of_patches, stored, tuple(features.shape[2:]))], dim=1)
        cls_token = self.cls_token.expand(features.shape[0], -1, -1)
        return self.dropout(torch.cat([cls_token, features.flatten(2).transpose(1, 2)], dim=1) + positions)


class ResizableTimesformerEmbeddings(TimesformerEmbeddings):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        batch, frames = pixel_values.shape[:2]
        features = self.patch_embeddings.projection(pixel_values.flatten(0, 1)).unflatten(0, (batch, frames))
        stored = [
            side // patch
            for side, patch in zip(self.patch_embeddings.image_size, self.patch_embeddings.patch_size, strict=True)
        ]
        of_class, of_patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        of_patches = interpolate_positions(of_patches, (1, *stored), (1, *features.shape[-2:]))
        tokens = self.pos_drop(features.flatten(3).transpose(2, 3) + of_patches.unsqueeze(1))
        if self.attention_type != "space_only":
            of_frames = interpolate_positions(
                self.time_embeddings, (self.time_embeddings.shape[1], 1, 1), (frames, 1, 1)
            )
            tokens = self.time_drop(tokens + of_frames.unsqueeze(2))
        # Time runs fastest, behind the class token.
        tokens = tokens.transpose(1, 2).flatten(1, 2)
        cls_token = self.pos_drop(self.cls_token.expand(batch, -1, -1) + of_class)
        return torch.cat([cls_token, tokens], dim=1)


@dataclass
class TimesformerLayerShape:
    """
    What a TimeSformer block reads of its configuration while it runs: it multiplies the rows by the columns that it
    derives from these, so one column of all patches serves every size.
    """

    num_frames: int
    image_size: int = 1
    patch_size: int = 1


class ResizableVJEPA2Attention(VJEPA2RopeAttention):
    # (rows, columns) of the current input, set by the feature function: the rotary angles of the original take the
    # square grid of the configuration for granted.
    grid: tuple[int, int]

    def get_position_ids(self, x: torch.Tensor, masks: torch.Tensor | None = None):
        token = torch.arange(x.shape[1], device=x.device)
        rows, columns = self.grid
        return token // (rows * columns), token // columns % rows, token % columns


# --- Feature functions: (encoder, pixels, flags) to (features, the encoder's own output) ---


def umt_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **flags)
    _, frames, _, height, width = pixels.shape
    patch = encoder.config.patch_size
    return tokens_to_volume(outputs.last_hidden_state, (frames, height // patch, width // patch)), outputs


def videomae_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **flags)
    _, frames, _, height, width = pixels.shape
    rows, columns = pair(encoder.config.patch_size)
    grid = (frames // encoder.config.tubelet_size, height // rows, width // columns)
    return tokens_to_volume(outputs.last_hidden_state, grid), outputs


def vjepa2_features(encoder, pixels, **flags):
    _, frames, _, height, width = pixels.shape
    rows, columns = pair(encoder.config.patch_size)
    grid = (frames // encoder.config.tubelet_size, height // rows, width // columns)
    for layer in encoder.encoder.layer:
        layer.attention.grid = grid[1:]
    outputs = encoder(pixels, skip_predictor=True, **flags)
    return tokens_to_volume(outputs.last_hidden_state, grid), outputs


def timesformer_features(encoder, pixels, **flags):
    _, frames, _, height, width = pixels.shape
    for layer in encoder.encoder.layer:
        layer.config = TimesformerLayerShape(frames)
    outputs = encoder(pixels, **flags)
    rows, columns = (height // pair(encoder.config.patch_size)[0], width // pair(encoder.config.patch_size)[1])
    # A class token, then the patches with time running fastest.
    tokens = outputs.last_hidden_state[:, 1:].unflatten(1, (rows, columns, frames))
    return tokens.permute(0, 4, 3, 1, 2), outputs


def vivit_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **flags)
    _, frames, _, height, width = pixels.shape
    tubelet, rows, columns = encoder.config.tubelet_size
    grid = (frames // tubelet, height // rows, width // columns)
    return tokens_to_volume(outputs.last_hidden_state[:, 1:], grid), outputs


def image_vit_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **flags)
    rows, columns = (
        side // patch for side, patch in zip(pixels.shape[-2:], pair(encoder.config.patch_size), strict=True)
    )
    # The class token and any register tokens stand in front.
    patches = outputs.last_hidden_state[:, -rows * columns :]
    return patches.transpose(1, 2).unflatten(2, (rows, columns)), outputs


def convnextv2_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **{**flags, "output_hidden_states": True})
    return fuse_scales(*outputs.hidden_states[-3:]), outputs


def efficientnet_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **{**flags, "output_hidden_states": True})
    by_stride = {pixels.shape[-2] // hidden.shape[-2]: hidden for hidden in outputs.hidden_states}
    return fuse_scales(by_stride[8], by_stride[16], outputs.last_hidden_state), outputs


def efficientnet_lite_features(encoder, pixels, **flags):
    outputs = encoder(pixels, **flags)
    return fuse_scales(*outputs.feature_maps), outputs


# --- Removal of what SalFoM does not use, so that every parameter that exists is trained ---


def prepare_videomae(encoder):
    # Changing the class keeps parameters, names and loaded weights as they are.
    encoder.embeddings.__class__ = ResizableVideoMAEEmbeddings


def prepare_timesformer(encoder):
    if encoder.config.attention_type == "space_only":
        raise ValueError("TimeSformer with attention_type 'space_only' averages over time: SalFoM cannot read it.")
    encoder.embeddings.__class__ = ResizableTimesformerEmbeddings


def prepare_vivit(encoder):
    encoder.pooler = None
    encoder.embeddings.__class__ = ResizableVivitEmbeddings


def prepare_vjepa2(encoder):
    encoder.predictor = None
    for layer in encoder.encoder.layer:
        layer.attention.__class__ = ResizableVJEPA2Attention


def prepare_image_vit(encoder):
    encoder.embeddings.mask_token = None


def prepare_convnextv2(encoder):
    encoder.layernorm = nn.Identity()


def efficientnet_channels(config: PreTrainedConfig) -> int:
    channels, stride = {}, 2
    for outputs, stage_stride in zip(config.out_channels, config.strides, strict=True):
        stride *= stage_stride
        channels[stride] = round_filters(config, outputs)
    return 4 * channels[8] + channels[16] + config.hidden_dim


def efficientnet_lite_channels(config: PreTrainedConfig) -> int:
    channels = config.feature_channels
    return 4 * channels[8] + channels[16] + channels[32]


@dataclass(frozen=True)
class EncoderAdapter:
    """
    How SalFoM uses one type of encoder.

    Attributes:
        framewise: whether the encoder sees one frame at a time. Then `features` takes `(batch, 3, height, width)` and
            gives `(batch, channels, rows, columns)`; else it takes `(batch, frames, 3, height, width)` and gives
            `(batch, channels, time, rows, columns)`.
        features: `(encoder, pixels, **flags) -> (features, encoder output)`; the flags are `output_hidden_states` and
            `output_attentions`.
        channels: configuration to the number of feature channels.
        stride: configuration to the number that must divide height and width.
        frames_per_step: configuration to the number of frames that make one time step of the features.
        prepare: changes a built encoder in place: removes unused parts, makes position tables follow the input.
        folded: encoder to one that gives the same in evaluation mode, only faster; by default itself.
    """

    framewise: bool
    features: Callable[..., tuple[torch.Tensor, ModelOutput]]
    channels: Callable[[PreTrainedConfig], int] = lambda config: config.hidden_size
    stride: Callable[[PreTrainedConfig], int] = lambda config: max(pair(config.patch_size))
    frames_per_step: Callable[[PreTrainedConfig], int] = lambda config: 1
    prepare: Callable[[PreTrainedModel], None] = lambda encoder: None
    folded: Callable[[PreTrainedModel], PreTrainedModel] = lambda encoder: encoder


def of_stride_32(config: PreTrainedConfig) -> int:
    return 32


ENCODERS: dict[str, EncoderAdapter] = {
    "umt": EncoderAdapter(False, umt_features),
    "videomae": EncoderAdapter(
        False, videomae_features, frames_per_step=lambda config: config.tubelet_size, prepare=prepare_videomae
    ),
    "vjepa2": EncoderAdapter(
        False, vjepa2_features, frames_per_step=lambda config: config.tubelet_size, prepare=prepare_vjepa2
    ),
    "timesformer": EncoderAdapter(False, timesformer_features, prepare=prepare_timesformer),
    "vivit": EncoderAdapter(
        False,
        vivit_features,
        stride=lambda config: max(config.tubelet_size[1:]),
        frames_per_step=lambda config: config.tubelet_size[0],
        prepare=prepare_vivit,
    ),
    "dinov2": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "dinov3_vit": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "convnextv2": EncoderAdapter(
        True,
        convnextv2_features,
        channels=lambda config: 4 * config.hidden_sizes[-3] + config.hidden_sizes[-2] + config.hidden_sizes[-1],
        stride=of_stride_32,
        prepare=prepare_convnextv2,
    ),
    "efficientnet": EncoderAdapter(True, efficientnet_features, channels=efficientnet_channels, stride=of_stride_32),
    "efficientnet_lite": EncoderAdapter(
        True, efficientnet_lite_features, channels=efficientnet_lite_channels, stride=of_stride_32, folded=folded
    ),
}


def adapter_for(config: PreTrainedConfig) -> EncoderAdapter:
    """
    The adapter of an encoder configuration.

    Raises:
        ValueError: no adapter exists for this model type.
    """
    if config.model_type not in ENCODERS:
        raise ValueError(
            f"No adapter for encoders of type '{config.model_type}'. Choose one of {', '.join(ENCODERS)}, or add a "
            "line to salfom_hf.encoders.ENCODERS."
        )
    return ENCODERS[config.model_type]


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with fresh weights, prepared for SalFoM."""
    adapter = adapter_for(config)
    if config.model_type in OWN_ENCODERS:
        encoder = OWN_ENCODERS[config.model_type]._from_config(config)
    else:
        from transformers import AutoModel

        encoder = AutoModel.from_config(config)
    adapter.prepare(encoder)
    return encoder


__all__ = ["ENCODERS", "EncoderAdapter", "adapter_for", "build_encoder"]
