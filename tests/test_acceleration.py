"""What makes the encoder faster, against the formula of attention and against the network as it was."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from salfom_hf import SalFoMForVideoSaliencyPrediction, SaliencyPredictor
from salfom_hf.inference import cpu
from salfom_hf.inference.cpu import (
    TILED,
    OneDNNLinear,
    computes_in_hardware,
    fastest,
    measure,
    prepare_for_inference,
    tiled_attention,
)

CLIPS = torch.randn(2, 4, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def chosen(monkeypatch, layers, attention):
    """Have the measurement come out like this."""
    monkeypatch.setattr(cpu, "measure", lambda dtype, threads: (layers, attention))


@pytest.fixture
def model(umt_folder):
    """Of its own for each test, which may change it, and as it is before anything prepared it."""
    return SalFoMForVideoSaliencyPrediction.from_pretrained(umt_folder)


@pytest.mark.parametrize("product", TILED.values(), ids=TILED)
@pytest.mark.parametrize("tokens", [1, 24, 256, 600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_tiles_make_up_the_attention_of_the_formula(product, tokens, dtype, tolerance):
    torch.manual_seed(0)
    # Strided like the parts of a fused projection.
    qkv = torch.randn(2, tokens, 3, 3, 16).to(dtype)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    weights = (query.double() @ key.double().transpose(2, 3) * 0.25).softmax(-1)
    with torch.inference_mode():
        found = tiled_attention(query, key, value, 0.25, product)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), weights @ value.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("layers", ["blas", "onednn"])
@pytest.mark.parametrize("attention", ["sdpa", *TILED])
def test_a_prepared_model_gives_the_same_maps(model, monkeypatch, layers, attention):
    chosen(monkeypatch, layers, attention)
    with torch.inference_mode():
        expected = model(CLIPS).saliency
        prepared = prepare_for_inference(model)(CLIPS).saliency
    assert expected.std() > 0.01
    torch.testing.assert_close(prepared, expected, atol=1e-6, rtol=0)
    assert isinstance(model.salfom.encoder.layers[0].mlp.fc1, OneDNNLinear) == (layers == "onednn")
    assert model.salfom.encoder.config._attn_implementation == attention


def test_preparing_changes_neither_weights_nor_training_nor_what_is_saved(model, monkeypatch, tmp_path):
    before = copy.deepcopy(model)
    chosen(monkeypatch, "onednn", "tiled_onednn")
    prepare_for_inference(model)
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
    loaded = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path / "after")
    assert loaded.salfom.encoder.config._attn_implementation == "sdpa"


def test_a_prepared_model_is_exported_as_any_other(model, monkeypatch):
    chosen(monkeypatch, "onednn", "tiled_onednn")
    prepare_for_inference(model)
    with torch.no_grad():
        program = torch.export.export(model, (CLIPS,), strict=False)
    assert not [node.name for node in program.graph.nodes if "mkldnn" in str(node.target)]


def test_weights_loaded_later_count(model, monkeypatch):
    chosen(monkeypatch, "onednn", "tiled_onednn")
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for weight in changed.salfom.encoder.parameters():
            weight.mul_(1.5)
    prepare_for_inference(model)
    with torch.inference_mode():
        before = model(CLIPS).saliency
        model.load_state_dict(changed.state_dict())
        torch.testing.assert_close(model(CLIPS).saliency, changed(CLIPS).saliency, atol=1e-6, rtol=0)
        assert (model(CLIPS).saliency - before).abs().max() > 1e-3


def test_predictors_prepare_their_model(model, processor, monkeypatch):
    chosen(monkeypatch, "onednn", "tiled_blas")
    predictor = SaliencyPredictor(model, processor)
    assert predictor.model.salfom.encoder.config._attn_implementation == "tiled_blas"
    assert isinstance(predictor.model.salfom.encoder.layers[0].attention.qkv, OneDNNLinear)


def test_attentions_can_be_asked_for(model, monkeypatch):
    chosen(monkeypatch, "blas", "tiled_blas")
    model.salfom.encoder.set_attn_implementation("eager")
    prepare_for_inference(model)
    with torch.inference_mode():
        attentions = model(CLIPS[:1], output_attentions=True).attentions
    assert attentions[0].shape == (1, 2, 96, 96)


def test_models_without_anything_to_gain_are_left_alone(framewise_model, model, monkeypatch):
    def refuse(dtype, threads):
        raise AssertionError("measured for nothing")

    monkeypatch.setattr(cpu, "measure", refuse)
    prepare_for_inference(framewise_model)
    prepare_for_inference(model.to(torch.float16))
    prepare_for_inference(model.to(torch.float32).to("meta"))


def test_the_faster_way_is_taken_and_broken_ones_are_not():
    few, many = torch.rand(8, 8), torch.rand(700, 700)

    def slow(tensor):
        return many @ many

    def broken(tensor):
        raise RuntimeError("could not create a primitive")

    assert fastest({"slow": slow, "broken": broken, "fast": torch.sin}, few) == "fast"
    assert fastest({"same": torch.sin, "likewise": torch.sin, "slow": slow, "broken": broken}, many) != "slow"
    assert fastest({"only": torch.sin, "broken": broken}, few) == "only"


def test_this_machine_is_measured_once(monkeypatch):
    measure.cache_clear()
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: calls.append(args))
    monkeypatch.setattr(cpu, "fastest", lambda ways, *arguments: [way(*arguments) for way in ways.values()])
    measure(torch.float32, 1)
    measure(torch.float32, 1)
    measure.cache_clear()
    assert len(calls) == 1


def test_layers_elsewhere_than_on_a_cpu_stay_with_pytorch():
    layer = nn.Linear(4, 3, device="meta")
    layer.__class__ = OneDNNLinear
    with torch.inference_mode():
        assert layer(torch.empty(2, 4, device="meta")).shape == (2, 3)


NO_BFLOAT16 = """
import torch
from salfom_hf.inference.cpu import computes_in_hardware, measure, onednn_linear

inputs, weight, bias = torch.rand(5, 8), torch.rand(3, 8), torch.rand(3)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    ours = [tensor.to(dtype) for tensor in (inputs, weight, bias)]
    torch.testing.assert_close(onednn_linear(*ours), torch.nn.functional.linear(*ours))
    if not computes_in_hardware(dtype):
        assert measure(dtype, 1) == ("blas", "sdpa")
assert computes_in_hardware(torch.float32)
"""


def test_a_cpu_limited_to_avx2_falls_back_to_pytorch():
    """In a process of its own, as oneDNN reads its limit once; on an ARM CPU the limit does not count."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", NO_BFLOAT16], env={**os.environ, **limits}, check=True)


@pytest.fixture
def untried():
    """What was found before is forgotten, and what is found in the test, too."""
    caches = cpu.tried_onednn, computes_in_hardware, cpu.measure
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("error", [RuntimeError("could not create a primitive"), AttributeError("_linear_pointwise")])
def test_what_onednn_cannot_do_is_never_taken(model, monkeypatch, untried, error):
    """Whatever flags say, as builds without oneDNN have it, or CPUs that are less than they seem."""
    tried = []

    def broken(*_):
        tried.append(0)
        raise error

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken, raising=False)
    inputs, weight = torch.rand(2, 8), torch.rand(3, 8)
    torch.testing.assert_close(cpu.onednn_linear(inputs, weight), F.linear(inputs, weight))
    layers, attention = measure(torch.float32, 1)
    assert (layers, attention != "tiled_onednn") == ("blas", True)
    assert not computes_in_hardware(torch.bfloat16)
    prepare_for_inference(model)
    chosen(monkeypatch, "onednn", "tiled_onednn")
    with torch.inference_mode():
        expected = model(CLIPS).saliency
        torch.testing.assert_close(prepare_for_inference(model)(CLIPS).saliency, expected, atol=1e-6, rtol=0)
    assert len(tried) == 2  # Once for each dtype.


@pytest.mark.parametrize(
    ("machine", "capabilities", "units"),
    [
        ("x86_64", {"avx512_bf16": True}, True),
        ("x86_64", {"amx_bf16": True}, True),
        ("x86_64", {"avx512_f": True, "avx512_bf16": False}, False),  # oneDNN emulates it there.
        ("aarch64", {"bf16": True}, True),
        ("aarch64", {"neon": True}, False),
        ("riscv64", {}, False),
        ("aarch64", None, True),  # An older PyTorch, which names no instructions.
        ("riscv64", None, False),
    ],
)
def test_units_for_bfloat16(machine, capabilities, units, monkeypatch, untried):
    monkeypatch.setattr(cpu, "tried_onednn", lambda dtype: True)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_in_hardware(torch.bfloat16) == units
    assert computes_in_hardware(torch.float32)
    assert computes_in_hardware(torch.float64)
