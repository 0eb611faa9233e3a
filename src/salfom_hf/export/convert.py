"""Published checkpoints, SalFoM's own and UMT's, as folders for `from_pretrained`."""

import argparse
import math
import os
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import advice_for, check_file, described, is_out_of_memory, reason_of
from ..files import Inputs, atomic_output, check_free
from ..hub import reason
from ..models.configuration_salfom import SalFoMConfig, UMTConfig
from ..models.loading import quiet
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.modeling_umt import PRETRAINING_GRID, UMTModel, sinusoidal_table
from ..models.names import installed
from ..models.video_processing_salfom import SalFoMVideoProcessor

Network = TypeVar("Network", bound=PreTrainedModel)

# (our name, the checkpoint's name, what to add to the number inside), applied one after the other.
RENAMINGS = (
    # UMT
    (r"^salfom\.encoder\.", "encoder.", 0),
    (r"embeddings\.position_embeddings", "pos_embed", 0),
    (r"embeddings\.patch_embedding", "patch_embed.proj", 0),
    (r"layers\.", "blocks.", 0),
    # TCFE
    (r"salfom\.tcfe\.stages\.(\d+)\.patch_embedding", "transformer_{}.patch_embed.proj", 1),
    (r"salfom\.tcfe\.stages\.(\d+)\.blocks", "transformer_{}.layers.0.blocks", 1),
    (r"blocks\.(\d+)\.fc", "blocks.{}.mlp.fc", 0),
    (r"relative_position_bias", "relative_position_bias_table", 0),
    # both
    (r"attention\.output", "attn.proj", 0),
    (r"attention\.", "attn.", 0),
    # DFD, SFD, fusion
    (r"salfom\.dfd\.steps\.(\d+)", "conv_{}", 1),
    (r"salfom\.sfd\.temporal\.(\d+)", "conv_t1_{}", 1),
    (r"salfom\.sfd\.spatial\.(\d+)", "conv_2D_{}", 1),
    (r"salfom\.sfd\.from_dynamic_2\.(\d+)", "conv_t2_{}", 1),
    (r"salfom\.sfd\.from_dynamic_4\.(\d+)", "conv_t3_{}", 1),
    (r"fusion\.convolutions\.(\d+)", "conv_{}", 7),
)

# What a checkpoint may hold although the network does not use it: classifiers, final norms and what served the
# pretraining of UMT; layers that SalFoM's authors defined and left out; tables that follow from the window.
UNUSED = {
    "salfom": r"encoder\.(fc_norm|head)\..*|transformer_\d\.norm\..*|conv_t3_3\..*|final_map\..*"
    r"|.*\.relative_position_index",
    "umt": r"(fc_norm|head|norm|clip_decoder)\..*|mask_token|clip_pos_embed",
}

NAMES = {"salfom": "SalFoM", "umt": "UMT"}
NESTINGS = ("model", "module", "state_dict")
PREFIXES = {"salfom": r"^(module\.)+", "umt": r"^((module|backbone|encoder)\.)+"}

# (frames, rows or columns) of the position tables of the published UMT models and of their pretraining.
UMT_GRIDS = [(frames, side) for frames in (4, 8, 16) for side in (14, 24)]
UMT_HEAD_WIDTH = 64

WANTED = "take the whole .pth file of SalFoM's or UMT's authors (docs/convert.md says where it is)"

# UMT's repository on the Hub, and the file in it from which SalFoM starts.
UMT, ENCODER = "OpenGVLab/UMT", "single_modality/l16_ptk710_ftk710_ftk400_f16_res224.pth"


class ConversionError(ValueError):
    """A checkpoint cannot be converted; the message says why."""


@dataclass(frozen=True)
class ConversionReport:
    """
    What a conversion did.

    Attributes:
        kind: `"salfom"` or `"umt"`.
        used: how many tensors the network took.
        unused: names of what it has no use for.
        path: the folder that was written.
    """

    kind: str
    used: int
    unused: list[str]
    path: Path

    def __str__(self) -> str:
        unused = f", {len(self.unused)} without use left out: {', '.join(self.unused)}" if self.unused else ""
        return f"{NAMES[self.kind]} checkpoint converted to {self.path}: {self.used} tensors{unused}."


def convert_checkpoint(
    checkpoint: str | os.PathLike, output_dir: str | os.PathLike, overwrite: bool = False
) -> ConversionReport:
    """
    Turn a released `.pth` file into a folder for `from_pretrained`: that of SalFoM for
    [`SalFoMForVideoSaliencyPrediction`], with its video processor, that of any UMT model for [`UMTModel`]. Which of
    the two it is shows in the names of its tensors.

    Args:
        checkpoint: the `.pth` file, or one on the Hugging Face Hub, such as `"OpenGVLab/UMT/single_modality/….pth"`,
            which is downloaded; `"OpenGVLab/UMT"` alone is the encoder that SalFoM starts from. It is read without
            running any code in it.
        output_dir: the folder to make; it appears when it is complete.
        overwrite: whether to replace a folder that exists.

    Raises:
        ConversionError: the file is no such checkpoint, its tensors are not exactly those of the network, or the Hub
            does not give it.
        VideoError: `output_dir` exists already or cannot be written.
    """
    check_free(output_dir, overwrite, Inputs(checkpoint))
    state = read_checkpoint(local_file(checkpoint))
    kind = detect_kind(state)
    if kind == "umt" and Path(output_dir) == installed("salfom-large"):
        raise ConversionError(f"{checkpoint} is UMT's encoder alone, no SalFoM model; name a folder to make instead.")
    try:
        model, unused = to_salfom(state) if kind == "salfom" else to_umt(state)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        told = f"was taken for {NAMES[kind]}'s, but does not fit its network ({described(error)})"
        raise ConversionError(f"{checkpoint} {told}; {WANTED}.") from error
    with atomic_output(output_dir, overwrite) as folder, quiet():
        model.save_pretrained(folder)
        if kind == "salfom":
            SalFoMVideoProcessor().save_pretrained(folder)
    return ConversionReport(kind, len(state) - len(unused), unused, Path(output_dir))


def local_file(checkpoint: str | os.PathLike) -> str | os.PathLike:
    """The file itself or, where there is none and it is called like one on the Hub, what is downloaded from there."""
    name = Path(checkpoint).as_posix()
    name = f"{UMT}/{ENCODER}" if name == UMT else name
    on_the_hub = re.fullmatch(r"(\w[\w.-]*/[\w.-]+)/(.+\.(?:pth|pt|bin))", name)
    if on_the_hub is None or os.path.exists(checkpoint):
        return checkpoint
    repo_id, file = on_the_hub.groups()
    try:
        return hf_hub_download(repo_id, file)
    except Exception as error:  # No network, no login and a refusal are errors of many types.
        raise ConversionError(
            f"There is no file {name} on this machine, and {file} cannot be downloaded from {repo_id} on the Hub: "
            f"{reason(error, repo_id)}."
        ) from error


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    The tensors of a `.pth` file by name, out of whatever they are nested in. They stay on the disk until used.

    Raises:
        ConversionError: the file cannot be read, is no checkpoint, or holds more than tensors and plain values.
    """
    try:
        check_file(path)
        size = os.path.getsize(path)
        if archived := zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > size:
                    raise ConversionError(f"{path} is compressed, as PyTorch never does it; save it by torch.save.")
        # The settings of a training run, which many checkpoints carry; a namespace can do no harm.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Files of before torch 1.6 are no ZIP archives and cannot be mapped into memory.
            state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=archived)
    except Exception as error:  # torch.load raises many types on files that are none of its own.
        what = f"{path} is not a PyTorch checkpoint; {WANTED}"
        if isinstance(error, ConversionError):
            raise
        if isinstance(error, OSError):
            what = f"Cannot read {path} ({reason_of(error)}); {advice_for(error, 'name a file')}"
        elif isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            what = (
                f"{path} holds pickled Python objects, whose loading could run any code, and is not read; save its "
                "state dict alone to a new file"
            )
        raise ConversionError(f"{what}.") from error
    for _ in NESTINGS:  # More often only if it holds itself.
        if isinstance(state, dict):
            state = next((state[name] for name in NESTINGS if isinstance(state.get(name), dict)), state)
    table = isinstance(state, dict) and all(isinstance(name, str) for name in state)
    if not table or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(f"{path} holds no state dict, which is a table of names and tensors.")
    plain = all(value.layout is torch.strided and value.device.type == "cpu" for value in state.values())
    if not plain or sum(value.nbytes for value in state.values()) > size:
        raise ConversionError(
            f"{path} names tensors that it does not hold; save them again, each with all its values."
        )
    return state


def detect_kind(state: dict[str, torch.Tensor]) -> str:
    """`"salfom"` or `"umt"`, by the names of the tensors."""
    if any(re.match(r"conv_|transformer_\d", re.sub(PREFIXES["salfom"], "", name)) for name in state):
        return "salfom"
    if any(re.sub(PREFIXES["umt"], "", name) == "patch_embed.proj.weight" for name in state):
        return "umt"
    raise ConversionError(
        f"The checkpoint is neither SalFoM's nor UMT's: it has none of the names of their tensors; {WANTED}."
    )


def to_salfom(state: dict[str, torch.Tensor]) -> tuple[SalFoMForVideoSaliencyPrediction, list[str]]:
    """The network with the weights of a SalFoM state dict, and the names that it does not use."""
    state, unused = split(state, "salfom")
    return load(SalFoMForVideoSaliencyPrediction, SalFoMConfig(), state), unused


def to_umt(state: dict[str, torch.Tensor]) -> tuple[UMTModel, list[str]]:
    """The encoder with the weights of a UMT state dict, its size taken from them, and the names it does not use."""
    state, unused = split(state, "umt")
    patch = state["patch_embed.proj.weight"]
    if patch.ndim != 5 or 0 in patch.shape or patch.shape[0] % UMT_HEAD_WIDTH:
        raise ConversionError(f"patch_embed.proj.weight has the shape {list(patch.shape)}, which no UMT model has.")
    width, channels, _, patch_size, _ = patch.shape
    of_pretraining = math.prod(PRETRAINING_GRID)
    stored = state["pos_embed"].shape if "pos_embed" in state else (1, of_pretraining, width)
    sizes = {frames * side**2: (frames, side) for frames, side in UMT_GRIDS}
    if len(stored) < 2 or stored[-2] not in sizes:
        raise ConversionError(f"pos_embed has the shape {list(stored)}, which no UMT model has.")
    frames, side = sizes[stored[-2]]
    blocks = set(re.findall(r"^blocks\.(\d+)\.", "\n".join(state), re.MULTILINE))
    try:
        config = UMTConfig(
            image_size=side * patch_size,
            patch_size=patch_size,
            num_frames=frames,
            num_channels=channels,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=len(blocks),
            num_attention_heads=width // UMT_HEAD_WIDTH,
        )
    except StrictDataclassClassValidationError as error:
        raise ConversionError(f"The checkpoint is of no UMT model ({error.__cause__ or error}).") from error
    if "pos_embed" not in state:
        state["pos_embed"] = sinusoidal_table(of_pretraining, width).unsqueeze(0).to(patch.dtype)
    return load(UMTModel, config, state), unused


def split(state: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors that the network uses, by names without prefix, and the full names of those known to be unused."""
    used, unused = {}, []
    for full_name, tensor in state.items():
        name = re.sub(PREFIXES[kind], "", full_name)
        if re.fullmatch(UNUSED[kind], name):
            unused.append(full_name)
        elif name in used:
            raise ConversionError(f"The checkpoint has {name} twice, under different prefixes.")
        else:
            used[name] = tensor
    return used, unused


def load(model_class: type[Network], config: PreTrainedConfig, state: dict[str, torch.Tensor]) -> Network:
    """
    A network in evaluation mode that holds the given tensors themselves; unless they are exactly its own, a
    RuntimeError.
    """
    with torch.device("meta"):
        model = model_class(config)
    if wrong := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise RuntimeError(f"{wrong[0]} holds no floating-point numbers")
    ours = {original_name(name): name for name in model.state_dict()}
    model.load_state_dict({ours.get(name, name): tensor.contiguous() for name, tensor in state.items()}, assign=True)
    return model.eval()


def original_name(name: str) -> str:
    """The name in the checkpoint of one of our tensors."""
    for pattern, replacement, offset in RENAMINGS:
        if found := re.search(pattern, name):
            numbers = [int(number) + offset for number in found.groups()]
            name = name[: found.start()] + replacement.format(*numbers) + name[found.end() :]
    return name
