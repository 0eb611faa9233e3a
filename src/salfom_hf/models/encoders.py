"""
The encoders that SalFoM can stand on: the table `ENCODERS`, and what its entries name.

Feature functions turn what a transformers model gives into the features that the decoder reads. Video encoders see the
whole clip; frame-wise encoders see one frame at a time, and their features can be kept while the window slides on. To
add an encoder, write its feature function and its entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import accumulate
from math import prod
from operator import mul
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

# Features, and the encoder's own output.
Encoded = tuple[torch.Tensor, ModelOutput]
Grid = tuple[int, int, int]  # of tokens: time steps, rows, columns

# Those that transformers does not have: model type → module, class.
OWN_MODELS = {
    "umt": ("modeling_umt", "UMTModel"),
    "efficientnet_lite": ("modeling_efficientnet_lite", "EfficientNetLiteModel"),
}


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A size given as one number or as (height, width), as (height, width)."""
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def tokens_to_volume(tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """`(batch, time · rows · columns, channels)` to `(batch, channels, time, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def fuse_scales(fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Bring feature maps `(batch, channels, rows, columns)` of strides 8, 16 and 32 to stride 16 and stack them."""
    coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([F.pixel_unshuffle(fine, 2), middle, coarse], dim=1)


def interpolate_positions(table: torch.Tensor, source: Grid, target: Grid) -> torch.Tensor:
    """
    Resample a position table `(1, time · rows · columns, channels)` from one token grid to another: linearly in time,
    bicubically in space. It keeps its dtype.
    """
    channels = table.shape[-1]
    positions = table.float().reshape(*source, channels)
    if source[0] != target[0]:
        over_time = positions.reshape(source[0], -1).T.unsqueeze(0)
        over_time = F.interpolate(over_time, size=target[0], mode="linear", align_corners=False)
        positions = over_time.squeeze(0).T.reshape(target[0], *source[1:], channels)
    if source[1:] != target[1:]:
        over_space = positions.permute(0, 3, 1, 2)
        over_space = F.interpolate(over_space, size=target[1:], mode="bicubic", align_corners=False)
        positions = over_space.permute(0, 2, 3, 1)
    return positions.reshape(1, -1, channels).to(table.dtype)


# --- Feature functions, and numbers of channels ---


def token_grid(config: Any, frames: int, height: int, width: int) -> Grid:
    rows, columns = config.tubelet_size[1:] if config.model_type == "vivit" else pair(config.patch_size)
    return frames // adapter_for(config).frames_per_step(config), height // rows, width // columns


def video_vit_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    grid = token_grid(encoder.config, pixels.shape[1], *pixels.shape[-2:])
    # ViViT has a class token in front.
    return tokens_to_volume(outputs.last_hidden_state[:, -prod(grid) :], grid), outputs


def timesformer_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    frames, rows, columns = token_grid(encoder.config, pixels.shape[1], *pixels.shape[-2:])
    # A class token, then the patches with time running fastest.
    tokens = outputs.last_hidden_state[:, 1:].unflatten(1, (rows, columns, frames))
    return tokens.permute(0, 4, 3, 1, 2), outputs


def image_vit_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    _, rows, columns = token_grid(encoder.config, 1, *pixels.shape[-2:])
    # The class token and any register tokens stand in front.
    return tokens_to_volume(outputs.last_hidden_state[:, -rows * columns :], (rows, columns)), outputs


def pyramid_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **{**flags, "output_hidden_states": True})
    by_stride = {pixels.shape[-2] // hidden.shape[-2]: hidden for hidden in outputs.hidden_states}
    return fuse_scales(by_stride[8], by_stride[16], outputs.last_hidden_state), outputs


def efficientnet_lite_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    return fuse_scales(*outputs.feature_maps), outputs


def fused_channels(fine: int, middle: int, coarse: int) -> int:
    return 4 * fine + middle + coarse


def channels_by_stride(strides: Sequence[int], channels: Sequence[int]) -> dict[int, int]:
    """Channels of the deepest feature map of each stride, from those of stages behind a stem of stride 2."""
    return dict(zip(list(accumulate(strides, mul, initial=2))[1:], channels, strict=True))


def efficientnet_channels(config: Any) -> int:
    # EfficientNet's rule: to the next multiple of the divisor, but by no more than a tenth below.
    rounded, divisor = [], config.depth_divisor
    for wanted in (outputs * config.width_coefficient for outputs in config.out_channels):
        nearest = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
        rounded.append(nearest + divisor * (nearest < 0.9 * wanted))
    channels = channels_by_stride(config.strides, rounded)
    return fused_channels(channels[8], channels[16], config.hidden_dim)


# --- Forward methods in place of the encoders' own: positions follow the size of the input ---


def tubelet_embeddings(
    embeddings: Any, stored: Grid, pixel_values: torch.Tensor, *_: object, **__: object
) -> torch.Tensor:
    """VideoMAE's and ViViT's, whose position table is of the grid `stored`."""
    patches = embeddings.patch_embeddings.projection(pixel_values.transpose(1, 2))
    tokens, table = patches.flatten(2).transpose(1, 2), embeddings.position_embeddings
    positions = interpolate_positions(table[:, -prod(stored) :], stored, tuple(patches.shape[2:]))
    if table.shape[1] == prod(stored):  # No class token.
        return tokens + positions.to(tokens)
    tokens = torch.cat([embeddings.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
    return embeddings.dropout(tokens + torch.cat([table[:, :1], positions], dim=1))


def timesformer_embeddings(embeddings: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    batch, frames = pixel_values.shape[:2]
    patches = embeddings.patch_embeddings
    features = patches.projection(pixel_values.flatten(0, 1)).unflatten(0, (batch, frames))
    stored = [side // patch for side, patch in zip(patches.image_size, patches.patch_size, strict=True)]
    of_class, of_patches = embeddings.position_embeddings[:, :1], embeddings.position_embeddings[:, 1:]
    of_patches = interpolate_positions(of_patches, (1, *stored), (1, *features.shape[-2:]))
    tokens = embeddings.pos_drop(features.flatten(3).transpose(2, 3) + of_patches.unsqueeze(1))
    times = embeddings.time_embeddings
    of_frames = interpolate_positions(times, (times.shape[1], 1, 1), (frames, 1, 1))
    # Time runs fastest, behind the class token.
    tokens = embeddings.time_drop(tokens + of_frames.unsqueeze(2)).transpose(1, 2).flatten(1, 2)
    return torch.cat([embeddings.pos_drop(embeddings.cls_token.expand(batch, -1, -1) + of_class), tokens], dim=1)


def vjepa2_encoder(encoder: Any, pixel_values_videos: torch.Tensor, **kwargs: object) -> BaseModelOutput:
    """With rotary angles of the input's own grid, where the original takes a square one for granted."""
    hidden_states = encoder.embeddings(pixel_values_videos)
    _, rows, columns = token_grid(encoder.config, pixel_values_videos.shape[1], *pixel_values_videos.shape[-2:])
    token = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    # In place of the masks, which are for training V-JEPA 2 itself: (time, row, column) of every token.
    positions = torch.stack((token // (rows * columns), token // columns % rows, token % columns))
    for layer in encoder.layer:
        hidden_states = layer(hidden_states, positions, **kwargs)[0]
    return BaseModelOutput(last_hidden_state=encoder.layernorm(hidden_states))


def vjepa2_positions(x: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return masks.unbind()


# --- Preparation ---


def prepare_tubelets(encoder: Any, num_frames: int) -> None:
    stored = token_grid(encoder.config, encoder.config.num_frames, *pair(encoder.config.image_size))
    encoder.embeddings.forward = partial(tubelet_embeddings, encoder.embeddings, stored)
    encoder.pooler = None  # ViViT's.


def prepare_timesformer(encoder: Any, num_frames: int) -> None:
    if encoder.config.attention_type == "space_only":
        raise ValueError("TimeSformer with attention_type 'space_only' averages over time: SalFoM cannot read it.")
    encoder.embeddings.forward = partial(timesformer_embeddings, encoder.embeddings)
    for layer in encoder.encoder.layer:
        # What a block reads while it runs: it multiplies the rows by the columns that it derives from the sizes, so
        # that one column of all patches serves every size.
        layer.config = SimpleNamespace(num_frames=num_frames, image_size=1, patch_size=1)


def prepare_vjepa2(encoder: Any, num_frames: int) -> None:
    encoder.predictor = None
    encoder.encoder.forward = partial(vjepa2_encoder, encoder.encoder)
    for layer in encoder.encoder.layer:
        layer.attention.get_position_ids = vjepa2_positions


def prepare_image_vit(encoder: Any, num_frames: int) -> None:
    # Empty rather than None, which DINOv3 could not initialise.
    del encoder.embeddings.mask_token
    encoder.embeddings.mask_token = nn.Buffer(torch.empty(0), persistent=False)


def prepare_convnextv2(encoder: PreTrainedModel, num_frames: int) -> None:
    encoder.layernorm = nn.Identity()


# --- The table ---


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
        prepare: `(encoder, num_frames)`: changes a built encoder in place, for clips of so many frames: removes unused
            parts, so that every parameter that exists is trained, and makes position tables follow the input.
    """

    framewise: bool
    features: Callable[..., Encoded]
    channels: Callable[[Any], int] = lambda config: config.hidden_size
    stride: Callable[[Any], int] = lambda config: max(pair(config.patch_size))
    frames_per_step: Callable[[Any], int] = lambda config: 1
    prepare: Callable[..., None] = lambda encoder, num_frames: None


# By model type.
ENCODERS: dict[str, EncoderAdapter] = {
    "umt": EncoderAdapter(False, video_vit_features),
    "videomae": EncoderAdapter(
        False, video_vit_features, frames_per_step=lambda config: config.tubelet_size, prepare=prepare_tubelets
    ),
    "vjepa2": EncoderAdapter(
        False,
        partial(video_vit_features, skip_predictor=True),
        frames_per_step=lambda config: config.tubelet_size,
        prepare=prepare_vjepa2,
    ),
    "timesformer": EncoderAdapter(False, timesformer_features, prepare=prepare_timesformer),
    "vivit": EncoderAdapter(
        False,
        video_vit_features,
        stride=lambda config: max(config.tubelet_size[1:]),
        frames_per_step=lambda config: config.tubelet_size[0],
        prepare=prepare_tubelets,
    ),
    "dinov2": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "dinov3_vit": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "convnextv2": EncoderAdapter(
        True,
        pyramid_features,
        lambda config: fused_channels(*config.hidden_sizes[-3:]),
        stride=lambda config: 32,
        prepare=prepare_convnextv2,
    ),
    "efficientnet": EncoderAdapter(True, pyramid_features, efficientnet_channels, stride=lambda config: 32),
    "efficientnet_lite": EncoderAdapter(
        True,
        efficientnet_lite_features,
        lambda config: fused_channels(*(config.feature_channels[stride] for stride in (8, 16, 32))),
        stride=lambda config: 32,
    ),
}


def adapter_for(config: PreTrainedConfig) -> EncoderAdapter:
    """
    The entry of `ENCODERS` for an encoder configuration.

    Raises:
        ValueError: there is none for this model type.
    """
    if config.model_type not in ENCODERS:
        raise ValueError(
            f"No adapter for encoders of type '{config.model_type}'. Choose one of {', '.join(ENCODERS)}, or add an "
            "entry to salfom_hf.encoders.ENCODERS."
        )
    return ENCODERS[config.model_type]


def build_encoder(config: PreTrainedConfig, num_frames: int | None = None) -> PreTrainedModel:
    """An encoder with fresh weights, prepared for SalFoM with clips of so many frames; by default its own number."""
    adapter = adapter_for(config)
    if config.model_type in OWN_MODELS:
        module, name = OWN_MODELS[config.model_type]
        # Not known to transformers where saved code runs without the package, which brings the one that it needs.
        encoder = getattr(import_module(f".{module}", __package__), name)._from_config(config)
    else:
        encoder = AutoModel.from_config(config)
    adapter.prepare(encoder, num_frames or getattr(config, "num_frames", 1))
    return encoder


def check_clips(clips: torch.Tensor, num_frames: int, stride: int) -> None:
    """
    Raises:
        TypeError: this is no float tensor, so that it cannot be what the processor gives.
        ValueError: the number of frames or the size does not fit the model.
    """
    if not (isinstance(clips, torch.Tensor) and clips.is_floating_point()):
        found = f"a tensor of {clips.dtype}" if isinstance(clips, torch.Tensor) else type(clips).__name__
        raise TypeError(
            f"This model takes a float tensor of normalised pixels, not {found}; make it with SalFoMVideoProcessor."
        )
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"This model takes (batch, frames, 3, height, width), not {tuple(clips.shape)}.")
    _, frames, _, height, width = clips.shape
    if frames not in (1, num_frames):
        raise ValueError(f"This model takes clips of {num_frames} frames, or stills of one frame, not {frames}.")
    if height % stride or width % stride:
        raise ValueError(f"This model takes heights and widths that {stride} divides, not {height}x{width}.")
