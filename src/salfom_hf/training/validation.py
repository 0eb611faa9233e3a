"""Scores of a model on validation clips, and pictures of them."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from ..evaluation import metrics
from ..models.losses import saliency_loss
from ..models.video_processing_salfom import SalFoMVideoProcessor
from ..video.drawing import overlay
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
        loader: of clips collated by shape.
        check: called for every batch with whether its predictions are finite; may raise.

    Returns:
        `loss`, `cc`, `sim`, `nss`, `auc_judd`, `kldiv` and `clips`, the number of clips with scores.

    Raises:
        ConfigError: no clip has fixations.
    """
    model.eval()
    rows = []
    for batches in loader:
        logits = [model(batch["pixel_values_videos"]).logits.float() for batch in batches]
        check(all(bool(part.isfinite().all()) for part in logits))
        scores = torch.cat([scores_of(part, batch, loss_weights) for part, batch in zip(logits, batches, strict=True)])
        # In the order of the clips: those that only fill the last batches up are dropped from the end.
        places = torch.cat([batch["place"] for batch in batches])
        rows.append(accelerator.gather_for_metrics(scores[places.argsort()]).cpu())
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


def scores_of(logits: torch.Tensor, batch: dict, loss_weights: dict[str, float]) -> torch.Tensor:
    """
    Float64 `(batch, 7)`: loss, CC, SIM, NSS, AUC-Judd and KL of every clip, and whether it has fixations; without,
    its scores are NaN.
    """
    saliency, density, fixations = logits.sigmoid(), batch["labels"], batch["fixations"]
    losses = [
        saliency_loss(logits[i : i + 1], density[i : i + 1], **loss_weights, fixations=fixations[i : i + 1])
        for i in range(len(logits))
    ]
    scores = [
        torch.stack(losses).double(),
        metrics.counted(metrics.cc, saliency, density),
        metrics.sim(saliency, density),
        metrics.counted(metrics.nss, saliency, fixations),
        metrics.counted(metrics.auc_judd, saliency, fixations),
        metrics.kldiv(saliency, density),
    ]
    fixated = fixations.flatten(1).any(dim=1, keepdim=True)
    return torch.cat([torch.stack(scores, dim=1).masked_fill(~fixated, torch.nan), fixated], dim=1)


@torch.no_grad()
def draw(model: nn.Module, clips: list[dict], processor: SalFoMVideoProcessor, device: torch.device) -> np.ndarray:
    """
    A row for each clip: its last frame, the recorded density over it, the prediction over it; black beyond clips that
    are narrower than others.

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
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


__all__ = ["draw", "validate"]
