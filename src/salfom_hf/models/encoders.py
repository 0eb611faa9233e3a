"""
The encoders that SalFoM can stand on: what the entries of `ENCODERS` name; and, at the end, how models are loaded.

Feature functions turn the output of a transformers model into the feature volume `(batch, channels, time, rows,
columns)` that the decoder reads. Video encoders see the whole clip; frame-wise encoders see one frame at a time, and
their features can be kept while the window slides on. To add an encoder, write its feature function here and its entry
in `configuration_salfom.ENCODERS`.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME as WEIGHTS_INDEX
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS
from transformers.utils import ModelOutput, cached_file, logging

from ..errors import LoadError
from .configuration_salfom import ENCODERS, EncoderAdapter, encoder_facts, pair

# Features, and the encoder's own output.
Encoded = tuple[torch.Tensor, ModelOutput]

# Those that transformers does not have: model type → module, class.
OWN_MODELS = {
    "umt": ("modeling_umt", "UMTModel"),
    "efficientnet_lite": ("modeling_efficientnet_lite", "EfficientNetLiteModel"),
}


def tokens_to_volume(tokens: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """`(batch, time · rows · columns, channels)` to `(batch, channels, time, rows, columns)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def fuse_scales(fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Bring feature maps `(batch, channels, rows, columns)` of strides 8, 16 and 32 to stride 16 and stack them."""
    coarse = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([F.pixel_unshuffle(fine, 2), middle, coarse], dim=1)


def interpolate_positions(
    table: torch.Tensor, source: tuple[int, int, int], target: tuple[int, int, int]
) -> torch.Tensor:
    """
    Resample a position table between token grids: linearly in time, bicubically in space.

    Args:
        table: `(1, frames · rows · columns, channels)` of the grid `source`.
        source, target: grids (frames, rows, columns), of the table and wanted.

    Returns:
        `(1, frames · rows · columns, channels)` of the grid `target`, in the dtype of `table`.
    """
    channels = table.shape[-1]
    positions = table.float().reshape(*source, channels)
    if source[0] != target[0]:
        over_time = positions.reshape(source[0], -1).T.unsqueeze(0)
        over_time = F.interpolate(over_time, size=target[0], mode="linear", align_corners=False)
        positions = over_time.squeeze(0).T.reshape(target[0], *source[1:], channels)
    if source[1:] != target[1:]:
        over_space = positions.permute(0, 3, 1, 2)
        over_space = F.interpolate(over_space, size=target[1:], mode="bicubic", align_corners=False)
        positions = over_space.permute(0, 2, 3, 1)
    return positions.reshape(1, -1, channels).to(table.dtype)


def check_clips(clips: torch.Tensor, num_frames: int, stride: int) -> None:
    """
    Raises:
        TypeError: this is no float tensor, so that it cannot be what the processor gives.
        ValueError: the number of frames or the size does not fit the model.
    """
    if not (isinstance(clips, torch.Tensor) and clips.is_floating_point()):
        found = f"a tensor of {clips.dtype}" if isinstance(clips, torch.Tensor) else type(clips).__name__
        raise TypeError(
            f"This model takes a float tensor of normalised pixels, not {found}; make it with SalFoMVideoProcessor."
        )
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ValueError(f"This model takes (batch, frames, 3, height, width), not {tuple(clips.shape)}.")
    _, frames, _, height, width = clips.shape
    if frames not in (1, num_frames):
        raise ValueError(f"This model takes clips of {num_frames} frames, or stills of one frame, not {frames}.")
    if height % stride or width % stride:
        raise ValueError(f"This model takes heights and widths that {stride} divides, not {height}x{width}.")


def encode(
    encoder: PreTrainedModel, clips: torch.Tensor, num_frames: int, projection: nn.Module | None = None, **flags: bool
) -> Encoded:
    """
    Clips to their feature volume `(batch, channels, time, rows, columns)`, and the encoder's own output. A frame-wise
    encoder sees a still once, and its volume has one time step; others see it as often as a clip has frames.

    Args:
        clips: float `(batch, frames, 3, height, width)` of `num_frames` frames or one.
        projection: what features `(…, channels, rows, columns)` go through, with a ReLU.
        flags: `output_hidden_states` and `output_attentions`.
    """
    adapter = adapter_for(encoder.config)
    check_clips(clips, num_frames, adapter.stride(encoder.config))
    if adapter.framewise:
        features, outputs = adapter.features(encoder, clips.flatten(0, 1), **flags)
    else:
        features, outputs = adapter.features(encoder, clips.expand(-1, num_frames, -1, -1, -1), **flags)
        if projection is None:
            return features, outputs
        features = features.transpose(1, 2).flatten(0, 1)
    if projection is not None:
        features = projection(features).relu()
    return features.unflatten(0, (clips.shape[0], -1)).transpose(1, 2), outputs


# --- Feature functions: (encoder, pixels, flags) to (features, the encoder's own output) ---


def token_grid(encoder: PreTrainedModel, pixels: torch.Tensor) -> tuple[int, int, int]:
    """Time steps, rows and columns of the tokens of clips `(batch, frames, 3, height, width)`."""
    config, (frames, _, height, width) = encoder.config, pixels.shape[1:]
    rows, columns = config.tubelet_size[1:] if config.model_type == "vivit" else pair(config.patch_size)
    return frames // encoder_facts(config).frames_per_step(config), height // rows, width // columns


def video_vit_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    grid = token_grid(encoder, pixels)
    # ViViT has a class token in front.
    tokens = outputs.last_hidden_state[:, -grid[0] * grid[1] * grid[2] :]
    return tokens_to_volume(tokens, grid), outputs


def vjepa2_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    return video_vit_features(encoder, pixels, skip_predictor=True, **flags)


def timesformer_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    frames, rows, columns = token_grid(encoder, pixels)
    # A class token, then the patches with time running fastest.
    tokens = outputs.last_hidden_state[:, 1:].unflatten(1, (rows, columns, frames))
    return tokens.permute(0, 4, 3, 1, 2), outputs


def image_vit_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    _, rows, columns = token_grid(encoder, pixels.unsqueeze(1))
    # The class token and any register tokens stand in front.
    return tokens_to_volume(outputs.last_hidden_state[:, -rows * columns :], (rows, columns)), outputs


def convnextv2_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **{**flags, "output_hidden_states": True})
    return fuse_scales(*outputs.hidden_states[-3:]), outputs


def efficientnet_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **{**flags, "output_hidden_states": True})
    by_stride = {pixels.shape[-2] // hidden.shape[-2]: hidden for hidden in outputs.hidden_states}
    return fuse_scales(by_stride[8], by_stride[16], outputs.last_hidden_state), outputs


def efficientnet_lite_features(encoder: PreTrainedModel, pixels: torch.Tensor, **flags: bool) -> Encoded:
    outputs = encoder(pixels, **flags)
    return fuse_scales(*outputs.feature_maps), outputs


# --- Forward methods in place of the encoders' own: positions follow the size of the input ---


def videomae_embeddings(
    embeddings: Any, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None
) -> torch.Tensor:
    config = embeddings.config
    features = embeddings.patch_embeddings.projection(pixel_values.transpose(1, 2))
    (height, width), (rows, columns) = pair(config.image_size), pair(config.patch_size)
    stored = (config.num_frames // config.tubelet_size, height // rows, width // columns)
    positions = interpolate_positions(embeddings.position_embeddings, stored, tuple(features.shape[2:]))
    return features.flatten(2).transpose(1, 2) + positions.to(features)


def vivit_embeddings(
    embeddings: Any, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = True
) -> torch.Tensor:
    features = embeddings.patch_embeddings.projection(pixel_values.transpose(1, 2))
    (height, width), (patch_height, patch_width) = embeddings.image_size, embeddings.patch_size
    rows, columns = height // patch_height, width // patch_width
    stored = (embeddings.patch_embeddings.num_patches // (rows * columns), rows, columns)
    of_class, of_patches = embeddings.position_embeddings[:, :1], embeddings.position_embeddings[:, 1:]
    positions = torch.cat([of_class, interpolate_positions(of_patches, stored, tuple(features.shape[2:]))], dim=1)
    cls_token = embeddings.cls_token.expand(features.shape[0], -1, -1)
    return embeddings.dropout(torch.cat([cls_token, features.flatten(2).transpose(1, 2)], dim=1) + positions)


def timesformer_embeddings(embeddings: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    batch, frames = pixel_values.shape[:2]
    patches = embeddings.patch_embeddings
    features = patches.projection(pixel_values.flatten(0, 1)).unflatten(0, (batch, frames))
    stored = [side // patch for side, patch in zip(patches.image_size, patches.patch_size, strict=True)]
    of_class, of_patches = embeddings.position_embeddings[:, :1], embeddings.position_embeddings[:, 1:]
    of_patches = interpolate_positions(of_patches, (1, *stored), (1, *features.shape[-2:]))
    tokens = embeddings.pos_drop(features.flatten(3).transpose(2, 3) + of_patches.unsqueeze(1))
    times = embeddings.time_embeddings
    of_frames = interpolate_positions(times, (times.shape[1], 1, 1), (frames, 1, 1))
    # Time runs fastest, behind the class token.
    tokens = embeddings.time_drop(tokens + of_frames.unsqueeze(2)).transpose(1, 2).flatten(1, 2)
    return torch.cat([embeddings.pos_drop(embeddings.cls_token.expand(batch, -1, -1) + of_class), tokens], dim=1)


def vjepa2_encoder(encoder: Any, pixel_values_videos: torch.Tensor, **kwargs: object) -> BaseModelOutput:
    """With rotary angles of the input's own grid, where the original takes a square one for granted."""
    hidden_states = encoder.embeddings(pixel_values_videos)
    rows, columns = (
        side // patch
        for side, patch in zip(pixel_values_videos.shape[-2:], pair(encoder.config.patch_size), strict=True)
    )
    token = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    # In place of the masks, which are for training V-JEPA 2 itself: (time, row, column) of every token.
    positions = torch.stack((token // (rows * columns), token // columns % rows, token % columns))
    for layer in encoder.layer:
        hidden_states = layer(hidden_states, positions, **kwargs)[0]
    return BaseModelOutput(last_hidden_state=encoder.layernorm(hidden_states))


def vjepa2_positions(x: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return masks.unbind()


# --- Preparation: what SalFoM does not use is removed, so that every parameter that exists is trained ---


def unprepared(encoder: PreTrainedModel, num_frames: int) -> None:
    """For encoders that fit as they are."""


def prepare_videomae(encoder: Any, num_frames: int) -> None:
    encoder.embeddings.forward = partial(videomae_embeddings, encoder.embeddings)


@dataclass(frozen=True)
class TimesformerLayerShape:
    """
    What a TimeSformer block reads of its configuration while it runs: it multiplies the rows by the columns that it
    derives from these, so one column of all patches serves every size.
    """

    num_frames: int
    image_size: int = 1
    patch_size: int = 1


def prepare_timesformer(encoder: Any, num_frames: int) -> None:
    if encoder.config.attention_type == "space_only":
        raise ValueError("TimeSformer with attention_type 'space_only' averages over time: SalFoM cannot read it.")
    encoder.embeddings.forward = partial(timesformer_embeddings, encoder.embeddings)
    for layer in encoder.encoder.layer:
        layer.config = TimesformerLayerShape(num_frames)


def prepare_vivit(encoder: Any, num_frames: int) -> None:
    encoder.pooler = None
    encoder.embeddings.forward = partial(vivit_embeddings, encoder.embeddings)


def prepare_vjepa2(encoder: Any, num_frames: int) -> None:
    encoder.predictor = None
    encoder.encoder.forward = partial(vjepa2_encoder, encoder.encoder)
    for layer in encoder.encoder.layer:
        layer.attention.get_position_ids = vjepa2_positions


def prepare_image_vit(encoder: Any, num_frames: int) -> None:
    # Empty rather than None, which DINOv3 could not initialise.
    del encoder.embeddings.mask_token
    encoder.embeddings.mask_token = nn.Buffer(torch.empty(0), persistent=False)


def prepare_convnextv2(encoder: PreTrainedModel, num_frames: int) -> None:
    encoder.layernorm = nn.Identity()


def adapter_for(config: PreTrainedConfig) -> EncoderAdapter:
    """
    The entry of `ENCODERS` for an encoder configuration, with functions where it has their names.

    Raises:
        ValueError: there is none for this model type.
    """
    entry = encoder_facts(config)
    named = {key: globals()[value] for key, value in vars(entry).items() if isinstance(value, str)}
    return replace(entry, **named)


def build_encoder(config: PreTrainedConfig, num_frames: int | None = None) -> PreTrainedModel:
    """An encoder with fresh weights, prepared for SalFoM with clips of so many frames; by default its own number."""
    adapter = adapter_for(config)
    if config.model_type in OWN_MODELS:
        module, name = OWN_MODELS[config.model_type]
        # Not known to transformers where saved code runs without the package, which brings the one that it needs.
        encoder = getattr(import_module(f".{module}", __package__), name)._from_config(config)
    else:
        encoder = AutoModel.from_config(config)
    adapter.prepare(encoder, num_frames or getattr(config, "num_frames", 1))
    return encoder


# --- Loading: a model only with exactly its weights ---


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Have transformers, and so the Hub, show none inside; what the user has set holds again afterwards."""
    shown, of_hub = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if shown and not of_hub:
            disable_progress_bars()


# Arguments of `from_pretrained` that say where a model's files are.
WHERE = {"cache_dir", "revision", "subfolder", "token", "local_files_only"}
# What a file of weights may have against a model, and where transformers reports it.
FAULTS = {
    "it lacks": "missing_keys",
    "the model has no use for its": "unexpected_keys",
    "of another shape are its": "mismatched_keys",
}


def weight_files(name: str | os.PathLike, **options: Any) -> tuple[list[str], dict[str, str]]:
    """
    The safetensors files of a model, none if it has others, and which of several has which weight.

    Raises:
        LoadError: one is missing or damaged.
    """

    def found(file: str) -> str | None:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **options)

    files, places = [WEIGHTS], {}
    if not found(WEIGHTS):
        if not (index := found(WEIGHTS_INDEX)):
            return [], {}
        try:
            places = dict(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
            files = sorted(set(places.values()))
            if not files or any(os.path.basename(file) != file for file in files):
                raise ValueError("These are no names of files next to it.")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"its {WEIGHTS_INDEX} is damaged"
            raise LoadError(f"Cannot load the model '{name}': {what}; download it again.") from error
    paths = []
    for file in files:
        if not (path := found(file)):
            raise LoadError(f"Cannot load the model '{name}': its {file} is missing; download it again.")
        try:
            with safe_open(path, "pt"):
                paths.append(path)
        except (OSError, SafetensorError) as error:
            raise LoadError(
                f"Cannot load the model '{name}': its {file} is damaged or incomplete; download it again."
            ) from error
    return paths, places


class CheckedModel(PreTrainedModel):
    """
    A model that is loaded only with exactly its weights, all of them finite, and that pickles even after transformers
    has recorded hidden states of it, and gives them once loaded.
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """
        As of transformers; with `output_loading_info`, weights that do not fit are in the report and no error.

        Raises:
            LoadError: weights are missing, unexpected, or infinite or not a number.
        """
        name, tolerant = pretrained_model_name_or_path, output_loading_info or kwargs.get("ignore_mismatched_sizes")
        options = {key: kwargs[key] for key in WHERE & kwargs.keys()}
        files, places = weight_files(name, **options) if name else ([], {})
        of = WEIGHTS_INDEX if places else WEIGHTS

        def unfit(reason: str) -> LoadError:
            return LoadError(
                f"Cannot load the model '{name}': its {of} does not fit its config.json ({reason}); take both, whole, "
                "from the same model."
            )

        if files and not tolerant:
            # Transformers makes what a file lacks, however much it is: of each weight there must be a byte at least.
            with torch.device("meta"):
                network = cls(cls.config_class.from_pretrained(name, **options))  # type: ignore[union-attr]
            if network.num_parameters() > (size := sum(map(os.path.getsize, files))):
                raise unfit(f"there are only {size:,} bytes of weights")
        load: Callable = super().from_pretrained
        with no_progress_bars():  # That of a download has been shown; to read the file takes a moment.
            kwargs = {"ignore_mismatched_sizes": True, **kwargs, "output_loading_info": True}
            model, report = load(name, *args, **kwargs)
        if output_loading_info:
            return model, report
        for words, key in FAULTS.items():
            if names := [] if tolerant and key == "mismatched_keys" else sorted(report[key]):
                names = [each if isinstance(each, str) else each[0] for each in names]  # Of others also the shapes.
                more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
                raise unfit(f"{words} {', '.join(names[:2])}{more}")
        for key, value in model.state_dict().items():
            held = value.is_floating_point() and value.numel() and not value.is_meta
            if held and not torch.stack(value.aminmax()).isfinite().all():
                raise LoadError(
                    f"Cannot load the model '{name}': in its {places.get(key, of)}, {key} holds values that are "
                    f"infinite or not a number (as {value.dtype}); download it again, or load it in float32."
                )
        return model

    def __getstate__(self) -> dict:
        # What records them does not pickle; it is installed again when it is next needed.
        for module in self.modules():
            module.__dict__.pop("_output_capturing_hooks_installed", None)
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", None) == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
        return super().__getstate__()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        # transformers notes this when it builds a model, which may not have happened in this process; other versions
        # may not have this table.
        with suppress(ImportError):
            from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

            for module in self.modules():
                if isinstance(module, PreTrainedModel):
                    _CAN_RECORD_REGISTRY[module] = module._can_record_outputs


def load_encoder(name: str | os.PathLike) -> PreTrainedModel:
    """A pretrained encoder, by its folder or its name on the Hub."""
    encoder = AutoModel.from_pretrained(name)
    if os.path.isdir(name):  # A folder of this machine has no place in what is saved and perhaps published.
        encoder.config._name_or_path = ""
    return encoder


__all__ = ["ENCODERS", "EncoderAdapter", "adapter_for", "build_encoder", "fuse_scales", "tokens_to_volume"]
