"""What importing the package and parsing a command line bring along, and what they leave for later."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModel

import salfom_hf

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


def run(code: str) -> str:
    """What a fresh Python prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by(code: str) -> set[str]:
    """Names of the packages that are loaded after some code."""
    last = run(f"{code}\nimport json, sys; print(json.dumps([*sys.modules]))").splitlines()[-1]
    return {name.partition(".")[0] for name in json.loads(last)}


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import salfom_hf").isdisjoint(
        {"accelerate", "av", "datasets", "evaluate", "gradio", "matplotlib", "numpy", "pandas", "peft", "pyarrow"}
        | {"scipy", "sklearn", "torch", "transformers"}
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["predict", "--help"], ["data", "--help"], ["demo", "--help"]]
)
def test_the_command_line_is_parsed_without_pytorch(arguments):
    code = f"""
from salfom_hf.cli import main
try:
    main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0
"""
    assert loaded_by(code).isdisjoint({"datasets", "gradio", "torch", "transformers"})


def test_prediction_loads_only_what_it_needs():
    unneeded = {"datasets", "evaluate", "gradio", "matplotlib", "pandas", "peft", "pyarrow"}
    code = "import gc; from salfom_hf import SaliencyPredictor; assert gc.isenabled()  # Again, after the import."
    assert loaded_by(code).isdisjoint(unneeded)


PRIVATE = [
    f"transformers.models.{name}.modeling_{name}"
    for name in ("convnextv2", "dinov2", "dinov3_vit", "efficientnet", "timesformer", "videomae", "vivit", "vjepa2")
]


def test_what_ships_needs_no_other_model_of_transformers():
    """None of their modules can be imported here, as if transformers had moved them."""
    printed = run(f"""
import sys
sys.modules.update(dict.fromkeys({PRIVATE}))
import numpy as np, torch
from salfom_hf import SalFoMConfig, SalFoMForVideoSaliencyPrediction, SaliencyPredictor, UMTConfig
print(SaliencyPredictor.from_pretrained("salfom").predict(np.zeros((2, 64, 96, 3), np.uint8)).shape)
small = UMTConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = SalFoMForVideoSaliencyPrediction(SalFoMConfig(encoder_config=small, decoder_hidden_size=8))
print(tuple(model(torch.randn(1, 1, 3, 32, 32)).logits.shape))
""")
    assert printed.splitlines()[-2:] == ["(2, 64, 96)", "(1, 32, 32)"]


def test_every_name_is_there_and_listed():
    names = run("import salfom_hf; print(*dir(salfom_hf))").split()
    assert set(salfom_hf.__all__) <= set(names)
    assert "__version__" in names
    for name in salfom_hf.__all__:
        assert getattr(salfom_hf, name).__name__ == name


def test_names_stay_what_they_are_once_all_modules_are_imported():
    modules = ", ".join(f"salfom_hf.{name}" for name in SUBMODULES)
    printed = run(f"import {modules}\nfor name in salfom_hf.__all__: print(getattr(salfom_hf, name).__name__)")
    assert printed.split() == salfom_hf.__all__


def test_metrics_need_neither_datasets_nor_accelerate():
    assert loaded_by("import salfom_hf.metrics").isdisjoint({"accelerate", "datasets", "transformers"})


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


@pytest.mark.parametrize(
    "before",
    [
        "import salfom_hf",
        "from salfom_hf import pipeline",
        "from transformers import pipeline",
        "import salfom_hf.models.modeling_umt",
    ],
)
def test_transformers_knows_models_and_pipeline(before):
    models = ["SalFoMModel", "SalFoMForVideoSaliencyPrediction"]
    assert run(before + LOAD).split() == ["SalFoMConfig", *models, *["SalFoMVideoProcessor"] * 2, "True"]


def test_auto_classes_know_the_encoders(tmp_path):
    for name in ("UMT", "EfficientNetLite"):
        config = getattr(salfom_hf, f"{name}Config")(**SMALL.get(name, {}))
        assert type(AutoModel.from_config(config)) is getattr(salfom_hf, f"{name}Model")
        config.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
