"""Computing faster on a CPU: memory that is kept, threads, packed weights, and what UMT's encoder gains."""

import copy
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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


def keep_freed_memory() -> None:
    """
    Keep what is freed for the next allocation: by default, glibc gives each large block back to the system, and that
    its pages are then cleared and mapped again takes longer than many of the network's layers. The setting is that of
    the whole process, for good: for programs, not for libraries. Where the C library is another one, nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def pytorch_function(name: str) -> Callable[[int], int]:
    """A function of the C libraries that PyTorch computes with; one that does nothing where there is none."""
    try:
        return getattr(ctypes.CDLL("libtorch_cpu.so"), name)  # Loaded by now, and found by its name wherever it lies.
    except (AttributeError, OSError):
        return lambda _: 0


if hasattr(os, "register_at_fork"):
    # OpenMP's threads are not in a forked process, which would wait for them for ever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

# For the calling thread alone: `torch.set_num_threads` sets the number of threads that start later, too.
set_openmp_threads = pytorch_function("omp_set_num_threads")

set_mkl_threads = pytorch_function("MKL_Set_Num_Threads_Local")


@contextmanager
def pytorch_threads(count: int) -> Iterator[None]:
    """
    Let PyTorch compute on `count` threads where this thread calls it, and as before thereafter. On other systems than
    Linux nothing changes: what runs side by side shares all threads.
    """
    # A thread takes its number with its first look at it, which would come too late.
    before = torch.get_num_threads()
    set_openmp_threads(count)
    before_mkl = set_mkl_threads(count)
    try:
        yield
    finally:
        set_openmp_threads(before)
        set_mkl_threads(before_mkl)


# What follows, as oneDNN calls it: name, arguments.
ACTIVATIONS = {None: ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}


class PackedConvolution:
    """
    A 2-D convolution of channels-last features with a weight that stays as it is, and an activation that is named in
    `ACTIVATIONS`; without gradients.

    On a CPU, oneDNN computes both in one go, with the weight in the layout that suits the size of the first input; a
    plain convolution would bring the weight into it with every call. Elsewhere, and in builds of PyTorch that do not
    offer this, it is a plain convolution.
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
        self.can_pack = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, inputs, rows, columns)` to `(batch, outputs, …)`, both channels-last."""
        if self.can_pack:
            try:
                return self.fused(features)
            except (AttributeError, RuntimeError):  # These are not part of PyTorch's public interface.
                if self.packed is not None:  # What went well before fails for another reason, such as lack of memory.
                    raise
                self.can_pack = False
        return self.plain(features)

    def fused(self, features: torch.Tensor) -> torch.Tensor:
        packed = self.packed
        if packed is None:
            pack: Callable = torch._C._nn.mkldnn_reorder_conv2d_weight  # PyTorch's annotations lack an argument.
            packed = pack(self.weight.to_mkldnn(), *self.geometry, features.shape)
        name, arguments = ACTIVATIONS[self.activation]
        result = torch.ops.mkldnn._convolution_pointwise(
            features, packed, self.bias, *self.geometry, name, arguments, ""
        )
        self.packed = packed
        return result

    def plain(self, features: torch.Tensor) -> torch.Tensor:
        padding, stride, dilation, groups = self.geometry
        features = F.conv2d(features, self.weight, self.bias, stride, padding, dilation, groups)
        if self.activation == "relu":
            features.relu_()
        elif self.activation == "relu6":
            features.clamp_(0, 6)
        return features


class FoldedConvNorm(nn.Module):
    """What a [`ConvNorm`] computes in evaluation mode, as one convolution."""

    def __init__(self, norm: ConvNorm):
        super().__init__()
        dtype = norm[0].weight.dtype
        self.convolution = fuse_conv_bn_eval(*copy.deepcopy(norm).float()).to(dtype).requires_grad_(False)
        weight, padding = self.convolution.weight, self.convolution.padding
        if norm.asymmetric:
            # A zero in front of the kernel makes the padding symmetric, without a padded copy of the input.
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (norm.kernel // 2,) * 2
        stride, groups = self.convolution.stride, self.convolution.groups
        activation = "relu6" if norm.activation else None
        self.packed = PackedConvolution(weight, self.convolution.bias, stride, padding, groups, activation)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.packed(features)


def folded(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy with the batch norms of EfficientNet-Lite folded into packed convolutions; any other encoder as it is."""
    if not any(isinstance(module, ConvNorm) for module in encoder.modules()):
        return encoder
    model = copy.deepcopy(encoder)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvNorm):
                setattr(parent, name, FoldedConvNorm(child))
    return model


# What `torch.cpu.get_capabilities` calls the instructions that compute in a dtype: of x86, then of ARM.
UNITS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx_ne_convert", "fp16_arith"),
}


def computes_in_hardware(dtype: torch.dtype) -> bool:
    """
    Whether this CPU has instructions for a dtype; without them PyTorch emulates `torch.bfloat16` and `torch.float16`,
    up to a hundred times slower than it computes `torch.float32`. Older versions of PyTorch do not know: then, yes.
    """
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return dtype not in UNITS or not known or any(known.get(unit, False) for unit in UNITS[dtype])


def eligible(inputs: torch.Tensor) -> bool:
    """Whether the ways of this module can take the place of PyTorch's."""
    if torch.compiler.is_exporting():  # A program for other machines may not name oneDNN.
        return False
    return inputs.device.type == "cpu" and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


def onednn_linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear` on a CPU by oneDNN, or PyTorch's own where oneDNN cannot; without gradients."""
    try:
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return F.linear(inputs, weight, bias)


class OneDNNLinear(nn.Linear):
    """A linear layer that oneDNN computes in inference on a CPU; with gradients or elsewhere it is like any other."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if eligible(inputs) and inputs.dtype == self.weight.dtype:
            return onednn_linear(inputs, self.weight, self.bias)
        return super().forward(inputs)


# Queries per tile: their scores, against all keys, stay in the cache from the first product to the second.
TILE = 256


def tiled_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """
    Attention of `(batch, heads, tokens, head_dim)`, head by head, in tiles of `TILE` queries and all keys: matrix
    products large enough for full speed, and scores small enough for the cache.
    """
    query, key, value = (query * scaling).contiguous(), key.contiguous(), value.contiguous()
    attended = torch.empty_like(query)
    # One buffer for all tiles: a new one each time would cost as much as the softmax.
    buffer = query.new_empty(TILE, key.shape[2])
    heads = zip(*(tensor.flatten(0, 1) for tensor in (query, key, value, attended)), strict=True)
    for head_query, head_key, head_value, head_attended in heads:
        for tile, tile_attended in zip(head_query.split(TILE), head_attended.split(TILE), strict=True):
            scores = torch.mm(tile, head_key.T, out=buffer[: len(tile)])
            torch.softmax(scores, dim=-1, out=scores)
            torch.mm(scores, head_value, out=tile_attended)
    return attended


def tiled_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[`tiled_attention`] for transformers, and PyTorch's fused attention in training or with a mask."""
    if eligible(query) and attention_mask is None and not dropout:
        return tiled_attention(query, key, value, scaling).transpose(1, 2), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


# The name under which transformers knows it. Encoders may be set to it by hand, too.
TILED = "tiled_blas"

AttentionInterface.register(TILED, tiled_attention_forward)


def exact_float32() -> None:
    """
    Have GPUs compute float32 as float32 and not as TF32, which has 10 bits of mantissa and is PyTorch's default for
    convolutions. The setting is that of the whole process: for programs, not for libraries.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def accelerable(encoder: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this module has ways of its own for an encoder, in a dtype and on a device."""
    return encoder.config.model_type == "umt" and dtype in (torch.float32, torch.bfloat16) and device.type == "cpu"


def prepare_for_inference(model: SalFoMForVideoSaliencyPrediction) -> SalFoMForVideoSaliencyPrediction:
    """
    Have the encoder of the paper's model compute faster on a CPU, in place, for the model's device and dtype as they
    are now; other models, and an attention that was chosen by hand, are left as they are. Results stay what they are
    up to rounding; weights, their names and training are not touched.
    """
    encoder = model.salfom.encoder
    if not accelerable(encoder, model.dtype, model.device):
        return model
    if model.dtype == torch.bfloat16:
        if computes_in_hardware(torch.bfloat16) and encoder.config._attn_implementation == "sdpa":
            encoder.set_attn_implementation(TILED)
    elif torch.backends.cpu.get_cpu_capability() == "AVX512":
        for module in encoder.modules():
            if type(module) is nn.Linear:
                # Changing the class keeps parameters, names and loaded weights as they are.
                module.__class__ = OneDNNLinear
    return model
