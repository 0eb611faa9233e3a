"""Scores of a model on validation clips, and pictures of them."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from .. import metrics
from ..losses import saliency_loss
from ..render import overlay
from ..video_processing_salfom import SalFoMVideoProcessor
from .config import ConfigError


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    loss_weights: dict[str, float],
    check: Callable[[bool], None],
) -> dict[str, float]:
    """
    Mean scores over the validation clips of all processes, each counted once, at the clips' size.

    Clips whose last frame has no fixations have no scores and are left out. For scores as they are published, at the
    size of the recordings, there is `salfom evaluate`.

    Args:
        check: called for every batch with whether its predictions are finite; may raise.

    Returns:
        `loss`, `cc`, `sim`, `nss`, `auc_judd`, `kldiv` and `clips`, the number of clips with scores.

    Raises:
        ConfigError: no clip has fixations.
    """
    model.eval()
    rows = []
    for batch in loader:
        logits = model(batch["pixel_values_videos"]).logits.float()
        check(bool(logits.isfinite().all()))
        saliency, density, fixations = logits.sigmoid(), batch["labels"], batch["fixations"]
        losses = [
            saliency_loss(logits[i : i + 1], density[i : i + 1], **loss_weights, fixations=fixations[i : i + 1])
            for i in range(len(logits))
        ]
        scores = [
            torch.stack(losses).double(),
            metrics.cc(saliency, density),
            metrics.sim(saliency, density),
            metrics.nss(saliency, fixations),
            metrics.auc_judd(saliency, fixations),
            metrics.kldiv(saliency, density),
        ]
        scores = torch.stack(scores, dim=1)
        fixated = fixations.flatten(1).any(dim=1, keepdim=True)
        scores = scores.masked_fill(~fixated, torch.nan)
        rows.append(accelerator.gather_for_metrics(torch.cat([scores, fixated], dim=1)).cpu())
    *rows, fixated = torch.cat(rows).unbind(dim=1)
    if not fixated.any():
        raise ConfigError(
            f"None of the {len(fixated)} validation clips has fixations on its last frame; name another validation "
            "split or lower validation_spacing."
        )
    rows = torch.stack(rows, dim=1)
    names = ("loss", "cc", "sim", "nss", "auc_judd", "kldiv")
    means = dict(zip(names, rows.nanmean(dim=0).tolist(), strict=True))
    return {**means, "clips": int((~rows.isnan().any(dim=1)).sum())}


@torch.no_grad()
def draw(model: nn.Module, clips: list[dict], processor: SalFoMVideoProcessor, device: torch.device) -> np.ndarray:
    """
    A row for each clip: its last frame, the recorded density over it, the prediction over it.

    Returns:
        uint8 `(height, width, 3)`.
    """
    model.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    rows = []
    for clip in clips:
        saliency = model(clip["pixel_values_videos"].unsqueeze(0).to(device)).saliency[0].float().cpu().numpy()
        pixels = (clip["pixel_values_videos"][-1] * std + mean) / processor.rescale_factor
        frame = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        density = clip["labels"].numpy()
        rows.append(np.concatenate([frame, overlay(frame, density), overlay(frame, saliency)], axis=1))
    return np.concatenate(rows)


__all__ = ["draw", "validate"]
