"""AdamW with a rate for the decoder and, layer by layer, rates for the encoder; how they change; averaged weights."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .config import TrainingConfig

# The number of a layer in a parameter's name: `layers.3.`, `layer.3.`, `blocks.3.`, `encoder.stages.3.`.
LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|stages?)\.(\d+)\.")
# In addition to all vectors, these are not pulled to 0: positions, tokens that stand for no patch, the centre prior.
NO_DECAY = re.compile(r"position|time_embeddings|cls_token|register_tokens|log_density|log_sensitivity")
ENCODER = "salfom.encoder."


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
    """Groups for AdamW of what is trained: each with its highest rate, and its `part`, encoder or decoder."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    encoder = [name for name, _ in named if name.startswith(ENCODER)]
    depths = dict(zip(encoder, encoder_depths([name.removeprefix(ENCODER) for name in encoder]), strict=True))
    deepest = max(depths.values(), default=0)
    groups: dict[tuple, dict] = {}
    for name, p in named:
        part, rate = "decoder", config.learning_rate
        if name in depths:
            part, rate = "encoder", config.encoder_learning_rate * config.layer_decay ** (deepest - depths[name])
        decay = config.weight_decay if p.ndim > 1 and not NO_DECAY.search(name) else 0.0
        new = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay, "part": part}
        groups.setdefault((part, rate, decay), new)["params"].append(p)
    return list(groups.values())


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, config))


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


class ExponentialMovingAverage:
    """The average of a model's trained weights over its steps; what is validated and saved in their place."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters: list[torch.Tensor] = [p for p in parameters if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        # Less in the first steps, when it would hold on to the start.
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
        """Go on from a file of `save`."""
        saved = load_file(path)
        for index, average in enumerate(self.averages):
            average.copy_(saved[str(index)])
        self.steps = int(saved["steps"])
