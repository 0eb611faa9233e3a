"""Registration with transformers' Auto classes and pipelines, so that they load this package's models.

`import salfom_hf` imports neither transformers nor PyTorch, which takes seconds. What is registered has to exist,
though: so each registration waits until the module of transformers that it concerns has been imported.
"""

import os
import sys
import threading
from collections.abc import Callable
from functools import wraps
from importlib.abc import MetaPathFinder
from types import ModuleType

PACKAGES = ("transformers", __package__)


def load_known_names(auto_class: type) -> None:
    """
    Have an Auto class load the package's own names (`salfom_hf.pretrained`), too.

    Auto classes ask the Hub about a name before they know whose class it belongs to, and offer nothing to register
    for that. So their `from_pretrained` is wrapped, which changes nothing for any other name.
    """
    from .pretrained import resolve

    original: Callable = auto_class.from_pretrained.__func__

    @wraps(original)
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        return original(cls, resolve(pretrained_model_name_or_path), *args, **kwargs)

    auto_class.from_pretrained = classmethod(from_pretrained)


def register_configs(auto: ModuleType) -> None:
    from .configuration_salfom import EfficientNetLiteConfig, SalFoMConfig, UMTConfig

    for config_class in (UMTConfig, EfficientNetLiteConfig, SalFoMConfig):
        auto.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    load_known_names(auto.AutoConfig)


def register_models(auto: ModuleType) -> None:
    from .efficientnet_lite import EfficientNetLiteModel
    from .modeling_salfom import SalFoMForVideoSaliencyPrediction
    from .umt import UMTModel

    for model_class in (UMTModel, EfficientNetLiteModel, SalFoMForVideoSaliencyPrediction):
        auto.AutoModel.register(model_class.config_class, model_class, exist_ok=True)
    load_known_names(auto.AutoModel)


def register_processor(auto: ModuleType) -> None:
    from .configuration_salfom import SalFoMConfig
    from .video_processing_salfom import SalFoMVideoProcessor

    auto.AutoProcessor.register(SalFoMConfig, SalFoMVideoProcessor, exist_ok=True)
    load_known_names(auto.AutoProcessor)


def register_video_processor(auto: ModuleType) -> None:
    from .configuration_salfom import SalFoMConfig
    from .video_processing_salfom import SalFoMVideoProcessor

    auto.AutoVideoProcessor.register(SalFoMConfig, SalFoMVideoProcessor, exist_ok=True)
    load_known_names(auto.AutoVideoProcessor)


def register_pipeline(pipelines: ModuleType) -> None:
    from transformers import AutoModel

    from .pipeline_salfom import TASK, VideoSaliencyPipeline
    from .pretrained import KNOWN, resolve

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=VideoSaliencyPipeline,
        pt_model=(AutoModel,),
        default={"model": (str(KNOWN["salfom"]), "main")},
        type="video",
    )
    original = pipelines.pipeline

    # As in `load_known_names`: it asks the Hub itself, too.
    @wraps(original)
    def pipeline(task=None, model=None, *args, **kwargs):
        return original(task, resolve(model) if isinstance(model, (str, os.PathLike)) else model, *args, **kwargs)

    pipelines.pipeline = pipeline
    transformers = sys.modules["transformers"]
    if vars(transformers).get("pipeline") is original:  # It was used before this package was imported.
        transformers.pipeline = pipeline


# Module of transformers → what is registered with it.
REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": register_configs,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.processing_auto": register_processor,
    "transformers.models.auto.video_processing_auto": register_video_processor,
    "transformers.pipelines": register_pipeline,
}


class RegistrationFinder(MetaPathFinder):
    """
    Finds the modules of transformers and of this package as Python does, and registers what can be registered whenever
    an import of one is over.

    Modules of both import one another: inside an import, classes to register may not exist yet. So the outermost one
    counts.
    """

    def __init__(self):
        self.waiting = dict(REGISTRATIONS)
        self.imports = threading.local()  # Its `depth`: how many imports are in one another.

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in PACKAGES:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module
            self.imports.depth = getattr(self.imports, "depth", 0) + 1
            try:
                execute(module)
            finally:
                self.imports.depth -= 1
            if self.imports.depth == 0:
                self.register()

        loader.exec_module = execute_and_register
        return spec

    def register(self) -> None:
        """Make the registrations whose modules are imported; nothing is left to find after the last one."""
        for name in [name for name in self.waiting if name in sys.modules]:
            # What is imported for one registration may have made the next.
            make = self.waiting.pop(name, None)
            if make is not None:
                make(sys.modules[name])
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def register() -> None:
    """Register with what is imported already, and with the rest once it is."""
    finder = RegistrationFinder()
    sys.meta_path.insert(0, finder)
    finder.register()


__all__ = ["register"]
