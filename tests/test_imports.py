"""What importing the package and parsing a command line bring along, and what they leave for later."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel

import salfom_hf
from salfom_hf.video import read_frames

SHIPPED = Path(salfom_hf.__file__).parent / "weights" / "salfom"
SUBMODULES = [
    "convert",
    "encoders",
    "inference.pipeline",
    "inference.predictor",
    "inference.results",
    "metrics",
    "models.configuration_salfom",
    "models.modeling_efficientnet_lite",
    "models.modeling_salfom",
    "models.modeling_umt",
    "models.video_processing_salfom",
    "video",
]
# Each imports only from those before it, all from the files next to them that are not programs.
ROOMS = ("video", "models", "inference", "hub", "export", "demo", "data", "evaluation", "training", "cli")


def run(code: str, **options: Any) -> list[str]:
    """The lines that a fresh Python prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


PACKAGES = "print(json.dumps([*{name.partition('.')[0] for name in sys.modules}]))\n"
# What is done one after the other, and the packages that are not loaded then; nor are those of the lines below.
STEPS = {
    "import json, sys, salfom_hf": "av numpy scipy sklearn torch",
    "import salfom_hf.metrics": "accelerate transformers",
    # Python looks for unused objects again after the import.
    "from salfom_hf import SaliencyPredictor; import gc; assert gc.isenabled()":
        "datasets evaluate gradio matplotlib pandas peft pyarrow",
}  # fmt: skip


def test_only_what_is_needed_is_loaded_and_names_stay_once_all_modules_are_imported():
    modules = ", ".join(f"salfom_hf.{name}" for name in SUBMODULES)
    names = f"import {modules}\nprint(*(getattr(salfom_hf, name).__name__ for name in salfom_hf.__all__))"
    *loaded, named = run("".join(f"{step}\n{PACKAGES}" for step in STEPS) + names)
    for (step, unneeded), packages in zip(STEPS.items(), loaded, strict=True):
        assert not {*unneeded.split()} & {*json.loads(packages)}, step
    assert named.split() == salfom_hf.__all__


def test_the_command_line_is_parsed_without_pytorch():
    *_, packages = run(f"""
import json, sys
from salfom_hf.cli import main
for line in ("--help", "--version", "predict --help", "data --help", "demo --help"):
    try:
        main(line.split())
    except SystemExit as exit:
        assert exit.code == 0
{PACKAGES}""")
    assert {"datasets", "gradio", "torch", "transformers"}.isdisjoint(json.loads(packages))


def test_every_name_is_there_and_listed():
    names = run("import salfom_hf; print(*dir(salfom_hf))")[0].split()
    assert set(salfom_hf.__all__) <= set(names)
    assert "__version__" in names
    for name in salfom_hf.__all__:
        assert getattr(salfom_hf, name).__name__ == name


def test_rooms_import_one_way():
    package = Path(salfom_hf.__file__).parent
    found, allowed = set(), {"files", "errors", "importing", "metrics", "__version__"}
    for file in package.glob("*/**/*.py"):
        room = file.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == len(file.relative_to(package).parts):
                targets = [node.module.partition(".")[0]] if node.module else [name.name for name in node.names]
                below = ROOMS[: ROOMS.index(room)]
                found |= {f"{file}: {target}" for target in targets if target not in allowed.union(below)}
    assert not found


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match=r"^module 'salfom_hf' has no attribute 'SalFoM'$"):
        _ = salfom_hf.SalFoM
    with pytest.raises(ImportError, match="cannot import name 'SalFoM'"):
        from salfom_hf import SalFoM  # noqa: F401


SMALL = {"UMT": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
LOAD = f"""
import salfom_hf, transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
for auto in (AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor, AutoVideoProcessor):
    print(type(auto.from_pretrained({str(SHIPPED)!r})).__name__)
print(type(transformers.pipeline("video-saliency-prediction")) is salfom_hf.VideoSaliencyPipeline)
"""


LOADED = ["SalFoMConfig", "SalFoMModel", "SalFoMForVideoSaliencyPrediction", *["SalFoMVideoProcessor"] * 2, "True"]


@pytest.mark.parametrize("before", ["from transformers import pipeline", "import salfom_hf.models.modeling_umt"])
def test_transformers_knows_models_and_pipeline(before):
    assert run(before + LOAD) == LOADED


PRIVATE = [
    f"transformers.models.{name}.modeling_{name}"
    for name in ("convnextv2", "dinov2", "dinov3_vit", "efficientnet", "timesformer", "videomae", "vivit", "vjepa2")
]


def test_what_ships_needs_no_network_and_no_other_model_of_transformers(clip, tmp_path):
    """None of their modules can be imported here, as if transformers had moved them."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    code = f"""
import socket, sys
def refused(*_, **__): sys.exit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refused
sys.modules.update(dict.fromkeys({PRIVATE}))
{LOAD}
import torch
from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction, UMTConfig, cli
small = UMTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=small, decoder_hidden_size=8))
print(tuple(model(torch.randn(1, 1, 3, 32, 32)).logits.shape))
sys.exit(cli.main(["predict", {str(clip)!r}, "--stride", "5", "-o", "out.mp4"]))
"""
    assert run(code, env=environment, cwd=tmp_path)[:7] == [*LOADED, "(1, 32, 32)"]
    assert [frame.image.shape for frame in read_frames(tmp_path / "out.mp4")] == [(64, 96, 3)] * 6


def test_auto_classes_know_the_encoders(tmp_path):
    for name in ("UMT", "EfficientNetLite"):
        config = getattr(salfom_hf, f"{name}Config")(**SMALL.get(name, {}))
        assert type(AutoModel.from_config(config)) is getattr(salfom_hf, f"{name}Model")
        config.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
