"""
The encoders that SalFoM can stand on: one table, `ENCODERS`, one line per model type.

Each entry says how to turn the output of a transformers model into the feature volume `(batch, channels, time, rows,
columns)` that the decoder reads. Video encoders see the whole clip; frame-wise encoders see one frame at a time, and
their features can be kept while the window slides on. To add an encoder, write its feature function and its line.

What is private to one model of transformers is imported by the function that needs it: should it change there, the
other encoders work on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .efficientnet_lite import EfficientNetLiteModel, folded
from .umt import UMTModel, pair

# Those that transformers does not have, and does not know where saved code runs without the package.
OWN_ENCODERS = {model.config_class.model_type: model for model in (UMTModel, EfficientNetLiteModel)}


def tokens_to_volume(tokens: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """`(batch, time · rows · columns, channels)` to `(batch, channels, time, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def fuse_scales(fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Bring feature maps `(batch, channels, rows, columns)` of strides 8, 16 and 32 to stride 16 and stack them."""
    coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([F.pixel_unshuffle(fine, 2), middle, coarse], dim=1)


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
    outputs = encoder(pixels, skip_predictor=True, **flags)
    return tokens_to_volume(outputs.last_hidden_state, grid), outputs


def timesformer_features(encoder, pixels, **flags):
    _, frames, _, height, width = pixels.shape
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


# --- Preparation: what SalFoM does not use is removed, so that every parameter that exists is trained ---


def unprepared(encoder: PreTrainedModel, num_frames: int) -> None:
    """For encoders that fit as they are."""


def prepare_videomae(encoder, num_frames):
    from .resizable_videomae import ResizableVideoMAEEmbeddings

    # Changing the class keeps parameters, names and loaded weights as they are.
    encoder.embeddings.__class__ = ResizableVideoMAEEmbeddings


@dataclass(frozen=True)
class TimesformerLayerShape:
    """
    What a TimeSformer block reads of its configuration while it runs: it multiplies the rows by the columns that it
    derives from these, so one column of all patches serves every size.
    """

    num_frames: int
    image_size: int = 1
    patch_size: int = 1


def prepare_timesformer(encoder, num_frames):
    from .resizable_timesformer import ResizableTimesformerEmbeddings

    if encoder.config.attention_type == "space_only":
        raise ValueError("TimeSformer with attention_type 'space_only' averages over time: SalFoM cannot read it.")
    encoder.embeddings.__class__ = ResizableTimesformerEmbeddings
    for layer in encoder.encoder.layer:
        layer.config = TimesformerLayerShape(num_frames)


def prepare_vivit(encoder, num_frames):
    from .resizable_vivit import ResizableVivitEmbeddings

    encoder.pooler = None
    encoder.embeddings.__class__ = ResizableVivitEmbeddings


def prepare_vjepa2(encoder, num_frames):
    from .resizable_vjepa2 import ResizableVJEPA2Attention, ResizableVJEPA2Encoder

    encoder.predictor = None
    encoder.encoder.__class__ = ResizableVJEPA2Encoder
    for layer in encoder.encoder.layer:
        layer.attention.__class__ = ResizableVJEPA2Attention


def prepare_image_vit(encoder, num_frames):
    # Empty rather than None, which DINOv3 could not initialise.
    del encoder.embeddings.mask_token
    encoder.embeddings.mask_token = nn.Buffer(torch.empty(0), persistent=False)


def prepare_convnextv2(encoder, num_frames):
    encoder.layernorm = nn.Identity()


# --- What the configurations say ---


def hidden_size(config: PreTrainedConfig) -> int:
    return config.hidden_size


def patch_side(config: PreTrainedConfig) -> int:
    return max(pair(config.patch_size))


def one(config: PreTrainedConfig) -> int:
    return 1


def tubelet_frames(config: PreTrainedConfig) -> int:
    return config.tubelet_size


def vivit_patch_side(config: PreTrainedConfig) -> int:
    return max(config.tubelet_size[1:])


def vivit_tubelet_frames(config: PreTrainedConfig) -> int:
    return config.tubelet_size[0]


def of_stride_32(config: PreTrainedConfig) -> int:
    return 32


def convnextv2_channels(config: PreTrainedConfig) -> int:
    fine, middle, coarse = config.hidden_sizes[-3:]
    return 4 * fine + middle + coarse


def efficientnet_channels(config: PreTrainedConfig) -> int:
    from transformers.models.efficientnet.modeling_efficientnet import round_filters

    channels, stride = {}, 2
    for outputs, stage_stride in zip(config.out_channels, config.strides, strict=True):
        stride *= stage_stride
        channels[stride] = round_filters(config, outputs)
    return 4 * channels[8] + channels[16] + config.hidden_dim


def efficientnet_lite_channels(config: PreTrainedConfig) -> int:
    channels = config.feature_channels
    return 4 * channels[8] + channels[16] + channels[32]


def unfolded(encoder: PreTrainedModel) -> PreTrainedModel:
    return encoder


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
            parts, makes position tables follow the input.
        folded: encoder to one that gives the same in evaluation mode, only faster; by default itself.
    """

    framewise: bool
    features: Callable[..., tuple[torch.Tensor, ModelOutput]]
    channels: Callable[[PreTrainedConfig], int] = hidden_size
    stride: Callable[[PreTrainedConfig], int] = patch_side
    frames_per_step: Callable[[PreTrainedConfig], int] = one
    prepare: Callable[[PreTrainedModel, int], None] = unprepared
    folded: Callable[[PreTrainedModel], PreTrainedModel] = unfolded


ENCODERS: dict[str, EncoderAdapter] = {
    "umt": EncoderAdapter(False, umt_features),
    "videomae": EncoderAdapter(False, videomae_features, frames_per_step=tubelet_frames, prepare=prepare_videomae),
    "vjepa2": EncoderAdapter(False, vjepa2_features, frames_per_step=tubelet_frames, prepare=prepare_vjepa2),
    "timesformer": EncoderAdapter(False, timesformer_features, prepare=prepare_timesformer),
    "vivit": EncoderAdapter(
        False,
        vivit_features,
        stride=vivit_patch_side,
        frames_per_step=vivit_tubelet_frames,
        prepare=prepare_vivit,
    ),
    "dinov2": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "dinov3_vit": EncoderAdapter(True, image_vit_features, prepare=prepare_image_vit),
    "convnextv2": EncoderAdapter(
        True, convnextv2_features, channels=convnextv2_channels, stride=of_stride_32, prepare=prepare_convnextv2
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


def build_encoder(config: PreTrainedConfig, num_frames: int | None = None) -> PreTrainedModel:
    """An encoder with fresh weights, prepared for SalFoM with clips of so many frames; by default its own number."""
    adapter = adapter_for(config)
    if config.model_type in OWN_ENCODERS:
        encoder = OWN_ENCODERS[config.model_type]._from_config(config)
    else:
        from transformers import AutoModel

        encoder = AutoModel.from_config(config)
    adapter.prepare(encoder, num_frames or getattr(config, "num_frames", 1))
    return encoder


__all__ = ["ENCODERS", "EncoderAdapter", "adapter_for", "build_encoder"]
