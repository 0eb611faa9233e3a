"""AdamW with a rate for the decoder and, layer by layer, rates for the encoder; and how the rates change over time."""

import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .config import TrainingConfig

# The number of a layer in a parameter's name: `layers.3.`, `layer.3.`, `blocks.3.`, `encoder.stages.3.`.
LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages?)\.(\d+)\.")
# Besides all that are vectors, these are not pulled to 0: positions, tokens that stand for no patch, the centre prior.
NO_DECAY = re.compile(r"position|time_embeddings|cls_token|register_tokens|log_density|log_sensitivity")


def encoder_depths(names: list[str]) -> list[int]:
    """
    How deep each encoder parameter lies: 0 for the embeddings, the layer's number + 1 in the layers, and the depth of
    the last layer for what follows them.
    """
    numbers = [int(found[1]) if (found := LAYER.search(name)) else None for name in names]
    last = max((number for number in numbers if number is not None), default=0) + 1
    first = next((i for i, number in enumerate(numbers) if number is not None), len(names))
    # Modules are registered in the order of the data: what stands before the first layer feeds it.
    return [number + 1 if number is not None else (0 if i < first else last) for i, number in enumerate(numbers)]


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict]:
    """
    Groups for AdamW with their highest rate as `lr` and `initial_lr`; parameters without gradient are left out.

    Args:
        model: a [`SalFoMForVideoSaliencyPrediction`]; parameters whose name holds `encoder.` are the encoder's.
        config: its rates, layer decay and weight decay.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    encoder = [(name.split("encoder.", 1)[1], p) for name, p in named if name.startswith("salfom.encoder.")]
    depths = encoder_depths([name for name, _ in encoder])
    rates = {p: config.learning_rate for _, p in named}
    for (_, p), depth in zip(encoder, depths, strict=True):
        rates[p] = config.encoder_learning_rate * config.layer_decay ** (max(depths) - depth)
    encoder_parameters = {p for _, p in encoder}
    groups: dict[tuple, dict] = {}
    for name, p in named:
        decay = config.weight_decay if p.ndim > 1 and not NO_DECAY.search(name) else 0.0
        part = "encoder" if p in encoder_parameters else "decoder"
        key = (part, rates[p], decay)
        new = {"params": [], "lr": rates[p], "initial_lr": rates[p], "weight_decay": decay, "part": part}
        groups.setdefault(key, new)["params"].append(p)
    return list(groups.values())


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, config), betas=tuple(config.betas))


def rate_factor(step: int, total: int, config: TrainingConfig) -> float:
    """What the rates are multiplied by in optimizer step `step` (from 0) of `total`."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class ExponentialMovingAverage:
    """
    The average of a model's trained weights over its steps; what is validated and saved in their place.

    Args:
        parameters: of the model; the average begins at their values.
        decay: how much of the average stays at each step; less in the first steps, when it would hold on to the start.
    """

    def __init__(self, parameters, decay: float):
        self.parameters = [p for p in parameters if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (self.steps + 1) / (self.steps + 10))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average; done twice, nothing has changed."""
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        averages = {str(index): average.contiguous() for index, average in enumerate(self.averages)}
        save_file({**averages, "steps": torch.tensor(self.steps)}, path)

    def load(self, path: Path) -> None:
        """
        Go on from a file of `save`.

        Raises:
            SafetensorError, KeyError, RuntimeError: the file is damaged, or of another model.
        """
        saved = load_file(path)
        for index, average in enumerate(self.averages):
            average.copy_(saved[str(index)])
        self.steps = int(saved["steps"])


__all__ = [
    "ExponentialMovingAverage",
    "encoder_depths",
    "make_optimizer",
    "parameter_groups",
    "rate_factor",
    "set_rates",
]
