"""Registration with transformers' Auto classes and pipelines, so that they load this package's models and names.

`import salfom_hf` imports neither transformers nor PyTorch, which takes seconds. So the entry points of transformers
are wrapped once they are imported, and whoever calls one first has everything registered.
"""

import os
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from importlib.abc import MetaPathFinder
from types import ModuleType

# Module of transformers → its class, and the methods that look for a class of this package; or a function.
ENTRY_POINTS = {
    "transformers.models.auto.configuration_auto": ("AutoConfig", ("from_pretrained", "for_model")),
    "transformers.models.auto.modeling_auto": ("AutoModel", ("from_pretrained", "from_config")),
    "transformers.models.auto.processing_auto": ("AutoProcessor", ("from_pretrained",)),
    "transformers.models.auto.video_processing_auto": ("AutoVideoProcessor", ("from_pretrained",)),
    "transformers.pipelines": ("pipeline", ()),
}


@lru_cache
def register() -> None:
    """Register configurations, models, processor and pipeline with transformers."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..models.configuration_salfom import EfficientNetLiteConfig, SalFoMConfig, UMTConfig
    from ..models.modeling_efficientnet_lite import EfficientNetLiteModel
    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.modeling_umt import UMTModel
    from ..models.names import KNOWN
    from ..models.video_processing_salfom import SalFoMVideoProcessor
    from .pipeline import TASK, VideoSaliencyPipeline

    for config_class, model_class in (
        (UMTConfig, UMTModel),
        (EfficientNetLiteConfig, EfficientNetLiteModel),
        (SalFoMConfig, SalFoMForVideoSaliencyPrediction),
    ):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(SalFoMConfig, SalFoMVideoProcessor, exist_ok=True)
    AutoVideoProcessor.register(SalFoMConfig, SalFoMVideoProcessor, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=VideoSaliencyPipeline,
        pt_model=(AutoModel,),
        default={"model": (str(KNOWN["salfom"]), "main")},
        type="video",
    )


def registering(function: Callable) -> Callable:
    """The same function, which registers first."""

    @wraps(function)
    def call(*args, **kwargs):
        register()
        return function(*args, **kwargs)

    return call


def taking_names(from_pretrained: Callable) -> Callable:
    """
    The same function, which also takes the package's own names. Auto classes ask the Hub about a name before they know
    whose it is, and offer nothing to register for that.
    """
    from ..models.names import resolve

    @wraps(from_pretrained)
    def call(cls, pretrained_model_name_or_path, *args, **kwargs):
        return from_pretrained(cls, resolve(pretrained_model_name_or_path), *args, **kwargs)

    return call


def wrap(module: ModuleType) -> None:
    """Wrap the entry points of a module of transformers."""
    name, methods = ENTRY_POINTS[module.__name__]
    entry = getattr(module, name)
    for method in methods:
        function = registering(getattr(entry, method).__func__)
        setattr(entry, method, classmethod(taking_names(function) if method == "from_pretrained" else function))
    if not methods:
        from ..models.names import resolve

        @wraps(entry)
        def pipeline(task=None, model=None, *args, **kwargs):
            register()
            model = resolve(model) if isinstance(model, (str, os.PathLike)) else model
            return entry(task, model, *args, **kwargs)

        setattr(module, name, pipeline)
        transformers = sys.modules["transformers"]
        if vars(transformers).get(name) is entry:  # It was used before this package was imported.
            setattr(transformers, name, pipeline)


class WrappingFinder(MetaPathFinder):
    """Finds the modules of `ENTRY_POINTS` as Python does, and wraps these when the module has been imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in ENTRY_POINTS:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                del loader.exec_module
                execute(module)
                wrap(module)

            loader.exec_module = execute_and_wrap
        return spec


def install() -> None:
    """Wrap what is imported already, and the rest once it is."""
    for name in [name for name in ENTRY_POINTS if name in sys.modules]:
        wrap(sys.modules[name])
    sys.meta_path.insert(0, WrappingFinder())


__all__ = ["install", "register"]
