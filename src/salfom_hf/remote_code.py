"""Code that goes with a saved model, so that transformers loads it where this package is not installed.

transformers takes flat files that import one another as `from .module import name`; the modules beside this one are of
that kind, so they are copied as they are.
"""

import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

TASK = "video-saliency-prediction"
PIPELINE = Path(__file__).with_name("pipeline_salfom.py")


def code_files() -> list[Path]:
    """The pipeline's module and all that it imports from beside it: configuration, network and processor included."""
    return sorted({PIPELINE, *map(Path, get_relative_import_files(PIPELINE))})


def add_remote_code(folder: Path) -> None:
    """
    Copy the code into a folder of a saved model and processor, and say in their configurations where the classes are.

    With this package imported, transformers and [`SalFoMConfig`] pass over all of that; without it, users have to say
    `trust_remote_code=True`.
    """
    for file in code_files():
        shutil.copyfile(file, folder / file.name)
    update_json(
        folder / "config.json",
        auto_map={
            "AutoConfig": "configuration_salfom.SalFoMConfig",
            "AutoModel": "modeling_salfom.SalFoMForVideoSaliencyPrediction",
        },
        custom_pipelines={
            TASK: {"impl": "pipeline_salfom.VideoSaliencyPipeline", "pt": ["AutoModel"], "type": "video"}
        },
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
