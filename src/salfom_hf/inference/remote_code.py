"""Code that goes with a saved model, so that transformers loads it where this package is not installed.

transformers takes flat files that import one another as `from .module import name`; the package's modules are copied
with their relative imports rewritten to that. What has been copied so can be copied again.
"""

import ast
import json
import re
from pathlib import Path

TASK = "video-saliency-prediction"

PIPELINE = Path(__file__).with_name("pipeline.py")
# Of `from ..video.reading import probe`, what stands in the way of `from .reading import probe`.
RELATIVE = re.compile(r"^(\s*from )\.+(?:\w+\.)*(?=\w+ import )", flags=re.MULTILINE)


def imported_files(file: Path) -> list[Path]:
    """The files that a module imports from by relative imports."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    return [file.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py") for node in imports]


def code_files() -> list[Path]:
    """The pipeline's module and all that it imports: configuration, network and processor included."""
    found, waiting = set(), [PIPELINE]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imported_files(file)
    return sorted(found)


def add_remote_code(folder: Path) -> None:
    """
    Copy the code into a folder of a saved model and processor, and say in their configurations where the classes are.

    With this package imported, transformers and [`SalFoMConfig`] pass over all of that; without it, users have to say
    `trust_remote_code=True`.
    """
    for file in code_files():
        text = RELATIVE.sub(r"\1.", file.read_text(encoding="utf-8"))
        (folder / file.name).write_text(text, encoding="utf-8")
    update_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_salfom.SalFoMConfig",
            "AutoModel": "modeling_salfom.SalFoMForVideoSaliencyPrediction",
        },
        custom_pipelines={TASK: {"impl": "pipeline.VideoSaliencyPipeline", "pt": ["AutoModel"], "type": "video"}},
    )
    processor = "video_processing_salfom.SalFoMVideoProcessor"
    update_json(
        folder / "video_preprocessor_config.json",
        auto_map={"AutoProcessor": processor, "AutoVideoProcessor": processor},
    )


def update_json(path: Path, **values) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


__all__ = ["TASK", "add_remote_code", "code_files"]
