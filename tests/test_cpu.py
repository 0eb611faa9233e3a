"""What makes the CPU faster: kept memory, and the ways of UMT's encoder, which give the same."""

import copy
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from salfom_hf import SalFoMForVideoSaliencyPrediction, SaliencyPredictor
from salfom_hf.inference import cpu
from salfom_hf.inference.cpu import (
    TILED,
    OneDNNLinear,
    computes_in_hardware,
    prepare_for_inference,
    tiled_attention,
)


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda _: pytest.fail("The C library was touched."))
    cpu.keep_freed_memory()


# The encoder of the paper's model.

CLIPS = torch.randn(2, 4, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(umt_folder):
    """Of its own for each test, which may change it, and as it is before anything prepared it."""
    return SalFoMForVideoSaliencyPrediction.from_pretrained(umt_folder)


def fast(model, monkeypatch):
    """Both ways at once, whatever this CPU is."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    prepare_for_inference(model)
    model.salfom.encoder.set_attn_implementation(TILED)
    assert isinstance(model.salfom.encoder.layers[0].mlp.fc1, OneDNNLinear)
    return model


@pytest.mark.parametrize("tokens", [1, 256, 600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_tiles_make_up_the_attention_of_the_formula(tokens, dtype, tolerance):
    torch.manual_seed(0)
    # Strided like the parts of a fused projection.
    qkv = torch.randn(2, tokens, 3, 3, 16).to(dtype)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query.double() @ key.double().transpose(2, 3) * 0.25).softmax(-1)
    with torch.inference_mode():
        found = tiled_attention(query, key, value, 0.25)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), weights @ value.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("onednn", [True, False])
def test_a_prepared_model_gives_the_same_maps(model, monkeypatch, onednn):
    if not onednn:  # As in some builds of PyTorch.

        def broken(*_):
            raise RuntimeError("could not create a primitive")

        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken, raising=False)
    with torch.inference_mode():
        expected = model(CLIPS).saliency
        assert expected.std() > 0.01
        torch.testing.assert_close(fast(model, monkeypatch)(CLIPS).saliency, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "capability", "hardware", "tiled", "onednn"),
    [
        (torch.float32, "AVX512", True, False, True),
        (torch.float32, "AVX2", True, False, False),
        (torch.bfloat16, "AVX512", True, True, False),
        (torch.bfloat16, "AVX512", False, False, False),
    ],
)
def test_predictors_prepare_their_model(
    model, processor, monkeypatch, emulates, dtype, capability, hardware, tiled, onednn
):
    emulates(*([] if hardware else ["bfloat16"]))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    encoder = SaliencyPredictor(model.to(dtype), processor).model.salfom.encoder
    assert encoder.config._attn_implementation == (TILED if tiled else "sdpa")
    assert isinstance(encoder.layers[0].attention.qkv, OneDNNLinear) == onednn


def test_preparing_changes_neither_weights_nor_training_nor_what_is_saved(model, monkeypatch, tmp_path):
    before = copy.deepcopy(model)
    fast(model, monkeypatch)
    assert list(model.state_dict()) == list(before.state_dict())
    losses = []
    for network in (before, model):
        loss = network.train()(CLIPS, labels=torch.ones(2, 64, 96).cumsum(1)).loss
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[1], losses[0])
    for (name, expected), found in zip(before.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
    for network, name in ((before, "before"), (model, "after")):
        network.save_pretrained(tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "after" / file).read_bytes() == (tmp_path / "before" / file).read_bytes()


def test_a_prepared_model_is_exported_as_any_other(model, monkeypatch):
    fast(model, monkeypatch)
    with torch.no_grad():
        program = torch.export.export(model, (CLIPS,), strict=False)
    assert not [node.name for node in program.graph.nodes if "mkldnn" in str(node.target)]


def test_what_is_left_as_it_is(model):
    model.salfom.encoder.set_attn_implementation("eager")  # Chosen by hand.
    prepare_for_inference(model)
    with torch.inference_mode():
        assert model(CLIPS[:1], output_attentions=True).attentions[0].shape == (1, 2, 96, 96)
        layer = nn.Linear(4, 3, device="meta")
        layer.__class__ = OneDNNLinear
        assert layer(torch.empty(2, 4, device="meta")).shape == (2, 3)


@pytest.mark.parametrize(
    ("capabilities", "units"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"bf16": True}, True),
        ({"neon": True}, False),
        (None, True),  # An older PyTorch, which names no instructions.
    ],
)
def test_units_for_bfloat16(capabilities, units, monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_in_hardware(torch.bfloat16) == units
    assert computes_in_hardware(torch.float32)
    assert computes_in_hardware(torch.float64)


# In a process of its own, as it cannot be taken back: forks, and then the allocator. Blocks of 64 MiB are made, used
# and freed; the median of the page faults of each, as now and then something small is put where the last one was.
PROCESS = """
import os, resource, statistics, sys
import numpy as np
import torch
from salfom_hf import SaliencyPredictor
from salfom_hf.inference.cpu import keep_freed_memory

torch.set_num_threads(2)
frames = np.zeros((3, 64, 96, 3), np.uint8)
for folder in sys.argv[1:]:
    predictor = SaliencyPredictor.from_pretrained(folder)
    maps = predictor.predict(frames)
    child = os.fork()
    if not child:
        same = np.abs(predictor.predict(frames) - maps).max() < 1e-5
        os._exit(0 if same and SaliencyPredictor.from_pretrained(folder).predict(frames).shape == maps.shape else 1)
    if status := os.waitpid(child, 0)[1]:
        sys.exit(status)
keep_freed_memory()
counts = []
for _ in range(25):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1.0)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(counts))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_a_forked_process_can_predict_and_freed_memory_is_used_again(umt_folder, model_folder):
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(umt_folder), str(model_folder)]
    faults = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=240).stdout
    if platform.libc_ver()[0] == "glibc":  # Others keep more by themselves.
        assert float(faults) < 10
