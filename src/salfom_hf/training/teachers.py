"""Models that a new one learns from, besides the gaze (Hinton et al., 2015: knowledge distillation)."""

import math

import torch

from ..inference.cpu import folded
from ..models.loading import LoadError, loading
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .config import ConfigError


def normalized(maps: torch.Tensor) -> torch.Tensor:
    """`(batch, height, width)`, each map divided by its sum; an empty one stays empty."""
    return maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def pasted(clips: torch.Tensor, fixations: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Put a rectangle of another image of the batch, a quarter to three quarters of the area, at the same place of some
    (Yun et al., 2019: CutMix). Nobody looked at such pictures, but teachers know where they would look.

    Args:
        clips: `(batch, frames, 3, height, width)`.
        fixations: `(batch, height, width)`; those in the rectangle come along.
        count: how many, those in front.

    Returns:
        Both, changed copies.
    """
    size = clips.shape[-2:]
    area, *place = torch.rand(3).tolist()
    sides = [round(length * math.sqrt(0.25 + 0.5 * area)) for length in size]
    begins = [round((length - side) * at) for length, side, at in zip(size, sides, place, strict=True)]
    rows, columns = (slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True))
    changed = clips.clone(), fixations.clone()
    for new, old in zip(changed, (clips, fixations), strict=True):
        new[:count, ..., rows, columns] = old.roll(1, dims=0)[:count, ..., rows, columns]
    return changed


class Teachers:
    """
    The mean map of some models.

    Args:
        names: folders or Hub names of SalFoM models.
        processor: of the model that learns; the teachers see the clips that it sees.
        device, dtype: where and in which precision they compute.

    Raises:
        ConfigError: a teacher cannot be loaded, or expects other pixels.
    """

    def __init__(self, names: list[str], processor: SalFoMVideoProcessor, device: torch.device, dtype: torch.dtype):
        self.models = []
        for name in names:
            try:
                with loading(name):
                    model = SalFoMForVideoSaliencyPrediction.from_pretrained(name, dtype=dtype).to(device)
                    theirs = SalFoMVideoProcessor.from_pretrained(name)
            except LoadError as error:
                raise ConfigError(f"A teacher cannot be used. {error}") from error
            if (theirs.image_mean, theirs.image_std) != (processor.image_mean, processor.image_std):
                raise ConfigError(
                    f"The teacher '{name}' expects pixels of another normalisation than the model that is to learn "
                    "from it; choose one with the same encoder."
                )
            model.salfom.encoder = folded(model.salfom.encoder)
            self.models.append(model.eval().requires_grad_(False))

    @torch.no_grad()
    def labels(self, clips: torch.Tensor, density: torch.Tensor, weight: torch.Tensor, mirror: bool) -> torch.Tensor:
        """
        The density to learn: the given one, and with a weight the teachers'.

        Args:
            clips: `(batch, frames, 3, height, width)`.
            density: `(batch, height, width)`.
            weight: `(batch)`, in 0…1.
            mirror: whether the first teacher sees the mirror image, the second the image, and so on, or the other way
                round. Half of the mean of both sides, which is better than either, is so had at the cost of one.

        Returns:
            float32 `(batch, height, width)`, each of sum 1.
        """
        taught = torch.zeros_like(density, dtype=torch.float32)
        for model in self.models:
            seen = (clips.flip(-1) if mirror else clips).to(model.dtype)
            saliency = normalized(model(seen).saliency.float())
            taught += saliency.flip(-1) if mirror else saliency
            mirror = not mirror
        return torch.lerp(normalized(density.float()), taught / len(self.models), weight.view(-1, 1, 1))


__all__ = ["Teachers"]
