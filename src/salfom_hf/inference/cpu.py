"""Computing faster on a CPU: memory that is kept, threads, and what UMT's encoder gains."""

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
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

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


def allowed_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """[`tiled_attention`] for transformers, and PyTorch's fused attention in training or with a mask."""
    if eligible(query) and attention_mask is None and not kwargs.get("dropout"):
        return tiled_attention(query, key, value, scaling).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


# The name under which transformers knows it. Encoders may be set to it by hand, too.
TILED = "tiled_blas"
AttentionInterface.register(TILED, tiled_attention_forward)


def exact_float32() -> None:
    """
    Have GPUs compute float32 as float32 and not as TF32, which has 10 bits of mantissa and is PyTorch's default for
    convolutions. The setting is that of the whole process: for programs, not for libraries.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def prepare_for_inference(model: SalFoMForVideoSaliencyPrediction) -> SalFoMForVideoSaliencyPrediction:
    """
    Have the encoder of the paper's model compute faster on a CPU, in place, for the model's device and dtype as they
    are now; other models, and an attention that was chosen by hand, are left as they are. Results stay what they are
    up to rounding; weights, their names and training are not touched.
    """
    encoder, dtype = model.salfom.encoder, model.dtype
    if encoder.config.model_type != "umt" or model.device.type != "cpu":
        return model
    if dtype == torch.bfloat16 and computes_in_hardware(dtype) and encoder.config._attn_implementation == "sdpa":
        encoder.set_attn_implementation(TILED)
    if dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512":
        for module in encoder.modules():
            if type(module) is nn.Linear:
                # Changing the class keeps parameters, names and loaded weights as they are.
                module.__class__ = OneDNNLinear
    return model
