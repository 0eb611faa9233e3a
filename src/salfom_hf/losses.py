"""The training objective of SalFoM: KL(gt ‖ pred) − CC(pred, gt), from logits."""

import torch
from torch.nn import functional as F


def kl_divergence(logits: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    KL(gt ‖ pred) of each map, both divided by their sum.

    The prediction is `sigmoid(logits)`; it is normalised in log space, so that logits of any size, in any precision,
    give finite values and gradients. An empty density gives 0.

    Args:
        logits: float `(batch, height, width)`.
        density: non-negative float `(batch, height, width)`.

    Returns:
        float32 `(batch,)`, at least 0, in nats.
    """
    log_pred = F.logsigmoid(logits.float().flatten(1))
    log_pred = log_pred - log_pred.logsumexp(dim=1, keepdim=True)
    density = density.float().flatten(1)
    gt = density / density.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return (torch.xlogy(gt, gt) - gt * log_pred).sum(dim=1)


def correlation(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    CC: Pearson's correlation over the pixels of each map. A constant map gives 0, with a finite gradient.

    Args:
        saliency, density: float `(batch, height, width)`.

    Returns:
        float32 `(batch,)` in −1…1.
    """
    saliency, density = saliency.float().flatten(1), density.float().flatten(1)
    # Scaled to a mean of 1 first: CC does not change, and maps of tiny values stay above the epsilon.
    tiny = torch.finfo(torch.float32).tiny
    saliency = saliency / saliency.mean(dim=1, keepdim=True).clamp_min(tiny)
    density = density / density.mean(dim=1, keepdim=True).clamp_min(tiny)
    saliency = saliency - saliency.mean(dim=1, keepdim=True)
    density = density - density.mean(dim=1, keepdim=True)
    # Means, not sums, and this epsilon bound the gradient by 1e4, which float16 still holds.
    scale = (saliency.square().mean(dim=1) * density.square().mean(dim=1) + 1e-8).sqrt()
    return (saliency * density).mean(dim=1) / scale


def saliency_loss(
    logits: torch.Tensor, labels: torch.Tensor, kl_weight: float = 1.0, cc_weight: float = 1.0
) -> torch.Tensor:
    """
    Mean over the batch of `kl_weight · KL(gt ‖ pred) − cc_weight · CC(pred, gt)`, computed in float32.

    Args:
        logits: float `(batch, height, width)`; the prediction is their sigmoid.
        labels: densities `(batch, height', width')` of any size and scale; resized bilinearly to that of the logits.

    Returns:
        float32 scalar.
    """
    # Maps that were resized or composed may hold tiny negative values, whose logarithm is not a number.
    labels = labels.to(device=logits.device, dtype=torch.float32).clamp_min(0)
    if labels.shape[1:] != logits.shape[1:]:
        labels = F.interpolate(labels.unsqueeze(1), size=logits.shape[1:], mode="bilinear", align_corners=False)
        labels = labels.squeeze(1)
    kl = kl_divergence(logits, labels)
    # Divided by its maximum, which CC ignores: where all logits are very negative, their sigmoid underflows.
    log_saliency = F.logsigmoid(logits.float())
    cc = correlation((log_saliency - log_saliency.detach().amax(dim=(1, 2), keepdim=True)).exp(), labels)
    return (kl_weight * kl - cc_weight * cc).mean()


__all__ = ["correlation", "kl_divergence", "saliency_loss"]
