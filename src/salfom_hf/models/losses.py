"""
Maps against densities, differentiable: the loss terms; and the blur that makes densities of fixations.

The terms take maps `(batch, height, width)` of any float type, saliency and densities not negative, and give float32
`(batch,)`.
"""

import torch
from torch.nn import functional as F

TINY = torch.finfo(torch.float32).tiny


def blur_matrix(length: int, sigma: float, border: str) -> torch.Tensor:
    """float64 `(length, length)`: [`gaussian_blur`] along one axis, to be multiplied with columns of pixels."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(length, -1)
    sources = torch.arange(length)[:, None] + offsets
    if border == "reflect":
        sources = sources % (2 * length)
        sources = torch.minimum(sources, 2 * length - 1 - sources)
    else:
        kernel = kernel * ((sources >= 0) & (sources < length))
        sources = sources.clamp(0, length - 1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, sources, kernel)


def gaussian_blur(maps: torch.Tensor, sigma: float, border: str = "zeros") -> torch.Tensor:
    """
    Blur each map with a Gaussian of sum 1, cut off at four standard deviations.

    Args:
        maps: `(…, height, width)` of any type; the result is float32, of float64 float64, on their device.
        sigma: standard deviation in pixels; 0 leaves the maps as they are.
        border: what is outside of a map: `"zeros"`, or `"reflect"`, its mirror image, outermost pixel first.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if sigma == 0:
        return maps
    # Two products of matrices: for wide kernels, several times as fast as convolutions.
    vertical, horizontal = (blur_matrix(length, sigma, border).to(maps) for length in maps.shape[-2:])
    return vertical @ maps @ horizontal.T


def kl_divergence(logits: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """KL(gt ‖ pred), in nats, of density and `sigmoid(logits)`, both divided by their sum; 0 for an empty density."""
    # Normalised in log space, so that logits of any size, in any precision, give finite values and gradients.
    log_pred = F.logsigmoid(logits.float().flatten(1))
    log_pred = log_pred - log_pred.logsumexp(dim=1, keepdim=True)
    density = density.float().flatten(1)
    gt = density / density.sum(dim=1, keepdim=True).clamp_min(TINY)
    return (torch.xlogy(gt, gt) - gt * log_pred).sum(dim=1)


def correlation(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """CC: Pearson's correlation over the pixels, −1…1; 0, with a finite gradient, for a constant map."""
    saliency, density = saliency.float().flatten(1), density.float().flatten(1)
    # Scaled to a mean of 1 first: CC does not change, and maps of tiny values stay above the epsilon.
    saliency = saliency / saliency.mean(dim=1, keepdim=True).clamp_min(TINY)
    density = density / density.mean(dim=1, keepdim=True).clamp_min(TINY)
    saliency = saliency - saliency.mean(dim=1, keepdim=True)
    density = density - density.mean(dim=1, keepdim=True)
    # Means, not sums, and this epsilon bound the gradient by 1e4, which float16 still holds.
    scale = (saliency.square().mean(dim=1) * density.square().mean(dim=1) + 1e-8).sqrt()
    return (saliency * density).mean(dim=1) / scale


def similarity(saliency: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """
    SIM: intersection of the two maps, each scaled from its minimum…maximum to 0…1 and divided by its sum: 0…1; 0 for
    an empty density.
    """

    def distribution(maps: torch.Tensor) -> torch.Tensor:
        maps = maps.float().flatten(1)
        low, high = maps.amin(dim=1, keepdim=True), maps.amax(dim=1, keepdim=True)
        maps = (maps - low) / (high - low).clamp_min(1e-8)
        return maps / maps.sum(dim=1, keepdim=True).clamp_min(1e-8)

    return torch.minimum(distribution(saliency), distribution(density)).sum(dim=1)


def normalized_scanpath_saliency(saliency: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """NSS: mean of the standardised map (ddof 0) over the pixels that are true in `fixations`; 0 if none is."""
    saliency, fixated = saliency.float().flatten(1), fixations.flatten(1).float()
    centred = saliency - saliency.mean(dim=1, keepdim=True)
    standardised = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    return (standardised * fixated).sum(dim=1) / fixated.sum(dim=1).clamp_min(1)


def saliency_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    kl_weight: float = 1.0,
    cc_weight: float = 1.0,
    sim_weight: float = 0.0,
    nss_weight: float = 0.0,
    fixations: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Mean over the batch of `kl_weight · KL(gt ‖ pred) − cc_weight · CC − sim_weight · SIM − nss_weight · NSS`, a
    float32 scalar. The defaults are the paper's objective.

    Args:
        logits: float `(batch, height, width)`; the prediction is their sigmoid.
        labels: densities `(batch, height', width')` of any size and scale; resized bilinearly to that of the logits.
        fixations: bool `(batch, height, width)`, for NSS.

    Raises:
        ValueError: NSS has a weight, and there are no fixations of the logits' size.
    """
    if nss_weight and (fixations is None or fixations.shape != logits.shape):
        raise ValueError(f"The NSS term needs fixations of the shape {tuple(logits.shape)}.")
    # Maps that were resized or composed may hold tiny negative values, whose logarithm is not a number.
    labels = labels.to(device=logits.device, dtype=torch.float32).clamp_min(0)
    if labels.shape[1:] != logits.shape[1:]:
        labels = F.interpolate(labels.unsqueeze(1), logits.shape[1:], mode="bilinear", align_corners=False).squeeze(1)
    # Divided by its maximum, which CC, SIM and NSS ignore: the sigmoid of very negative logits underflows.
    log_saliency = F.logsigmoid(logits.float())
    saliency = (log_saliency - log_saliency.detach().amax(dim=(1, 2), keepdim=True)).exp()
    loss = kl_weight * kl_divergence(logits, labels) - cc_weight * correlation(saliency, labels)
    if sim_weight:
        loss = loss - sim_weight * similarity(saliency, labels)
    if nss_weight and fixations is not None:
        loss = loss - nss_weight * normalized_scanpath_saliency(saliency, fixations)
    return loss.mean()
