"""Code that goes with a published model, so that transformers loads it where this package is not installed.

transformers takes flat files that import one another as `from .module import name`; the package's modules are copied
with their relative imports rewritten to that: `pipeline_salfom`, and all that it imports, however indirectly. An
import that is added to one of them is published, too. Modules are put together, so that there are few files: those of
the model, with `errors.py`, are one, an encoder of this package is another, and the pipeline with all else is the
third (`place_of`). So modules of one file must not define the same top-level name, and `from . import module` is
passed over: import names from it.
"""

import ast
import json
from pathlib import Path
from typing import Any

from ..inference import pipeline_salfom
from ..models.encoders import OWN_MODELS

PIPELINE = Path(pipeline_salfom.__file__)
MODELS = PIPELINE.parents[1] / "models"


def place_of(file: Path) -> str:
    """The file, without its suffix, that a module goes into: that of the model, of its encoder, or of the pipeline."""
    if any(file.stem == module for module, _ in OWN_MODELS.values()):
        return file.stem
    of_model = file.parent == MODELS and file.stem != "video_processing_salfom"
    return "modeling_salfom" if of_model or file.stem == "errors" else "pipeline_salfom"


def relative_imports(file: Path) -> dict[ast.ImportFrom, Path]:
    """The statements of a module that import from others of the package, but for names of models; and those."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {
        node: file.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level and node.module and node.module != "names"
    }


def with_imported(file: Path, found: list[Path]) -> list[Path]:
    """What was `found` before, and this file, each after all that it imports."""
    for other in [] if file in found else relative_imports(file).values():
        found = with_imported(other, found)
    return found if file in found else [*found, file]


def code_of(file: Path) -> str:
    """A module as it goes with a model: without what it imports from the file that it goes into."""
    text = code = file.read_text(encoding="utf-8")
    for node, other in relative_imports(file).items():
        names = ", ".join(name.name for name in node.names)
        line = "" if place_of(other) == place_of(file) else f"from .{place_of(other)} import {names}"
        code = code.replace(ast.get_source_segment(text, node) or "", line, 1)
    # The package's own names of models mean nothing where it is not.
    return code.replace("from .names import takes_names\n", "").replace("@takes_names\n", "")


def code_for(encoder_type: str) -> dict[str, str]:
    """Name → content of the files for models on an encoder of this type: the pipeline, and all that it imports."""
    found, last_line = with_imported(PIPELINE, []), ""
    if encoder_type in OWN_MODELS:
        module, name = OWN_MODELS[encoder_type]
        found = with_imported(MODELS / f"{module}.py", found)
        # transformers takes the files that others import from, and this one is imported by its name.
        last_line = f"\n\nfrom .{module} import {name}  # noqa: E402, F401\n"
    code: dict[str, str] = {}
    for file in found:
        place = f"{place_of(file)}.py"
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
            "AutoConfig": "modeling_salfom.SalFoMConfig",
            "AutoModel": "modeling_salfom.SalFoMModel",
            "AutoModelForImageToImage": "modeling_salfom.SalFoMForVideoSaliencyPrediction",
        },
        custom_pipelines={pipeline_salfom.TASK: task},
    )
    processor = "pipeline_salfom.SalFoMVideoProcessor"
    update_json(
        folder / "video_preprocessor_config.json",
        auto_map={"AutoProcessor": processor, "AutoVideoProcessor": processor},
    )


def update_json(path: Path, **values: Any) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
