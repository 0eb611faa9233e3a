"""Scores of a model on validation clips, and pictures of them."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from .. import metrics
from ..models.losses import saliency_loss
from ..models.video_processing_salfom import SalFoMVideoProcessor
from ..video.drawing import overlay
from .config import demand

SCORES = ("loss", "cc", "sim", "nss", "auc_judd", "kldiv")


@torch.no_grad()
def validate(
    model: nn.Module, loader: DataLoader, accelerator: Accelerator, weights: dict[str, float], check: Callable
) -> dict[str, float]:
    """
    Mean `SCORES` over the validation clips of all processes, each counted once, at the clips' size, and the number of
    `clips`: those whose last frame has no fixations are left out. Where there are both, stills and videos count
    equally, however many they are, and each has scores of its own, `stills/cc` and so on. `check` gets for every batch
    whether its predictions are finite, and may raise.
    """
    model.eval()
    rows = []
    for batches in loader:
        logits = [model(batch["pixel_values_videos"]).logits.float() for batch in batches]
        check(all(bool(part.isfinite().all()) for part in logits))
        scores = torch.cat([clip_scores(part, batch, weights) for part, batch in zip(logits, batches, strict=True)])
        # In the order of the clips: those that only fill the last batches up are dropped from the end.
        places = torch.cat([batch["place"] for batch in batches])
        rows.append(accelerator.gather_for_metrics(scores[places.argsort()]).cpu())
    scores, stills = torch.cat(rows).split([len(SCORES), 1], dim=1)
    demand(
        not scores.isnan().all(),
        f"None of the {len(scores)} validation clips has fixations on its last frame; name another validation split "
        "or lower validation_spacing.",
    )
    kinds = {"stills": scores[stills[:, 0] == 1], "videos": scores[stills[:, 0] == 0]}
    means = {kind: part.nanmean(dim=0) for kind, part in kinds.items() if len(part)}
    found = dict(zip(SCORES, torch.stack(list(means.values())).nanmean(dim=0).tolist(), strict=True))
    if len(means) > 1:
        for kind, values in means.items():
            found |= {f"{kind}/{name}": value for name, value in zip(SCORES, values.tolist(), strict=True)}
    return {**found, "clips": int((~scores.isnan().any(dim=1)).sum())}


def clip_scores(logits: torch.Tensor, batch: dict, loss_weights: dict[str, float]) -> torch.Tensor:
    """Float64 `(batch, 7)`: of every clip the `SCORES`, NaN without fixations, and 1 if it is a still, else 0."""
    saliency, density, fixations = logits.sigmoid(), batch["labels"], batch["fixations"]
    each = zip(*(part.split(1) for part in (logits, density, fixations)), strict=True)
    losses = [saliency_loss(clip, label, **loss_weights, fixations=points) for clip, label, points in each]
    scores = [
        torch.stack(losses).double(),
        metrics.counted(metrics.cc, saliency, density),
        metrics.sim(saliency, density),
        metrics.counted(metrics.nss, saliency, fixations),
        metrics.counted(metrics.auc_judd, saliency, fixations),
        metrics.kldiv(saliency, density),
    ]
    fixated = fixations.flatten(1).any(dim=1)
    is_still = torch.full_like(scores[0], batch["pixel_values_videos"].shape[1] == 1)
    return torch.stack([*(score.masked_fill(~fixated, torch.nan) for score in scores), is_still], dim=1)


@torch.no_grad()
def draw(model: nn.Module, clips: list[dict], processor: SalFoMVideoProcessor, device: torch.device) -> np.ndarray:
    """A row for each clip: its last frame, and over it the recorded density and the prediction; uint8 RGB."""
    model.eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    rows = []
    for clip in clips:
        saliency = model(clip["pixel_values_videos"].unsqueeze(0).to(device)).saliency[0].float().cpu().numpy()
        pixels = (clip["pixel_values_videos"][-1] * std + mean) / processor.rescale_factor
        frame = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        rows.append(np.hstack([frame, overlay(frame, clip["labels"].numpy()), overlay(frame, saliency)]))
    width = max(row.shape[1] for row in rows)  # Clips may be of several.
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
