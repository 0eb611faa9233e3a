"""The encoders that SalFoM can stand on; see [`salfom_hf.models.encoders`]."""

from .models.encoders import ENCODERS, EncoderAdapter, adapter_for, build_encoder, fuse_scales, tokens_to_volume

__all__ = ["ENCODERS", "EncoderAdapter", "adapter_for", "build_encoder", "fuse_scales", "tokens_to_volume"]
