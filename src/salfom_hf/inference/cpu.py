"""The C library's allocator, set for a program that makes and frees tensors of the same sizes over and over."""

import copy
import ctypes
import platform
import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..models.modeling_efficientnet_lite import ConvNorm
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """
    Keep what is freed for the next allocation, instead of giving it back to the system.

    By default, glibc fetches each large block from the system and gives it back; that its pages are then cleared and
    mapped anew takes longer than many of the network's layers. The setting is that of the whole process and is not
    meant to change again: for programs, not for libraries. Where the C library is another one, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
        mallopt(M_TOP_PAD, 64 * 2**20)


# What follows, as oneDNN calls it: name, arguments.
ACTIVATIONS = {None: ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}


class PackedConvolution:
    """
    A 2-D convolution of channels-last features with a weight that stays as it is.

    On a CPU, oneDNN computes convolution and activation in one go, with the weight in the layout that suits the size
    of the first input; a plain convolution would bring the weight into it with every call. Elsewhere, and in builds
    of PyTorch that do not offer this, it is a plain convolution.

    Args:
        weight: `(outputs, inputs, height, width)`.
        bias: `(outputs,)`.
        stride, padding, groups: as of a convolution.
        activation: a name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        activation: str | None = None,
    ):
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias, self.activation = None if bias is None else bias.detach(), activation
        self.geometry = padding, stride, (1, 1), groups
        self.packed: torch.Tensor | None = None
        self.works = False
        known = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        # Graphs that are traced for other programs are made of plain convolutions.
        self.can_pack = known and not torch.compiler.is_compiling()

    def __getstate__(self) -> dict:
        # oneDNN's layouts are of one machine, and cannot be copied: they are made again with the next input.
        return {**self.__dict__, "packed": None, "works": False}

    def plain(self, features: torch.Tensor) -> torch.Tensor:
        padding, stride, dilation, groups = self.geometry
        features = F.conv2d(features, self.weight, self.bias, stride, padding, dilation, groups)
        if self.activation == "relu":
            features.relu_()
        elif self.activation == "relu6":
            features.clamp_(0, 6)
        return features

    def fused(self, features: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            self.packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
                self.weight.to_mkldnn(), *self.geometry, features.shape
            )
        name, arguments = ACTIVATIONS[self.activation]
        return torch.ops.mkldnn._convolution_pointwise(
            features, self.packed, self.bias, *self.geometry, name, arguments, ""
        )

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, inputs, rows, columns)` to `(batch, outputs, …)`, both channels-last."""
        # A program that is exported is for other machines, and may not name oneDNN.
        if self.can_pack and not torch.compiler.is_exporting():
            try:
                result = self.fused(features)
            except (AttributeError, RuntimeError):  # These are not part of PyTorch's public interface.
                if self.works:  # What went well before fails for another reason, such as a lack of memory.
                    raise
                self.can_pack = False
            else:
                self.works = True
                return result
        return self.plain(features)


class FoldedConvNorm(nn.Module):
    """What a [`ConvNorm`] computes in evaluation mode, as one convolution."""

    def __init__(self, norm: ConvNorm):
        super().__init__()
        dtype = norm[0].weight.dtype
        self.convolution = fuse_conv_bn_eval(*copy.deepcopy(norm).float()).to(dtype).requires_grad_(False)
        weight, padding = self.convolution.weight, self.convolution.padding
        if norm.asymmetric:
            # A zero in front of the kernel makes the padding symmetric, without a padded copy of the input.
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (norm[0].kernel_size[0] // 2,) * 2
        stride, groups = self.convolution.stride, self.convolution.groups
        activation = "relu6" if norm.activation else None
        self.packed = PackedConvolution(weight, self.convolution.bias, stride, padding, groups, activation)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.packed(features)


def folded(encoder: PreTrainedModel) -> PreTrainedModel:
    """
    A copy for inference where the encoder is, with the batch norms of EfficientNet-Lite folded into convolutions of
    packed weights; any other encoder as it is.
    """
    if not any(isinstance(module, ConvNorm) for module in encoder.modules()):
        return encoder
    model = copy.deepcopy(encoder)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm):
                setattr(parent, name, FoldedConvNorm(child))
    return model


# Queries per tile: their scores, against all keys, stay in the cache from the first product to the second.
TILE = 256

# What another way must be faster by, before it is taken: less could be noise.
MARGIN = 1.1


def eligible(inputs: torch.Tensor) -> bool:
    """Whether the ways of this module can take the place of PyTorch's."""
    if torch.compiler.is_exporting():  # A program for other machines may not name oneDNN.
        return False
    return inputs.device.type == "cpu" and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


@lru_cache
@torch.inference_mode()
def tried_onednn(dtype: torch.dtype) -> bool:
    try:
        torch.ops.mkldnn._linear_pointwise(*torch.zeros(2, 8, 8, dtype=dtype), None, "none", [], "")
    except (AttributeError, RuntimeError):  # A build of PyTorch without oneDNN, or a CPU without what the dtype needs.
        return False
    return True


@torch.compiler.assume_constant_result  # Compiled programs hold the answer, and do not try.
def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of a dtype on this machine; tried once, as flags do not tell for sure."""
    return tried_onednn(dtype)


# What `torch.cpu.get_capabilities` calls the instructions that compute in a dtype: of x86, then of ARM.
UNITS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx_ne_convert", "fp16_arith"),
}


@lru_cache
def computes_in_hardware(dtype: torch.dtype) -> bool:
    """
    Whether this CPU has instructions for a dtype, and PyTorch uses them; without them it emulates `torch.bfloat16` and
    `torch.float16`, up to a hundred times slower than it computes `torch.float32`. Nothing is raised on any platform.
    """
    if dtype not in UNITS:
        return True
    if not onednn_computes(dtype):
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        return any(torch.cpu.get_capabilities().get(unit, False) for unit in UNITS[dtype])
    # Older versions of PyTorch. On ARM, oneDNN refuses what there are no instructions for; on x86 it may emulate them.
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if dtype == torch.bfloat16 else ()
    return any(getattr(torch.cpu, name, bool)() for name in known)


def onednn_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    `F.linear` by oneDNN, whatever PyTorch would take for this dtype; without gradients. Where oneDNN cannot, it is
    PyTorch's own.
    """
    if inputs.device.type != "cpu" or not onednn_computes(inputs.dtype):
        return F.linear(inputs, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


class OneDNNLinear(nn.Linear):
    """A linear layer that oneDNN computes in inference on a CPU; with gradients or elsewhere it is like any other."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if eligible(inputs) and inputs.dtype == self.weight.dtype:
            return onednn_linear(inputs, self.weight, self.bias)
        return super().forward(inputs)


def blas_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    torch.mm(left, right, out=out)


def onednn_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    out.copy_(onednn_linear(left, right.T))


def tiled_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, product: Callable[..., None]
) -> torch.Tensor:
    """
    Attention, head by head, in tiles of `TILE` queries and all keys: matrix products large enough for full speed,
    and scores small enough for the cache.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)`, of any strides.
        scaling: factor on the scores.
        product: what multiplies: `blas_product` or `onednn_product`.

    Returns:
        `(batch, heads, tokens, head_dim)`, in the dtype of `query`.
    """
    query, key, value = (query * scaling).contiguous(), key.contiguous(), value.contiguous()
    attended = torch.empty_like(query)
    # One buffer for all tiles: a new one each time would cost as much as the softmax.
    buffer = query.new_empty(TILE, key.shape[2])
    heads = zip(*(tensor.flatten(0, 1) for tensor in (query, key, value, attended)), strict=True)
    for head_query, head_key, head_value, head_attended in heads:
        for tile, tile_attended in zip(head_query.split(TILE), head_attended.split(TILE), strict=True):
            scores = buffer[: len(tile)]
            product(tile, head_key.T, scores)
            torch.softmax(scores, dim=-1, out=scores)
            product(scores, head_value, tile_attended)
    return attended


def tiled_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    product: Callable[..., None],
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """[`tiled_attention`] for transformers, and PyTorch's fused attention in training or with a mask."""
    if eligible(query) and attention_mask is None and not dropout:
        return tiled_attention(query, key, value, scaling, product).transpose(1, 2), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


# By the names under which transformers knows them. Encoders may be set to them by hand, too.
TILED = {"tiled_blas": blas_product, "tiled_onednn": onednn_product}

for name, product in TILED.items():
    AttentionInterface.register(name, partial(tiled_attention_forward, product=product))


def fastest(ways: dict[str, Callable], *arguments: torch.Tensor) -> str:
    """The name of the way that is fastest with these arguments; the first, unless another is clearly faster."""
    seconds = {name: float("inf") for name in ways}
    # In turns, so that what else the machine does hits all of them.
    for _ in range(5):
        for name, way in ways.items():
            begin = time.perf_counter()
            try:
                way(*arguments)
            except RuntimeError:
                continue
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    first, best = next(iter(ways)), min(seconds, key=seconds.get)
    return best if seconds[best] * MARGIN < seconds[first] else first


@lru_cache
@torch.inference_mode()
def measure(dtype: torch.dtype, threads: int) -> tuple[str, str]:
    """
    What is fastest on this machine, for products and heads of the size of the paper's model.

    Args:
        dtype: to compute in.
        threads: that PyTorch uses; they are not set here, but change the outcome.

    Returns:
        For linear layers `"blas"` or `"onednn"`; for attention `"sdpa"` or a name in `TILED`. PyTorch's own, the first
        of each, where the dtype is emulated.
    """
    if not computes_in_hardware(dtype):
        return "blas", "sdpa"
    rand = partial(torch.rand, dtype=dtype, generator=torch.Generator())  # The program's own random state stays.
    tokens, weight, bias = rand(1568, 1024), rand(1024, 1024), rand(1024)
    linear = {"blas": F.linear}
    tiled = {"tiled_blas": blas_product}
    if onednn_computes(dtype):
        linear["onednn"] = onednn_linear
        tiled = TILED
    layers = fastest(linear, tokens, weight, bias)
    query, key, value = rand(3, 1, 2, 1568, 64)
    ways = {"sdpa": F.scaled_dot_product_attention}
    ways |= {name: partial(tiled_attention, scaling=64**-0.5, product=product) for name, product in tiled.items()}
    return layers, fastest(ways, query, key, value)


def exact_float32() -> None:
    """
    Have GPUs compute float32 as float32 and not as TF32, which has 10 bits of mantissa and is PyTorch's default for
    convolutions. The setting is that of the whole process: for programs, not for libraries.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def accelerable(encoder: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this module has ways of its own for an encoder, in a dtype and on a device."""
    return encoder.config.model_type == "umt" and dtype in (torch.float32, torch.bfloat16) and device.type == "cpu"


def prepare_for_inference(model: SalFoMForVideoSaliencyPrediction) -> SalFoMForVideoSaliencyPrediction:
    """
    Have a model's encoder compute in the way that is fastest on this machine, in place. Results stay what they are up
    to rounding; weights, their names and training are not touched.

    Models that this has nothing for, those on other devices among them, are left as they are; so is an attention that
    was chosen by hand.

    Args:
        model: on the device and in the dtype to compute with.

    Returns:
        The model.
    """
    encoder = model.salfom.encoder
    if not accelerable(encoder, model.dtype, model.device):
        return model
    layers, attention = measure(model.dtype, torch.get_num_threads())
    if layers == "onednn":
        for module in encoder.modules():
            if type(module) is nn.Linear:
                # Changing the class keeps parameters, names and loaded weights as they are.
                module.__class__ = OneDNNLinear
    if encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(attention)
    return model


__all__ = [
    "PackedConvolution",
    "accelerable",
    "computes_in_hardware",
    "exact_float32",
    "keep_freed_memory",
    "measure",
    "onednn_linear",
    "prepare_for_inference",
    "tiled_attention",
]
