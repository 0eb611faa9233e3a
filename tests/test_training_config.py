import argparse
import importlib
import os
from pathlib import Path

import pytest
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env

from salfom_hf.cli.train import parse
from salfom_hf.training.config import LAUNCH_CONFIGS, ConfigError, TrainingConfig, preset_names
from salfom_hf.training.run import make_accelerator

DATA = ("--data-dir", "data")


def test_override_goes_before_preset_and_preset_before_default():
    config = parse(["light", *DATA, "--epochs", "3", "--learning-rate", "2e-4"])
    assert (config.epochs, config.learning_rate, config.batch_size, config.patience) == (3, 2e-4, 8, 0)
    assert all(parse([name, *DATA]).train for name in preset_names())


def test_every_run_of_the_ablations_is_a_configuration(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    ablations, file = importlib.import_module("ablations"), tmp_path / "run.yaml"
    for variant in ablations.VARIANTS:
        file.write_text(yaml.safe_dump(ablations.settings_of(variant, 3)))
        config = parse([str(file), *DATA])
        assert config.max_steps == 3
        assert config.model_config.keys() > {"image_size", "decoder_hidden_size"}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--train", ["dhf1k:train", "stills:train"], ["dhf1k:train", "stills:train"]),
        ("--trackers", [], []),
        ("--size", ["96", "128"], [96, 128]),
        ("--weights", ["0.25"], [0.25]),
        ("--compile", [], True),
        ("--no-compile", [], False),
        ("--augmentation", ['{"reverse": 0.5}'], {"horizontal_flip": 0.5, "reverse": 0.5}),
    ],
)
def test_types_of_options(option, value, expected):
    config = parse(["light", *DATA, option, *value])
    assert getattr(config, option.removeprefix("--no-").removeprefix("--")) == expected


def test_own_file_over_a_preset(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: light\nlearning_rate: 1e-5\npatience: 3\nseed:\n")
    (tmp_path / "more.yaml").write_text("base: mine.yaml\npatience: 4\n")
    config = parse([str(tmp_path / "more.yaml"), *DATA])
    assert (config.learning_rate, config.patience, config.batch_size, config.seed) == (1e-5, 4, 8, 0)
    assert config.encoder == "efficientnet-lite0"


def test_model_replaces_the_encoder_of_a_preset_and_the_other_way_round():
    config = parse(["light", *DATA, "--model", "salfom"])
    assert (config.model, config.encoder, config.model_config) == ("salfom", "", {})
    assert not config.keep_aspect_ratio
    config = parse(["hollywood2", *DATA, "--encoder", "folder"])
    assert (config.model, config.encoder) == ("", "folder")


def test_saved_settings_are_a_configuration(tmp_path):
    config = parse(["joint", *DATA, "--learning-rate", "1e-7", "--augmentation", '{"crop": [0.5, 1]}'])
    config.save(tmp_path / "config.yaml")
    assert parse([str(tmp_path / "config.yaml")]) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--learning-rat", "1"], "no option '--learning-rat'; did you mean --learning-rate?"),
        (["--epochs", "many"], "epochs must be of type int, not 'many'"),
        (["--epochs", "inf"], "epochs must be of type int"),
        (["--epochs", "0"], "epochs must be above 0"),
        (["--ema-decay", "1"], "ema_decay must be at least 0 and below 1"),
        (["--learning-rate", "nan"], "learning_rate must be above 0"),
        (["--model-config", "{"], "model_config must be JSON"),
        (["--model-config", '{"drop_path": 0}'], "'drop_path'; did you mean drop_path_rate?"),
        (["--augmentation", '{"horizontal_flipp": 1}'], "did you mean horizontal_flip?"),
        (["--metric", "CC"], "metric is one of"),
        (["--mixed-precision", "half"], "mixed_precision is one of no, bf16, fp16, not 'half'"),
        (["--train", "dhf1k"], "write DATASET:SPLIT"),
        (["--train", "dhf1k:test"], "test split"),
        (["--validation", "ucf_sports:testing"], "test split"),
        (["--validation", "dhf1k:validation+test[:10%]"], "test split"),
        (["--validation", "--hold-out", "0"], "nothing to choose checkpoints on"),
        (["--validation", "motion:train"], "name another validation split"),
        (["--train", "motion:train", "--validation"], "need a validation split"),
        (["--encoder-from-stills"], "encoder_from_stills needs stills"),
        (["--model", "salfom", "--keep-aspect-ratio"], "keep_aspect_ratio is for a fresh decoder"),
        (["--model", "salfom", "--still-size", "64", "64"], "still_size is for a fresh decoder"),
        (["--size", "64", "64", "--still-size", "64", "64"], "leave it or still_size out"),
        (["--augmentation", '{"crop": [2, 3]}'], "augmentation: crop must be"),
        (["--kl-weight", "0", "--cc-weight", "0"], "The loss needs a term"),
        (["--weights", "1", "2"], "one positive number for each of the 1 datasets"),
        (["--size", "64"], "size needs a height and a width"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--push-to-hub", "not a name"], "push_to_hub must be a repository"),
        (["--data-dir"], "--data-dir FOLDER"),
        (["--model", "a", "--encoder", "b"], "either a model to go on from or an encoder"),
        (["--kl-weight", "nan"], "kl_weight must be at least 0 and finite, not nan."),
        (["--weights", "inf"], "weights needs one positive number for each of the 1 datasets"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(options, message):
    with pytest.raises(ConfigError) as error:
        parse(["light", *DATA, *options])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1\n", "unknown key 'learning_rat'; did you mean learning_rate?"),
        ("- a\n", "must hold `key: value` lines"),
        ("a: [\n", "is no YAML"),
        ("base: lite\n", "no preset 'lite'; did you mean light?"),
        ("base: missing.yaml\n", "Cannot read the configuration"),
        ("base: pipe.yaml\n", "it is a pipe and not a file"),
        ("compile: 3\n", "compile must be of type bool"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError) as error:
        parse([str(tmp_path / "mine.yaml"), *DATA])
    assert message in str(error.value)


def test_files_that_build_on_each_other_in_a_circle(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.yaml").write_text("base: sub/other.yaml\n")
    (tmp_path / "sub" / "other.yaml").write_text("base: ../mine.yaml\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml builds on itself"):
        parse([str(tmp_path / "mine.yaml"), *DATA])


@pytest.mark.parametrize("name", ["light", "fsdp2"])
def test_path_of_what_ships(name, capsys):
    with pytest.raises(SystemExit) as stop:
        parse([name, "--path"])
    assert stop.value.code == 0
    assert yaml.safe_load(Path(capsys.readouterr().out.strip()).read_text())


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"--{name.replace('_', '-')}") for name in ("data-dir", "epochs", "lora-rank", "layer-decay")]
    assert places == sorted(places)
    for name in TrainingConfig.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    text = " ".join(text.split())
    assert text.count("(default: ") == len(TrainingConfig.__dataclass_fields__)
    assert "batches per optimizer step (default: 1)" in text


# --- Configurations of accelerate ---

PROCESSES = {"one-gpu": 1, "eight-gpus": 8, "two-machines": 16, "fsdp2": 8, "zero-2": 8, "zero-3": 8}


@pytest.mark.parametrize("name", PROCESSES)
def test_accelerate_reads_them(name):
    """Its loader ends the process where a key is unknown to it."""
    config = load_config_from_file(str(LAUNCH_CONFIGS / f"{name}.yaml"))
    assert config.num_processes == PROCESSES[name]
    assert config.num_machines == (2 if name == "two-machines" else 1)
    assert config.mixed_precision == "bf16"
    kind = {"fsdp2": "FSDP", "zero-2": "DEEPSPEED", "zero-3": "DEEPSPEED", "one-gpu": "NO"}.get(name, "MULTI_GPU")
    assert config.distributed_type.value == kind
    if kind == "DEEPSPEED":
        assert config.deepspeed_config["zero_stage"] == int(name[-1])


def test_accelerate_understands_the_settings_of_fsdp2(monkeypatch):
    """Through the environment that `accelerate launch` makes of them, as a training process sees them."""
    config = load_config_from_file(str(LAUNCH_CONFIGS / "fsdp2.yaml"))
    arguments = launch_command_parser().parse_args(["script.py"])
    given = {**vars(arguments), **vars(config), **config.fsdp_config, "use_fsdp": True, "dynamo_backend": "no"}
    for name, value in prepare_multi_gpu_env(argparse.Namespace(**given)).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"


@pytest.mark.parametrize("norm", [0.0, 0.5])
def test_deepspeed_is_told_the_norm(monkeypatch, norm):
    """It clips by itself; what accelerate would otherwise give it is 1."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_CLIPPING", "7")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    make_accelerator(TrainingConfig(max_grad_norm=norm, trackers=[]))
    AcceleratorState._reset_state(True)
    assert DeepSpeedPlugin(hf_ds_config="none").deepspeed_config.get("gradient_clipping", 0) == norm
