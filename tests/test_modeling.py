import itertools

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, Trainer, TrainingArguments
from transformers.initialization import no_init_weights
from transformers.utils.generic import TransformersKwargs

from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction, SalFoMModel, UMTConfig, UMTModel
from test_encoders import CONFIGS, settle_batch_norms

pytestmark = pytest.mark.usefixtures("reproducible")


def tiny_config(encoder="umt", **options):
    defaults = {
        "num_frames": 8,
        "image_size": 32,
        "decoder_hidden_size": 8,
        "decoder_channels": (8,) * 6,
        "fusion_channels": (4, 4),
        "tcfe_depths": (2, 2, 2),
        "tcfe_num_heads": (2, 2, 2),
    }
    return SalFoMConfig(**{"encoder_config": CONFIGS[encoder](), **defaults, **options})


def tiny_model(*args, **options):
    model = SalFoMForVideoSaliencyPrediction(tiny_config(*args, **options))
    settle_batch_norms(model, lambda: model(clip(model.config.num_frames, 64, 64)))
    return model.eval()


def clip(frames=8, height=32, width=32, batch=2):
    return torch.randn(batch, frames, 3, height, width)


def logits(model, pixels):
    with torch.no_grad():
        return model(pixels).logits


# --- Saving and loading ---


@pytest.mark.parametrize("encoder", CONFIGS)
def test_save_and_load(encoder, tmp_path):
    model, pixels = tiny_model(encoder, image_size=64, center_prior=True), clip()
    expected = logits(model, pixels)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded, info = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    torch.testing.assert_close(logits(loaded, pixels), expected, atol=1e-5, rtol=1e-5)


def test_config_round_trip(tmp_path):
    with pytest.raises(ValueError, match="encoder_config needs a model_type"):
        SalFoMConfig(encoder_config={"hidden_size": 16})
    config = tiny_config(image_size=(32, 64), output_stride=2)
    config.save_pretrained(tmp_path)
    for loaded in (SalFoMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, SalFoMConfig)
        assert isinstance(loaded.encoder_config, UMTConfig)
        assert loaded.to_diff_dict() == config.to_diff_dict()
        assert loaded.image_height_width == (32, 64)
    as_dict = SalFoMConfig(encoder_config=CONFIGS["umt"]().to_dict())
    assert as_dict.encoder_config.to_dict() == CONFIGS["umt"]().to_dict()
    assert SalFoMConfig().encoder_config.hidden_size == 1024


def test_auto_classes_load_model_and_head(tmp_path):
    model, pixels = tiny_model(), clip()
    model.save_pretrained(tmp_path)
    head = AutoModelForImageToImage.from_pretrained(tmp_path)
    assert type(head) is SalFoMForVideoSaliencyPrediction
    torch.testing.assert_close(logits(head, pixels), logits(model, pixels))
    for base in (AutoModel.from_pretrained(tmp_path), SalFoMModel.from_pretrained(tmp_path)):
        assert type(base) is SalFoMModel
        with torch.no_grad():
            torch.testing.assert_close(base(pixels).static_features, model.salfom(pixels).static_features)


def test_missing_weights_are_initialised(tmp_path):
    model = tiny_model(center_prior=True)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    dropped = [
        "center_prior.log_density",
        "center_prior.log_sensitivity",
        "fusion.convolutions.0.weight",
        "salfom.encoder.embeddings.position_embeddings",
        "salfom.encoder.layers.0.mlp.fc1.weight",
        "salfom.sfd.temporal.0.weight",
        "salfom.tcfe.stages.0.blocks.0.attention.relative_position_bias",
        "salfom.tcfe.stages.0.blocks.0.fc1.weight",
    ]
    kept = {key: value for key, value in state.items() if key not in dropped}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(dropped)
    fresh = loaded.state_dict()
    for key in dropped:
        assert fresh[key].isfinite().all()
        assert 0.5 < fresh[key].norm() / state[key].norm() < 2
    for key in ("center_prior.log_density", "salfom.encoder.embeddings.position_embeddings"):
        torch.testing.assert_close(fresh[key], state[key])
    for key, value in kept.items():
        assert torch.equal(fresh[key], value)


@pytest.mark.parametrize(
    ("encoder", "base"), [("umt", SalFoMModel), *((encoder, SalFoMForVideoSaliencyPrediction) for encoder in CONFIGS)]
)
def test_buffers_and_prior_survive_the_meta_device(encoder, base, tmp_path):
    """As transformers' common test `test_init_weights_can_init_buffers`."""
    config = tiny_config(encoder, center_prior=True, image_size=64)
    with no_init_weights():
        expected = base(config)
    with torch.device("meta"):
        model = base(config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(7)
    model.init_weights()
    expected.save_pretrained(tmp_path)
    # Weights that were never set may be no numbers, which is an error to who asks for no report.
    for found in (model, base.from_pretrained(tmp_path, output_loading_info=True)[0]):
        buffers = dict(found.named_buffers())
        assert buffers.keys() == dict(expected.named_buffers()).keys()
        for name, buffer in expected.named_buffers():
            assert torch.equal(buffers[name], buffer), name
        if base is SalFoMForVideoSaliencyPrediction:
            torch.testing.assert_close(found.center_prior.state_dict(), expected.center_prior.state_dict())


def test_initial_weights():
    state = tiny_model(center_prior=True).state_dict()
    weight = state["salfom.dfd.steps.1.weight"]
    torch.testing.assert_close(weight[:, :, 0], weight[:, :, 1])
    assert state["salfom.encoder.layers.0.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    still, moving = state["center_prior.log_density"][:, 0]
    assert not still.any()
    assert moving.argmax().item() in (5 * 16 + 7, 5 * 16 + 8, 6 * 16 + 7, 6 * 16 + 8)


def test_device_map(tmp_path):
    pytest.importorskip("accelerate")
    model, pixels = tiny_model(), clip()
    model.save_pretrained(tmp_path)
    loaded = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path, device_map="auto")
    result = logits(loaded, pixels.to(loaded.device)).cpu()
    torch.testing.assert_close(result, logits(model, pixels), atol=1e-4, rtol=1e-4)


def test_from_encoder_pretrained(tmp_path):
    encoder = UMTModel(CONFIGS["umt"]())
    encoder.save_pretrained(tmp_path)
    options = {key: getattr(tiny_config(), key) for key in ("num_frames", "decoder_hidden_size", "decoder_channels")}
    model = SalFoMForVideoSaliencyPrediction.from_encoder_pretrained(tmp_path, **options, tcfe_num_heads=(2, 2, 2))
    assert not any(module.training for module in model.modules())
    for key, value in encoder.state_dict().items():
        assert torch.equal(model.salfom.encoder.state_dict()[key], value)
    assert logits(model, clip()).shape == (2, 32, 32)


# --- Forward ---


@pytest.mark.parametrize("encoder", CONFIGS)
def test_batching_and_determinism(encoder):
    model, pixels = tiny_model(encoder), clip()
    together = logits(model, pixels)
    assert torch.equal(logits(model, pixels), together)
    alone = torch.cat([logits(model, pixels[:1]), logits(model, pixels[1:])])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_tuple_output():
    model, pixels = tiny_model(), clip()
    with torch.no_grad():
        expected = model(pixels, labels=torch.rand(2, 32, 32))
        torch.manual_seed(0)
        values = model(pixels, labels=torch.rand(2, 32, 32), return_dict=False)
        assert isinstance(values, tuple)
        torch.testing.assert_close(values[1], expected.logits)
        torch.testing.assert_close(values[2], expected.logits.sigmoid())
        model.config.return_dict = False
        assert isinstance(model(pixels), tuple)


def test_sdpa_equals_eager():
    model, pixels = tiny_model(), clip()
    assert model.salfom.encoder.config._attn_implementation == "sdpa"
    expected = logits(model, pixels)
    model.set_attn_implementation("eager")
    assert model.salfom.encoder.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(model, pixels), expected, atol=1e-5, rtol=1e-4)
    model.salfom.encoder.set_attn_implementation("flex_attention")
    torch.testing.assert_close(logits(model, pixels), expected, rtol=1e-4, atol=1e-4)
    # The encoder can do more than TCFE, which computes its own attention.
    for flag in ("_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend"):
        assert getattr(UMTModel, flag)
        assert not getattr(SalFoMModel, flag)


def test_hidden_states_and_attentions():
    model = tiny_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(clip(), output_hidden_states=True, output_attentions=True)
        plain = model(clip())
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(2, 32, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 2, 32, 32)] * 2
    torch.testing.assert_close(outputs.attentions[0].sum(dim=-1), torch.ones(2, 2, 32))
    assert plain.hidden_states is None
    assert plain.attentions is None

    for encoder in ("convnextv2", "efficientnet", "efficientnet_lite"):  # These have no attention.
        with torch.no_grad():
            outputs = tiny_model(encoder)(clip(), output_attentions=True, output_hidden_states=True)
        assert outputs.attentions is None
        assert len(outputs.hidden_states) > 3


@pytest.mark.parametrize(
    ("encoder", "dtype"), [("efficientnet_lite", torch.float16), *((encoder, torch.bfloat16) for encoder in CONFIGS)]
)
def test_half_precision(encoder, dtype, tmp_path):
    tiny_model(encoder).save_pretrained(tmp_path)
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path, dtype=dtype)
    with torch.no_grad():
        outputs = model(clip().to(dtype), labels=torch.rand(2, 20, 20))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert outputs.logits.dtype == outputs.saliency.dtype == dtype
    assert outputs.logits.isfinite().all()
    assert outputs.loss.isfinite()


@pytest.mark.parametrize(("frames", "output_stride"), [(4, 1), (8, 2), (16, 4), (32, 1)])
def test_frames_and_output_stride(frames, output_stride):
    model = tiny_model(num_frames=frames, output_stride=output_stride, image_size=(64, 32))
    pixels = clip(frames, 48, 64)
    assert logits(model, pixels).shape == (2, 48, 64)
    side = 16 // output_stride
    with torch.no_grad():
        branches = model.salfom(pixels)
    for features in (branches.static_features, branches.transformer_features, branches.dynamic_features):
        assert features.shape == (2, 8, 3 * side, 4 * side)


def test_center_prior_counts_as_far_as_the_picture_moves():
    model, moving = tiny_model("efficientnet_lite", image_size=64, center_prior=True), clip(8, 64, 64)
    model.center_prior.log_density.data[0, 0, 2, 3] = 1.0
    still = moving[:, :1].expand_as(moving)
    slight = still.clone()
    slight[:, -1] += 0.01
    clips = {"still": still, "slight": slight, "moving": moving}
    with_prior = {name: logits(model, pixels) for name, pixels in clips.items()}
    log_density = model.center_prior.log_density.detach()
    model.center_prior = None
    added = {name: with_prior[name] - logits(model, pixels) for name, pixels in clips.items()}
    always, also = torch.nn.functional.interpolate(log_density, size=(64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(added["still"], always.expand(2, -1, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(added["moving"], (always + also).expand(2, -1, -1), atol=1e-3, rtol=1e-3)
    share = (added["slight"] - always)[:, 0, 0] / also[0, 0]
    assert share.min() > 0.01
    assert share.max() < 0.99
    assert also[31, 31] > also[0, 0]


def test_maps_are_sharper_as_far_as_the_picture_moves():
    model, moving = tiny_model("efficientnet_lite", image_size=64, center_prior=True), clip(8, 64, 64)
    still = moving[:, :1].expand_as(moving)
    before = {name: logits(model, pixels) for name, pixels in {"still": still, "moving": moving}.items()}
    model.center_prior.sharpness = 1.5
    torch.testing.assert_close(logits(model, still), before["still"])
    torch.testing.assert_close(logits(model, moving), 1.5 * before["moving"], atol=1e-3, rtol=1e-3)


def randomized(model):
    """Fresh decoders have equal temporal taps, which would hide mistakes in their order."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(
    ("encoder", "branches"),
    [
        ("umt", {}),
        ("efficientnet_lite", {}),
        ("efficientnet_lite", {"use_dfd": False}),
        ("efficientnet_lite", {"use_tcfe": False}),
        ("efficientnet_lite", {"num_frames": 1}),
        ("efficientnet_lite", {"num_frames": 2}),
        ("efficientnet_lite", {"output_stride": 4, "decoder_hidden_size": 8}),
    ],
)
def test_one_frame_stands_for_a_still(encoder, branches):
    model = randomized(tiny_model(encoder, image_size=64, center_prior=True, **branches))
    stills = clip(1, 64, 96)
    repeated = stills.expand(-1, model.config.num_frames, -1, -1, -1)
    torch.testing.assert_close(logits(model, stills), logits(model, repeated), atol=1e-4, rtol=1e-4)


def test_wrong_inputs():
    model = tiny_model()
    for pixels, message in (
        (clip(4), "clips of 8 frames, or stills of one frame, not 4"),
        (clip(8, 40, 32), "16 divides, not 40x32"),
        (clip()[0], r"takes \(batch, frames, 3, height, width\)"),
        (clip()[:, :, :2], r"takes \(batch, frames, 3, height, width\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(pixels)


@pytest.mark.parametrize("encoder", ["umt", "efficientnet_lite", "videomae"])
def test_pixels_that_no_processor_made_are_refused(encoder):
    model, pixels = tiny_model(encoder), clip()
    raw = (pixels.byte(), pixels.long(), pixels.bool(), pixels.numpy(), [pixels], None)
    for network in (model, model.salfom):
        for wrong in raw:
            with pytest.raises(TypeError, match=r"float tensor .* make it with SalFoMVideoProcessor"):
                network(wrong)
    if model.salfom.adapter.framewise:
        with pytest.raises(TypeError, match="SalFoMVideoProcessor"):
            model.encode_frames(pixels[0].byte())


@pytest.mark.parametrize("encoder", ["umt", "efficientnet_lite", "videomae"])
def test_unknown_keywords_are_refused_and_those_of_transformers_are_not(encoder):
    model, pixels = tiny_model(encoder), clip(batch=1)
    for network in (model, model.salfom):
        with pytest.raises(TypeError, match="labelz"):
            network(pixels, labelz=torch.rand(1, 32, 32))
        with torch.no_grad():
            network(pixels, **dict.fromkeys(TransformersKwargs.__annotations__), return_dict=True)
    for labels in (torch.rand(1, 1, 32, 32), torch.rand(2, 32, 32), torch.rand(32, 32), torch.rand(1, 32, 32).numpy()):
        with pytest.raises(ValueError, match=r"labels must be a tensor \(1, height, width\)"):
            model(pixels, labels=labels)


def test_the_trainer_divides_the_loss_by_the_steps_it_accumulates(tmp_path):
    samples = [{"pixel_values_videos": clip(batch=1)[0], "labels": torch.rand(32, 32)} for _ in range(4)]
    weights = {}
    for batch, steps in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        model = tiny_model(drop_path_rate=0.0)
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, max_steps=1,
            learning_rate=0.1, optim="sgd", max_grad_norm=0, use_cpu=True, report_to="none", save_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=samples).train()
        weights[steps] = model.state_dict()
    torch.testing.assert_close(weights[1], weights[2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 12}, r"num_frames \(12\)"),
        ({"num_frames": 0}, "num_frames is 0, which no model has"),
        ({"image_size": 40}, r"image_size \(40\)"),
        ({"image_size": [32]}, "image_size must be one number or"),
        ({"decoder_channels": (8, 8)}, "decoder_channels needs 6"),
        ({"fusion_channels": (8, 0)}, "fusion_channels needs 2"),
        ({"tcfe_depths": (1,)}, "tcfe_depths needs 3"),
        ({"tcfe_num_heads": (3, 2, 2)}, "multiples of tcfe_num_heads"),
        ({"decoder_hidden_size": 0}, "decoder_hidden_size must be positive"),
        ({"use_tcfe": False, "use_dfd": False, "use_sfd": False}, "At least one of use_tcfe"),
        ({"output_stride": 3}, "output_stride must be"),
        ({"motion_sharpness": 0}, "motion_sharpness must be above 0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be"),
    ],
)
def test_config_messages(options, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        tiny_config(**options)


@pytest.mark.parametrize("encoder", CONFIGS)
def test_export(encoder):
    model, pixels = tiny_model(encoder), clip(batch=1)
    program = torch.export.export(model, (pixels,))
    torch.testing.assert_close(program.module()(pixels).logits, logits(model, pixels), atol=1e-5, rtol=1e-4)


# --- Training ---


@pytest.mark.parametrize("encoder", CONFIGS)
def test_every_parameter_receives_a_gradient(encoder):
    model = tiny_model(encoder, center_prior=True, drop_path_rate=0.0).train()
    model(clip(height=64, width=64), labels=torch.rand(2, 32, 32)).loss.backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("branches", [b for b in itertools.product((True, False), repeat=3) if any(b)])
def test_branches(branches):
    options = dict(zip(("use_tcfe", "use_dfd", "use_sfd"), branches, strict=True))
    model, pixels = tiny_model(**options), clip()
    outputs = model(pixels, labels=torch.rand(2, 32, 32))
    outputs.loss.backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    features = model.salfom(pixels)
    present = (features.transformer_features, features.dynamic_features, features.static_features)
    assert tuple(feature is not None for feature in present) == branches


@pytest.mark.parametrize("encoder", ["umt", "dinov2", "efficientnet_lite"])
def test_gradient_checkpointing(encoder):
    model, pixels, labels = tiny_model(encoder, drop_path_rate=0.0).train(), clip(), torch.rand(2, 32, 32)

    def losses_and_gradients():
        model.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]

    expected = losses_and_gradients()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(losses_and_gradients(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["umt", "efficientnet_lite"])
def test_weights_offloaded_to_disk_give_the_same(tmp_path, encoder):
    model, pixels = tiny_model(encoder).eval(), clip()
    model.save_pretrained(tmp_path / "model")
    on_disk = ("encoder", "tcfe")
    device_map = {f"salfom.{name}": "disk" if name in on_disk else "cpu" for name, _ in model.salfom.named_children()}
    device_map["fusion"] = "cpu"
    offloaded = SalFoMForVideoSaliencyPrediction.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    )
    with torch.no_grad():
        torch.testing.assert_close(offloaded(pixels).logits, model(pixels).logits)
