"""Code that goes with a published model, so that transformers loads it where this package is not installed.

transformers takes flat files that import one another as `from .module import name`; the package's modules are copied
with their relative imports rewritten to that: `pipeline_salfom`, and all that it imports, however indirectly. An
import that is added to one of them is published, too. Those of `video/` become one file, `video.py`.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from ..inference import pipeline_salfom
from ..models.encoders import OWN_MODELS

PIPELINE = Path(pipeline_salfom.__file__)
MODELS, VIDEO = PIPELINE.parents[1] / "models", PIPELINE.parents[1] / "video"
# Of `from ..models.losses import gaussian_blur`, what stands in the way of `from .losses import gaussian_blur`.
RELATIVE = re.compile(r"^(\s*from )\.+(?:\w+\.)*(?=\w+ import )", flags=re.MULTILINE)
FROM_VIDEO = re.compile(r"^(\s*from )\.+video\.\w+(?= import )", flags=re.MULTILINE)
WITHIN_VIDEO = re.compile(r"^from \.\w+ import (?:\([^)]*\)|.*)\n", flags=re.MULTILINE)
# The package's own names of models mean nothing where it is not.
NAMES = re.compile(r"^(from \.names import |@)takes_names\n", flags=re.MULTILINE)


def code_of(file: Path) -> str:
    text = NAMES.sub("", file.read_text(encoding="utf-8"))
    text = WITHIN_VIDEO.sub("", text) if file.parent == VIDEO else FROM_VIDEO.sub(r"\1.video", text)
    return RELATIVE.sub(r"\1.", text)


def imported_files(file: Path) -> list[Path]:
    """The files that a module imports from by relative imports, once it is code that goes with a model."""
    nodes = ast.walk(ast.parse(NAMES.sub("", file.read_text(encoding="utf-8"))))
    return [
        file.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    ]


def with_imported(file: Path, found: list[Path]) -> list[Path]:
    """What was `found` before, and this file, each after all that it imports."""
    for other in [] if file in found else imported_files(file):
        found = with_imported(other, found)
    return found if file in found else [*found, file]


def code_for(encoder_type: str) -> dict[str, str]:
    """Name → content of the files for models on an encoder of this type: the pipeline, and all that it imports."""
    found, last_line = with_imported(PIPELINE, []), ""
    if encoder_type in OWN_MODELS:
        module, name = OWN_MODELS[encoder_type]
        found = with_imported(MODELS / f"{module}.py", found)
        # transformers takes the files that others import from, and this one is imported by its name.
        last_line = f"\nfrom .{module} import {name}  # noqa: E402, F401\n"
    code: dict[str, str] = {}
    for file in found:
        place = "video.py" if file.parent == VIDEO else file.name
        code[place] = "\n\n".join([*([code[place]] if place in code else []), code_of(file)])
    code["modeling_salfom.py"] += last_line
    return code


def add_remote_code(folder: Path) -> None:
    """
    Copy the code into a folder of a saved model and processor, and say in their configurations where the classes are.

    With this package imported, transformers and [`SalFoMConfig`] pass over all of that; without it, users have to say
    `trust_remote_code=True`.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name, code in code_for(config["encoder_config"]["model_type"]).items():
        (folder / name).write_text(code, encoding="utf-8")
    task = {"impl": "pipeline_salfom.VideoSaliencyPipeline", "pt": ["AutoModelForImageToImage"], "type": "video"}
    update_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_salfom.SalFoMConfig",
            "AutoModel": "modeling_salfom.SalFoMModel",
            "AutoModelForImageToImage": "modeling_salfom.SalFoMForVideoSaliencyPrediction",
        },
        custom_pipelines={pipeline_salfom.TASK: task},
    )
    processor = "video_processing_salfom.SalFoMVideoProcessor"
    update_json(
        folder / "video_preprocessor_config.json",
        auto_map={"AutoProcessor": processor, "AutoVideoProcessor": processor},
    )


def update_json(path: Path, **values: Any) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["add_remote_code", "code_for"]
