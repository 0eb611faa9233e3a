"""Checks of what the networks are given."""

import torch
from transformers.utils.generic import TransformersKwargs

# What transformers and its Trainer may pass to any model, whether it has a use for it or not.
COMMON_KEYWORDS = frozenset(TransformersKwargs.__annotations__)


def check_pixels(pixels: torch.Tensor) -> None:
    """
    Raises:
        TypeError: this is no float tensor, so that it cannot be what the processor gives.
    """
    if not (isinstance(pixels, torch.Tensor) and pixels.is_floating_point()):
        found = f"a tensor of {pixels.dtype}" if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        raise TypeError(
            f"This model takes a float tensor of normalised pixels, not {found}; make it with SalFoMVideoProcessor."
        )


def check_keywords(keywords: dict) -> None:
    """
    Raises:
        TypeError: one of them is known neither here nor to transformers.
    """
    unknown = sorted(keywords.keys() - COMMON_KEYWORDS)
    if unknown:
        raise TypeError(f"This model's forward has no argument {', '.join(unknown)}; check the spelling.")


__all__ = ["check_keywords", "check_pixels"]
