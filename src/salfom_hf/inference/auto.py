"""Registration with transformers' Auto classes and pipelines, so that they load this package's models and names.

`import salfom_hf` imports neither transformers nor PyTorch, which takes seconds. So the entrances of transformers are
wrapped once they are imported, and the first one to be used registers everything.
"""

import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto"
# Module of transformers → what looks for classes of this package; of a class, `from_pretrained` and `from_config`.
ENTRANCES = {
    f"{AUTO}.configuration_auto": ("AutoConfig",),
    f"{AUTO}.modeling_auto": ("AutoModel", "AutoModelForImageToImage"),
    f"{AUTO}.processing_auto": ("AutoProcessor",),
    f"{AUTO}.video_processing_auto": ("AutoVideoProcessor",),
    "transformers.pipelines": ("pipeline",),
}


@lru_cache
def register() -> None:
    """Register configurations, models, processor and pipeline with transformers."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageToImage, AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    import salfom_hf as own

    from ..models.names import KNOWN
    from .pipeline_salfom import TASK

    for model in (own.UMTModel, own.EfficientNetLiteModel, own.SalFoMModel):
        config: Any = model.config_class
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
    # transformers has no Auto class for saliency: this is the one for models that make a picture of pictures.
    AutoModelForImageToImage.register(own.SalFoMConfig, own.SalFoMForVideoSaliencyPrediction, exist_ok=True)
    for processors in (AutoProcessor, AutoVideoProcessor):
        processors.register(own.SalFoMConfig, own.SalFoMVideoProcessor, exist_ok=True)
    default = {"model": (str(KNOWN["salfom"]), "main")}
    PIPELINE_REGISTRY.register_pipeline(TASK, own.VideoSaliencyPipeline, (AutoModelForImageToImage,), default, "video")


def registering(function: Callable) -> Callable:
    """The same function, which registers first, and takes the package's own names of models for their folders."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        from ..models.names import resolve

        register()
        named = {name: resolve(kwargs[name]) for name in {"pretrained_model_name_or_path", "model"} & kwargs.keys()}
        return function(*map(resolve, args), **kwargs | named)

    return call


def wrap(module: ModuleType) -> None:
    """Wrap the entrances in a module of transformers."""
    for name in ENTRANCES[module.__name__]:
        entrance = getattr(module, name)
        if not isinstance(entrance, type):
            setattr(module, name, registering(entrance))
        for method in {"from_pretrained", "from_config"} & set(dir(entrance)):
            setattr(entrance, method, classmethod(registering(getattr(entrance, method).__func__)))


class WrappingFinder:
    """Finds the modules of `ENTRANCES` as Python does, and wraps them when they have been imported."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in ENTRANCES else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                wrap(module)

            vars(spec.loader)["exec_module"] = execute_and_wrap
        return spec


def install() -> None:
    """Register at once where transformers is in use already, and else when it is."""
    sys.meta_path.insert(0, WrappingFinder())
    for name in ENTRANCES.keys() & sys.modules.keys():
        wrap(sys.modules[name])
    if "transformers.pipelines" in sys.modules:  # Its function may have been taken from there already.
        register()
