"""What windows share: the streaming decoder against the network on each window."""

import threading
from collections import Counter
from itertools import cycle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from conftest import DECODER
from salfom_hf import EfficientNetLiteConfig, SalFoMConfig, SalFoMForVideoSaliencyPrediction
from salfom_hf.inference import shared_windows
from salfom_hf.inference.encoder_graph import FrameEncoder
from salfom_hf.inference.predictor import saliency_maps
from salfom_hf.inference.shared_windows import (
    StreamingDecoder,
    can_share_windows,
    shared_maps,
)

FRAMES = torch.randn(20, 3, 32, 64, generator=torch.Generator().manual_seed(0))
BRANCHES = ("use_tcfe", "use_dfd", "use_sfd")


def network(**options):
    """A frame-wise model whose temporal weights differ from tap to tap, with logits of about one."""
    torch.manual_seed(0)
    encoder = EfficientNetLiteConfig(stem_channels=8, stage_channels=(8,) * 7, stage_depths=(1,) * 7)
    options = {
        **DECODER,
        "decoder_hidden_size": 8,
        "output_stride": 4,
        "center_prior": True,
        "motion_sharpness": 1.5,
        **options,
    }
    model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=encoder, **options)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * weight.std().nan_to_num())
        model.fusion.convolutions[-1].weight.div_(model(FRAMES[None, : options["num_frames"]]).logits.std())
    return model


@torch.inference_mode()
def by_window(model, frames=FRAMES):
    """Each frame's map from its own window, with copies of the first frame before the beginning."""
    back = torch.arange(model.config.num_frames).flip(0)
    windows = (torch.arange(len(frames))[:, None] - back).clamp_min(0)
    # `encode_frames` gives what `model(clip)` computes on the way, as its own test says.
    volumes = model.encode_frames(frames)[windows].transpose(1, 2)
    return model.decode(volumes, frames.shape[-2:]).sigmoid().float()


def streamed(model, frames=FRAMES, stride=1, batch_size=1):
    encode = FrameEncoder(model.salfom, shared_windows.encoder_threads())
    return torch.stack(list(shared_maps(model, iter(frames), stride, batch_size, encode)))


@pytest.fixture(scope="module")
def model():
    return network(num_frames=16)


@pytest.fixture(scope="module")
def expected(model):
    return by_window(model)


@pytest.mark.parametrize(
    ("num_frames", "options"),
    [
        *((num_frames, {"tcfe_depths": (2, 2, 2)}) for num_frames in (1, 2, 4, 8, 16)),
        *((num_frames, {"tcfe_depths": (6, 5, 4), "center_prior": False}) for num_frames in (1, 16)),
        *((4, {"output_stride": stride}) for stride in (1, 2)),
        *((8, {branch: False}) for branch in BRANCHES),
        *((16, {branch: branch == only for branch in BRANCHES}) for only in BRANCHES),
    ],
    ids=str,
)
def test_streaming_gives_the_maps_of_the_windows(num_frames, options):
    model = network(num_frames=num_frames, **options)
    assert can_share_windows(model)
    expected = by_window(model)
    assert (expected[1:] - expected[:-1]).abs().amax((1, 2)).min() > 1e-3
    # Rounding that differs, mostly by the folded batch norms, makes up to 1e-5 of a logit here.
    torch.testing.assert_close(streamed(model, batch_size=3), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stride", "batch_size"), [(1, 1), (1, 4), (2, 32), (3, 4), (16, 1), (19, 4), (50, 32)])
def test_strides_and_batches(model, expected, stride, batch_size):
    keys = sorted({*range(0, len(FRAMES), stride), len(FRAMES) - 1})
    found = streamed(model, stride=stride, batch_size=batch_size)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[keys], expected[keys], atol=1e-5, rtol=0)


def encoder_threads(monkeypatch, fail_at=None):
    """(thread, PyTorch's threads there) of each call of an encoder; one call fails on request."""
    seen, real = [], FrameEncoder.__call__

    def call(self, pixel_values):
        if len(seen) == fail_at:
            raise RuntimeError("no memory")
        seen.append((threading.current_thread(), torch.get_num_threads()))
        return real(self, pixel_values)

    monkeypatch.setattr(FrameEncoder, "__call__", call)
    return seen


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_encoder_runs_while_the_decoder_does_and_ends_with_the_stream(
    model, expected, monkeypatch, set_threads, batch_size
):
    seen = encoder_threads(monkeypatch)
    set_threads(3)
    torch.testing.assert_close(streamed(model, stride=4, batch_size=batch_size)[::4], expected[::4])
    assert len(seen) == len(FRAMES)
    assert {(thread is threading.main_thread(), threads) for thread, threads in seen} == {(False, 1)}
    set_threads(2)
    encode = FrameEncoder(model.salfom, shared_windows.encoder_threads())
    maps = shared_maps(model, cycle(FRAMES), 1, batch_size, encode)
    next(maps)
    # Between maps, the caller has all threads.
    assert torch.get_num_threads() == 2
    maps.close()
    assert torch.get_num_threads() == 2
    others = {thread for thread, _ in seen} - {threading.main_thread()}
    assert others
    assert not any(thread.is_alive() for thread in others)
    encoder_threads(monkeypatch, fail_at=7)
    with pytest.raises(RuntimeError, match="no memory"):
        streamed(model, batch_size=batch_size)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("depth", "outputs"),
    [
        (1, [1] * 8),
        # Shifted windows see the ends: of DFD's 4th step, 3 of 4 outputs become new with each frame, of its 5th both.
        (2, [1] * 6 + [2, 3]),
    ],
)
def test_what_windows_share_is_computed_once(monkeypatch, depth, outputs):
    """SFD's four temporal layers and DFD's four give one output for each frame, not 8 + 4 + 2 + 1 a window."""
    model = network(num_frames=16, tcfe_depths=(depth,) * 3)
    calls, run = Counter(), F.conv2d

    def counted(features, weight, *arguments, **options):
        if weight.shape[1:] == (16, 3, 3):  # two frames of eight channels
            calls[weight.data_ptr()] += len(features)
        return run(features, weight, *arguments, **options)

    monkeypatch.setattr(F, "conv2d", counted)
    with torch.inference_mode():
        decoder = StreamingDecoder(model, (32, 64))
        for index, features in enumerate(FrameEncoder(model.salfom)(FRAMES)):
            calls.clear()
            decoder.add_frame(features)
            decoder.maps([index])
    assert sorted(calls.values()) == outputs


def test_memory_does_not_grow_with_the_video(model):
    sizes = []
    with torch.inference_mode():
        encoder, decoder = FrameEncoder(model.salfom), StreamingDecoder(model, (32, 64))
        for index in range(60):
            decoder.add_frame(encoder(FRAMES[index % 20][None])[0])
            if index % 3 == 2:
                decoder.maps([index - 1, index])
                values = [value for node in decoder.nodes.values() for value in node.values.values()]
                sizes.append(sum(value.untyped_storage().nbytes() for value in values))
    assert len(set(sizes[6:])) == 1


def test_the_model_is_left_as_it_was(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    strides = [weight.stride() for weight in model.parameters()]
    streamed(model, FRAMES[:3])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert [weight.stride() for weight in model.parameters()] == strides
    model(FRAMES[None, :16]).logits.sum().backward()
    assert all(weight.grad is not None for weight in model.fusion.parameters())
    model.zero_grad(set_to_none=True)


def test_new_weights_count_from_the_next_video_on():
    model = network()
    before = streamed(model)
    with torch.no_grad():
        for part in (model.salfom.encoder.stem[1].bias, model.salfom.dfd.steps[1].weight):
            part.mul_(1.5)
    after = streamed(model)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, by_window(model), atol=1e-5, rtol=0)


class Doubled(nn.Module):
    """A linear layer as an adapter may replace it: its weight is not all that counts."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias, self.linear = linear.weight, linear.bias, linear

    def forward(self, features):
        return 2 * self.linear(features)


Doubled.__module__ = "peft.tuners.lora.layer"


def test_adapters_count():
    model = network()
    attention = model.salfom.tcfe.stages[0].blocks[0].attention
    attention.qkv = Doubled(attention.qkv)
    assert not can_share_windows(model)
    encoded = []
    model.salfom.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    found = torch.stack(list(saliency_maps(model, iter(FRAMES), batch_size=3)))
    assert encoded == [3] * 6 + [2]  # Every frame once, though no window is taken apart.
    torch.testing.assert_close(found, by_window(model), atol=1e-5, rtol=0)


def test_bfloat16_is_close():
    model = network(num_frames=16)
    expected = by_window(model)
    rounded = streamed(model.to(torch.bfloat16), FRAMES.to(torch.bfloat16))
    assert rounded.dtype == torch.float32
    assert torch.corrcoef(torch.stack([rounded.flatten(), expected.flatten()]))[0, 1] > 0.99


def test_which_models_are_streamed(umt_model):
    assert can_share_windows(SalFoMForVideoSaliencyPrediction.from_pretrained("salfom"))
    assert not can_share_windows(umt_model)
