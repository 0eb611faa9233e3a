"""
The encoders that SalFoM can stand on: what the entries of `ENCODERS` name.

Feature functions turn the output of a transformers model into the feature volume `(batch, channels, time, rows,
columns)` that the decoder reads. Video encoders see the whole clip; frame-wise encoders see one frame at a time, and
their features can be kept while the window slides on. To add an encoder, write its feature function and its entry.

What is private to one model of transformers is imported by the function that needs it: should it change there, the
other encoders work on.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_salfom import ENCODERS, EncoderAdapter, encoder_facts, pair
from .modeling_efficientnet_lite import EfficientNetLiteModel
from .modeling_umt import UMTModel

# Those that transformers does not have, and does not know where saved code runs without the package.
OWN_MODELS = {model.config_class.model_type: model for model in (UMTModel, EfficientNetLiteModel)}


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


def adapter_for(config: PreTrainedConfig) -> EncoderAdapter:
    """
    The adapter of an encoder configuration, with the functions that its entry names.

    Raises:
        ValueError: no adapter exists for this model type.
    """
    entry = encoder_facts(config)
    named = {field: getattr(entry, field) for field in ("features", "prepare")}
    return replace(entry, **{field: globals()[name] for field, name in named.items() if isinstance(name, str)})


def build_encoder(config: PreTrainedConfig, num_frames: int | None = None) -> PreTrainedModel:
    """An encoder with fresh weights, prepared for SalFoM with clips of so many frames; by default its own number."""
    adapter = adapter_for(config)
    if config.model_type in OWN_MODELS:
        encoder = OWN_MODELS[config.model_type]._from_config(config)
    else:
        from transformers import AutoModel

        encoder = AutoModel.from_config(config)
    adapter.prepare(encoder, num_frames or getattr(config, "num_frames", 1))
    return encoder


__all__ = ["ENCODERS", "EncoderAdapter", "adapter_for", "build_encoder"]
