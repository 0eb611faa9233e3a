"""The authors' checkpoints → safetensors; see [`salfom_hf.export.convert`]."""

from .export.convert import ConversionError, ConversionReport, convert_checkpoint

__all__ = ["ConversionError", "ConversionReport", "convert_checkpoint"]
