"""Convolutions with packed weights against a convolution in double precision."""

import pytest
import torch
from torch.nn import functional as F

from salfom_hf.inference import cpu
from salfom_hf.inference.cpu import PackedConvolution

CASES = [
    {"inputs": 8, "outputs": 12, "kernel": 1},
    {"inputs": 8, "outputs": 12, "kernel": 3, "padding": (1, 1), "activation": "relu"},
    {"inputs": 3, "outputs": 16, "kernel": 4, "stride": (2, 2), "padding": (1, 1), "activation": "relu6"},
    {"inputs": 16, "outputs": 16, "kernel": 5, "padding": (2, 2), "groups": 16, "activation": "relu6"},
    {"inputs": 6, "outputs": 1, "kernel": 3, "padding": (1, 1), "bias": False},
]


def case(inputs, outputs, kernel, bias=True, **options):
    generator = torch.Generator().manual_seed(0)
    weight = 4 * torch.randn(outputs, inputs // options.get("groups", 1), kernel, kernel, generator=generator)
    return weight, torch.randn(outputs, generator=generator) if bias else None, options


def exact(features, weight, bias, stride=(1, 1), padding=(0, 0), groups=1, activation=None):
    bias = None if bias is None else bias.double()
    result = F.conv2d(features.double(), weight.double(), bias, stride, padding, 1, groups)
    return result.clamp(0, {"relu": float("inf"), "relu6": 6.0}[activation]) if activation else result


@pytest.fixture(params=["fused", "plain"])
def way(request, monkeypatch):
    """Both ways; that the public one is taken where the other is not offered."""
    if request.param == "fused" and not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch was built without oneDNN.")
    if request.param == "plain":
        monkeypatch.delattr(cpu.torch._C._nn, "mkldnn_reorder_conv2d_weight")
    return request.param


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("context", [torch.inference_mode, torch.enable_grad])
def test_any_number_and_size_of_inputs(way, options, context):
    weight, bias, options = case(**options)
    with context():
        convolution = PackedConvolution(torch.nn.Parameter(weight), bias, **options)
        # The weight is laid out for the first of these, and holds for all.
        for count, rows, columns in ((2, 12, 20), (1, 12, 20), (5, 12, 20), (2, 7, 9)):
            features = torch.randn(count, weight.shape[1] * options.get("groups", 1), rows, columns)
            features = features.contiguous(memory_format=torch.channels_last)
            given = features.clone()
            found = convolution(features)
            wanted = exact(features, weight, bias, **options)
            assert not found.requires_grad
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found.double(), wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)
            assert torch.equal(features, given)
    assert (convolution.packed is not None) == (way == "fused")


@pytest.mark.parametrize("options", CASES, ids=str)
def test_bfloat16(options):
    weight, bias, options = case(**options)
    weight, bias = weight.bfloat16(), None if bias is None else bias.bfloat16()
    features = torch.randn(2, weight.shape[1] * options.get("groups", 1), 12, 20).bfloat16()
    found = PackedConvolution(weight, bias, **options)(features.contiguous(memory_format=torch.channels_last))
    wanted = exact(features, weight, bias, **options)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, atol=0.01 * float(wanted.abs().max()), rtol=0)


def test_errors_are_those_of_a_convolution(way):
    weight, bias, options = case(**CASES[1])
    with pytest.raises(RuntimeError, match="channels"):
        PackedConvolution(weight, bias, **options)(torch.zeros(1, 5, 12, 20))


def test_what_went_well_before_stays_packed(monkeypatch):
    weight, bias, options = case(**CASES[1])
    convolution = PackedConvolution(weight, bias, **options)
    features = torch.randn(1, 8, 12, 20).contiguous(memory_format=torch.channels_last)
    expected = convolution(features)

    def full(*_):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(convolution, "fused", full)
    with pytest.raises(RuntimeError, match="memory"):
        convolution(features)
    monkeypatch.undo()
    assert convolution.can_pack
    assert torch.equal(convolution(features), expected)


def test_exported_graphs_hold_public_operations_only():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = torch.nn.Conv2d(8, 12, 3)

        def forward(self, features):
            return PackedConvolution(self.convolution.weight, self.convolution.bias, activation="relu")(features)

    features = torch.randn(1, 8, 12, 20)
    with torch.no_grad():
        program = torch.export.export(Network().eval(), (features,), strict=False)
    assert not [node.name for node in program.graph.nodes if "mkldnn" in str(node.target)]
