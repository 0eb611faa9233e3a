"""The light encoder as an ONNX graph: valid, and with the features of PyTorch's network; and when it is used."""

import copy

import onnx
import pytest
import torch
from torch import nn

from conftest import DECODER
from salfom_hf import EfficientNetLiteConfig, SalFoMConfig, SalFoMForVideoSaliencyPrediction
from salfom_hf.inference.encoder_graph import FrameEncoder, can_be_a_graph, encoder_model, encoder_session

SMALL = {"stem_channels": 8, "stage_channels": (8,) * 7, "stage_depths": (1,) * 7}


def network(projected=8, **encoder):
    """With batch norms that do something."""
    torch.manual_seed(0)
    config = SalFoMConfig(encoder_config=EfficientNetLiteConfig(**encoder), **DECODER, decoder_hidden_size=projected)
    model = SalFoMForVideoSaliencyPrediction(config).eval()
    for module in model.salfom.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize(
    "encoder",
    [{}, SMALL, {**SMALL, "stage_depths": (2,) * 7, "stage_kernels": (5,) * 7}],
    ids=["full", "small", "wide"],
)
def test_the_graph_gives_the_features_of_the_network(encoder):
    model = network(**encoder)
    graph = encoder_model(model.salfom)
    onnx.checker.check_model(graph, full_check=True)
    session = encoder_session(model.salfom, threads=2)
    for count, height, width in ((1, 32, 64), (3, 96, 32), (2, 160, 224)):
        pixels = torch.randn(count, 3, height, width)
        with torch.inference_mode():
            expected = model.encode_frames(pixels)
        assert expected.std() > 0.01
        (found,) = session.run(None, {"pixels": pixels.numpy()})
        tolerance = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=tolerance, rtol=0)


def test_the_shipped_model_uses_it():
    model = SalFoMForVideoSaliencyPrediction.from_pretrained("salfom", dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 96, 128).contiguous(memory_format=torch.channels_last)
    encoder = FrameEncoder(model.salfom)
    assert encoder.session is not None
    with torch.inference_mode():
        expected, found = model.encode_frames(pixels), encoder(pixels)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("options", "dtype", "tolerance"),
    [
        ({"projected": None, **SMALL}, torch.float32, 1e-5),
        ({}, torch.bfloat16, 0.05),
        ({**SMALL, "stage_kernels": (5,) * 7}, torch.bfloat16, 0.05),
    ],
    ids=str,
)
def test_what_pytorch_computes(options, dtype, tolerance):
    model = network(**options).to(dtype)
    graph = FrameEncoder(model.salfom)
    assert not can_be_a_graph(model.salfom)
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        norms = any(isinstance(part, nn.BatchNorm2d) for part in graph.encoder.modules())
        assert norms == (dtype == torch.float32)
    for size in ((64, 64), (96, 160)):
        pixels = torch.randn(2, 3, *size, dtype=dtype)
        with torch.inference_mode():
            # Of the same weights, but computed in float32.
            expected, found = copy.deepcopy(model).float().encode_frames(pixels.float()), graph(pixels)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance * float(expected.abs().max()), rtol=0)
