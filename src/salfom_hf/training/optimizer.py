"""AdamW with a rate for the decoder and, layer by layer, rates for the encoder; how they change."""

import math
import re

import torch
from torch import nn

from .config import TrainingConfig

# The number of a layer in a parameter's name: `layers.3.`, `layer.3.`, `blocks.3.`, `encoder.stages.3.`.
LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages?)\.(\d+)\.")
# In addition to all vectors, these are not pulled to 0: positions, tokens that stand for no patch, the centre prior.
NO_DECAY = re.compile(r"position|time_embeddings|cls_token|register_tokens|log_density|log_sensitivity")
ENCODER = "salfom.encoder."


def encoder_depths(model: nn.Module) -> dict[str, int]:
    """0 before the encoder's layers, in them their number + 1, after them the last one's; of what is trained."""
    names = [name for name, p in model.named_parameters() if name.startswith(ENCODER) and p.requires_grad]
    numbered = {name: int(found[1]) + 1 for name in names if (found := LAYER.search(name.removeprefix(ENCODER)))}
    depths, depth = {}, 0
    for name in names:
        # Modules are registered in the order of the data: what stands before the first layer feeds it.
        if name in numbered:
            depth = max(numbered.values())
        depths[name] = numbered.get(name, depth)
    return depths


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over groups of what is trained: each with its highest rate, and its `part`, encoder or decoder."""
    depths = encoder_depths(model)
    deepest = max(depths.values(), default=0)
    groups: dict[tuple, dict] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        part, rate = "decoder", config.learning_rate
        if name in depths:
            part, rate = "encoder", config.encoder_learning_rate * config.layer_decay ** (deepest - depths[name])
        decay = config.weight_decay if p.ndim > 1 and not NO_DECAY.search(name) else 0.0
        new = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay, "part": part}
        groups.setdefault((part, rate, decay), new)["params"].append(p)
    return torch.optim.AdamW(list(groups.values()))


def set_rates(optimizer: torch.optim.Optimizer, step: int, total: int, config: TrainingConfig) -> None:
    """Give every group its rate in optimizer step `step` (from 0) of `total`."""
    factor = 1.0
    if step < config.warmup_steps:
        factor = (step + 1) / config.warmup_steps
    elif config.schedule == "cosine":
        progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
