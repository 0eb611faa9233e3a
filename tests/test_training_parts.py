import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from huggingface_hub import ModelCard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import AutoModel

import gaze_data
from salfom_hf import SalFoMForVideoSaliencyPrediction
from salfom_hf.data import hold_out, load
from salfom_hf.models.encoders import ENCODERS
from salfom_hf.training.card import write_report
from salfom_hf.training.checkpoints import CheckpointError, Checkpoints, Progress
from salfom_hf.training.config import ConfigError, TrainingConfig
from salfom_hf.training.data import EpochSampler, build_clips, divide
from salfom_hf.training.model import build_model, merged_lora, train_mode
from salfom_hf.training.optimizer import make_optimizer, set_rates
from salfom_hf.training.validation import clip_scores
from training_data import TINY_DECODER

pytestmark = pytest.mark.usefixtures("reproducible")


def configuration(encoder, **settings):
    return TrainingConfig(
        **{"encoder": str(encoder), "model_config": {**TINY_DECODER, "num_frames": 4}, "size": [64, 64], **settings}
    )


# --- Rates ---


@pytest.mark.parametrize("name", ENCODERS)
def test_a_fresh_decoder_on_every_encoder_and_rates_that_fall_from_layer_to_layer(encoders, name):
    rates = {"encoder_learning_rate": 1.0, "learning_rate": 7.0, "layer_decay": 0.5}
    config = configuration(encoders / name, size=[64, 96], **rates)
    model, processor = build_model(config)
    original = AutoModel.from_pretrained(encoders / name).state_dict()
    weights = model.salfom.encoder.state_dict()
    assert all(torch.equal(weights[key], original[key]) for key in weights.keys() & original.keys())
    assert (processor.size.height, processor.size.width, processor.num_frames) == (64, 96, 4)
    assert str(encoders) not in model.config.to_json_string()
    assert model.config.image_height_width == (64, 96)
    assert model(torch.zeros(1, 4, 3, 64, 96)).logits.shape == (1, 64, 96)

    groups = make_optimizer(model, config).param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(named)
    assert {rate[id(p)] for key, p in named.items() if not key.startswith("salfom.encoder.")} == {7.0}
    encoder = [(key, rate[id(p)]) for key, p in named.items() if key.startswith("salfom.encoder.")]
    # From the pixels on they grow, by twos, up to the encoder's own.
    assert max(value for _, value in encoder) == 1.0
    lowest = min(value for _, value in encoder)
    assert lowest < 0.5
    assert all(value == lowest for key, value in encoder if "embed" in key or "stem" in key)
    layers = [
        value for key, value in encoder if any(part in key for part in ("layer.", "layers.", "blocks.", "stages."))
    ]
    assert layers == sorted(layers)
    assert {math.log2(value) % 1 for value in layers} == {0.0}


def test_weight_decay_spares_vectors_and_positions(encoders):
    config = configuration(
        encoders / "vivit", weight_decay=0.1, model_config={**TINY_DECODER, "num_frames": 4, "center_prior": True}
    )
    model, _ = build_model(config)
    decay = {
        id(p): group["weight_decay"] for group in make_optimizer(model, config).param_groups for p in group["params"]
    }
    spared = {key for key, p in model.named_parameters() if decay[id(p)] == 0}
    for key, p in model.named_parameters():
        special = any(part in key for part in ("position", "cls_token", "log_density"))
        assert (key in spared) == (p.ndim <= 1 or special), key


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_schedule(schedule):
    config = TrainingConfig(schedule=schedule, warmup_steps=4)
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    groups = [
        {"params": layer.parameters(), "lr": r, "initial_lr": r} for layer, r in zip(layers, (1.0, 0.1), strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)

    def rates(step, total, config):
        set_rates(optimizer, step, total, config)
        return [group["lr"] for group in optimizer.param_groups]

    for step, factor in enumerate((0.25, 0.5, 0.75, 1.0)):
        assert rates(step, 104, config) == [factor, 0.1 * factor]
    for step in (4, 29, 54, 103):
        expected = 1.0 if schedule == "constant" else math.cos(math.pi * (step - 4) / 200) ** 2
        assert rates(step, 104, config)[0] == pytest.approx(expected)
    assert rates(0, 1, dataclasses.replace(config, warmup_steps=0)) == [1.0, 0.1]


# --- Order of the clips ---


def test_sampler():
    sampler, orders = EpochSampler(11, multiple=4, seed=3), []
    for epoch in range(40):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert orders[-1] == list(sampler)
        assert len(sampler) == len(set(orders[-1])) == 8
    assert len(set(map(tuple, orders))) == 40
    # What is left out changes.
    assert set().union(*orders) == set(range(11))
    again = EpochSampler(11, multiple=4, seed=3)
    again.set_epoch(17)
    assert list(again) == orders[17]
    assert list(EpochSampler(11, multiple=4, seed=4)) != orders[0]
    # A mixture has an order of its own.
    assert list(EpochSampler(11, multiple=4, seed=None)) == list(range(8))


# --- Which data ---


def test_held_out_part_is_seeded_and_never_trained_on(ucf_sports, processor):
    settings = {"train": ["ucf_sports:train"], "data_dir": [str(ucf_sports)], "hold_out": 0.3}
    rows = load("ucf_sports", ucf_sports, "train")
    for seed in (0, 5):
        clips = build_clips(TrainingConfig(**settings, seed=seed), processor)
        training, validation = ({part[index]["video_id"] for index in range(len(part))} for part in clips)
        assert (training, validation) == tuple(set(part["video_id"]) for part in hold_out(rows, 0.3, seed))
        assert not training & validation
        assert "Diving-Side-001" not in training | validation


def image_ids(table):
    return set(table["image_id"])


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        (["stills:train", "motion:train"], []),
        (["motion:train", "stills:train"], ["stills:train"]),
        (["stills:train[:75%]", "motion:train"], ["stills:train[75%:]"]),
        (["stills:train", "motion:train[:50%]"], ["stills:train"]),
    ],
)
def test_motion_is_made_of_no_image_that_is_validated_on(tmp_path, train, validation):
    folder = gaze_data.write_stills(tmp_path, splits={"train": 12, "dev": 3})
    config = TrainingConfig(train=train, validation=validation, hold_out=0.25, data_dir=[f"stills={folder}"])
    training, (held,) = divide(config)
    parts = dict(zip(train, map(image_ids, training), strict=True))
    (stills,) = (images for source, images in parts.items() if source.startswith("stills"))
    (motion,) = (images for source, images in parts.items() if source.startswith("motion"))
    assert len(image_ids(held)) == 3
    assert len(stills) == 9
    assert not (stills | motion) & image_ids(held)
    assert motion <= stills
    assert len(motion) == 9 or "50%" in "".join(train)


def test_motion_of_other_stills(tmp_path):
    for name, count in (("a", 5), ("b", 6)):
        gaze_data.write_stills(tmp_path / name, splits={"train": count, "dev": 2})
    config = TrainingConfig(
        train=["stills:train", "motion:train"],
        validation=["stills:dev"],
        data_dir=[f"stills={tmp_path / 'a'}", f"motion={tmp_path / 'b'}"],
    )
    assert [len(part) for part in divide(config)[0]] == [5, 6]


def test_an_epoch_of_a_mixture_is_a_pass_over_its_first_dataset(tmp_path, processor):
    folder = gaze_data.write_stills(tmp_path, splits={"train": 12, "dev": 3})
    sources = {"train": ["stills:train", "motion:train"], "validation": ["stills:dev"], "data_dir": [str(folder)]}
    clips, _ = build_clips(TrainingConfig(**sources, weights=[3, 1]), processor)
    images = [clips.datasets[n].dataset[int(i)]["image_id"][0].as_py() for n, i, _ in clips.plan(0) if n == 0]
    assert sorted(images) == sorted(f"train_{n}.{'jpg' if n % 2 == 0 else 'png'}" for n in range(1, 13))
    assert len(clips) == 16
    # By their sizes: one still has no fixations, so nothing moves in it.
    clips, _ = build_clips(TrainingConfig(**sources), processor)
    assert len(clips) == 12 + 11


# --- Validation ---


def test_a_constant_prediction_is_validated_as_chance():
    clips = {"labels": torch.rand(3, 8, 12) ** 4, "fixations": torch.rand(3, 8, 12) < 0.2}
    clips |= {"pixel_values_videos": torch.zeros(3, 1, 3, 8, 12)}
    clips["fixations"][2] = False
    scores = clip_scores(torch.zeros(3, 8, 12), clips, {"kl_weight": 1.0, "cc_weight": 1.0})
    assert scores[:2, 1:5].tolist() == [[0, 0, 0, 0.5]] * 2
    # The clip without fixations alone is left out.
    assert scores.isnan().any(dim=1).tolist() == [False, False, True]
    assert scores[:, 6].tolist() == [1, 1, 1]  # Stills.


# --- The model ---


@pytest.mark.parametrize(("size", "tall"), [([], (96, 64)), ([64, 96], (64, 96))])
def test_clips_in_the_shape_of_their_video(encoders, size, tall):
    config = configuration(encoders / "efficientnet_lite", keep_aspect_ratio=True, size=size)
    config.model_config["image_size"] = [64, 96]
    _, processor = build_model(config)
    assert processor.target_size(480, 640) == (64, 96)
    assert processor.target_size(640, 480) == tall


@pytest.mark.parametrize("train_still_size", [[], [64, 64]])
def test_training_clips_and_stills_of_sizes_of_their_own(encoders, stills_parquet, train_still_size):
    data = {
        "train": ["stills:train", "motion:train"],
        "weights": [1.0, 1.0],
        "validation": ["stills:dev"],
        "data_dir": [f"stills={stills_parquet}"],
    }
    sizes = {"still_size": [96, 128], "train_size": [32, 64], "train_still_size": train_still_size}
    config = configuration(encoders / "efficientnet_lite", **sizes, **data)
    config.model_config["image_size"] = [64, 64]
    _, processor = build_model(config)
    assert (processor.target_size(480, 640), processor.target_size(480, 640, still=True)) == ((64, 64), (96, 128))
    training, validation = build_clips(config, processor)
    stills, moving = (part[0]["pixel_values_videos"] for part in training.datasets)
    assert (stills.shape[-2:], moving.shape[-2:]) == (tuple(train_still_size or (32, 64)), (32, 64))
    assert validation[0]["pixel_values_videos"].shape[-2:] == (96, 128)
    assert processor.target_size(480, 640) == (64, 64)


def test_pixels_as_the_encoder_knows_them(encoders, tmp_path):
    folder = tmp_path / "encoder"
    AutoModel.from_pretrained(encoders / "dinov2").save_pretrained(folder)
    known = {"image_processor_type": "BitImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    (folder / "preprocessor_config.json").write_text(json.dumps(known))
    _, processor = build_model(configuration(folder))
    assert [*processor.image_mean, *processor.image_std] == [0.1, 0.2, 0.3, 0.5, 0.6, 0.7]
    _, processor = build_model(configuration(encoders / "umt"))
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406])


def test_model_to_go_on_from(model_folder, framewise_model):
    model, processor = build_model(TrainingConfig(model=str(model_folder), size=[32, 64]))
    for key, value in framewise_model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    # As it is trained from now on: at one size, whatever the video's.
    assert processor.target_size(200, 100) == (32, 64)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "/nowhere"}, "Cannot load the model '/nowhere': it is none of"),
        ({"encoder": "umt-large"}, "convert its checkpoint"),
        ({"encoder": "", "model": "salfom-large"}, "salfom convert"),
        ({"encoder": "", "model": "MODEL", "model_config": {}, "size": [33, 64]}, "multiples of 32"),
        ({"size": [33, 64]}, "must be a multiple of 16"),
        ({"train_size": [33, 64]}, "train_size must be multiples of 16"),
        ({"model_config": {"num_frames": 3}}, "power of two"),
    ],
)
def test_what_no_model_can_be_made_of(encoders, model_folder, monkeypatch, tmp_path, settings, message):
    monkeypatch.setattr("salfom_hf.models.names.KNOWN", {"salfom-large": tmp_path / "none"})
    settings = {key: str(model_folder) if value == "MODEL" else value for key, value in settings.items()}
    with pytest.raises(ConfigError) as error:
        build_model(configuration(**{"encoder": encoders / "umt", **settings}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["umt", "convnextv2", "efficientnet_lite"])
def test_layers_that_accelerate_shards(encoders, name):
    """It refuses a model in which a class that is to be wrapped does not occur."""
    model, _ = build_model(configuration(encoders / name))
    plugin = SimpleNamespace(auto_wrap_policy=transformer_auto_wrap_policy, transformer_cls_names_to_wrap=None)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert sum(policy(module) for module in model.modules()) >= 3


def test_batch_norms_keep_their_statistics(encoders):
    model, _ = build_model(configuration(encoders / "efficientnet_lite"))
    before = {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    assert before
    train_mode(model)
    assert model.salfom.tcfe.training
    model(torch.randn(1, 4, 3, 64, 64))
    for key, value in model.named_buffers():
        assert key not in before or torch.equal(value, before[key])


@pytest.mark.parametrize("name", ["umt", "efficientnet"])
def test_gradient_checkpointing_gives_the_same_gradients(encoders, name):
    clip = torch.randn(1, 4, 3, 64, 64)
    gradients = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        model, _ = build_model(configuration(encoders / name, gradient_checkpointing=gradient_checkpointing))
        train_mode(model)
        torch.manual_seed(1)
        model(clip, labels=torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(2))).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    assert model.is_gradient_checkpointing
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=key)


# --- LoRA ---


@pytest.mark.parametrize("name", ["umt", "dinov2", "videomae"])
def test_lora_trains_little_and_merges_into_an_ordinary_model(encoders, name, tmp_path):
    config = configuration(encoders / name, lora_rank=2, encoder_learning_rate=0.1)
    model, _ = build_model(config)
    before = {key: p.clone() for key, p in model.salfom.encoder.named_parameters()}
    trained = [key for key, p in model.salfom.encoder.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in key for key in trained)
    optimizer = make_optimizer(model, config)
    for _ in range(2):
        model(torch.randn(1, 4, 3, 64, 64), labels=torch.rand(1, 64, 64)).loss.backward()
        optimizer.step()
    for key, p in model.salfom.encoder.named_parameters():
        assert torch.equal(p, before[key]) == (key not in trained), key
    model.eval()
    clip = torch.randn(1, 4, 3, 64, 64)
    with torch.no_grad():
        expected = model(clip).logits
        model.save_pretrained(tmp_path, state_dict=merged_lora(model))
        fresh, report = SalFoMForVideoSaliencyPrediction.from_pretrained(tmp_path, output_loading_info=True)
        torch.testing.assert_close(fresh(clip).logits, expected, atol=1e-4, rtol=1e-4)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


# --- Card and Hub ---

SCORES = {"loss": 0.5, "cc": 0.75, "sim": 0.5, "nss": 2.5, "auc_judd": 0.875, "kldiv": 1.25, "clips": 12}


def report(folder, network, **settings):
    config = TrainingConfig(**{"train": ["dhf1k:train"], "output_dir": "runs/mine", **settings})
    accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=2, mixed_precision="bf16")
    counts = {"step": 30, "epoch": 5, "training_clips": 600}
    counts |= {"parameters": sum(p.numel() for p in network.parameters()), "clips_per_step": 24}
    write_report(folder, config, accelerator, SCORES, counts, 60)
    return ModelCard.load(folder / "README.md")


def test_card_says_what_was_run(tmp_path, framewise_model):
    card = report(
        tmp_path,
        framewise_model,
        encoder="MCG-NJU/videomae-large",
        push_to_hub="org/name",
        batch_size=3,
        gradient_accumulation_steps=4,
        resume=True,
    )
    assert "resume" not in card.text
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "MCG-NJU/videomae-large"
    assert {"salfom", "dhf1k"} <= set(card.data.tags)
    assert set(card.data.metrics) == {"cc", "sim", "nss", "auc_judd", "kldiv"}
    assert {result.metric_type: result.metric_value for result in card.data.eval_results}["nss"] == 2.5
    parameters = sum(p.numel() for p in framewise_model.parameters())
    for said in (
        'from_pretrained("org/name")',
        "| cc | 0.7500 |",
        "| nss | 2.5000 |",
        "On 12 clips of 10% of dhf1k:train, held out",
        "30 of 60 optimizer steps (epoch 5), 24 clips a step, on 2 × cpu",
        f"{parameters:,} parameters",
        "batch_size: 3",
        f"torch {torch.__version__}",
    ):
        assert said in card.text, said
    facts = json.loads((tmp_path / "metrics.json").read_text())
    assert facts["validation"] == SCORES
    assert (facts["step"], facts["clips_per_step"], facts["parameters"]) == (30, 24, parameters)


def test_card_keeps_folders_to_itself(tmp_path, framewise_model):
    secret = tmp_path / "secret" / "mine"
    secret.mkdir(parents=True)
    for start in ("model", "encoder"):
        settings = {start: str(secret), "data_dir": [str(secret)], "output_dir": str(secret / "run")}
        card = report(tmp_path, framewise_model, **settings)
        assert "secret" not in card.content
        assert "`mine`" in card.text
        assert card.data.base_model is None


@pytest.mark.parametrize(
    ("start", "licence"), [({"model": "salfom"}, "apache-2.0"), ({"encoder": "MCG-NJU/videomae-large"}, None)]
)
def test_card_claims_no_licence_it_does_not_know(tmp_path, framewise_model, start, licence):
    card = report(tmp_path, framewise_model, **start)
    assert card.data.license == licence
    assert ("Apache-2.0" in card.text) == (licence is not None)
    assert ("made from `MCG-NJU/videomae-large`: its licence holds" in card.text) == (licence is None)


def test_a_folder_of_checkpoints_that_is_gone(tmp_path):
    kept = Checkpoints(tmp_path, 1, Accelerator(cpu=True), [])
    (tmp_path / "checkpoints").touch()
    with pytest.raises(CheckpointError, match=r"Cannot write .*and start again"):
        kept.save(Progress(1, step=1))
