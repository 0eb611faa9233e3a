"""SalFoM video saliency prediction for the Hugging Face ecosystem: a video in, maps of where people look out.

Names are imported when they are first used (PEP 562): transformers and PyTorch take seconds.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .inference.auto import install

if TYPE_CHECKING:
    from .errors import VideoError as VideoError
    from .inference.pipeline import VideoSaliencyPipeline as VideoSaliencyPipeline
    from .inference.pipeline import pipeline as pipeline
    from .inference.predictor import SaliencyFrame as SaliencyFrame
    from .inference.predictor import SaliencyPredictor as SaliencyPredictor
    from .models.configuration_salfom import EfficientNetLiteConfig as EfficientNetLiteConfig
    from .models.configuration_salfom import SalFoMConfig as SalFoMConfig
    from .models.configuration_salfom import UMTConfig as UMTConfig
    from .models.modeling_efficientnet_lite import EfficientNetLiteModel as EfficientNetLiteModel
    from .models.modeling_salfom import SalFoMForVideoSaliencyPrediction as SalFoMForVideoSaliencyPrediction
    from .models.modeling_salfom import SalFoMModel as SalFoMModel
    from .models.modeling_umt import UMTModel as UMTModel
    from .models.video_processing_salfom import SalFoMVideoProcessor as SalFoMVideoProcessor

    __version__: str

# Name → module that defines it.
_MODULES = {
    "EfficientNetLiteConfig": "models.configuration_salfom",
    "EfficientNetLiteModel": "models.modeling_efficientnet_lite",
    "SalFoMConfig": "models.configuration_salfom",
    "SalFoMForVideoSaliencyPrediction": "models.modeling_salfom",
    "SalFoMModel": "models.modeling_salfom",
    "SalFoMVideoProcessor": "models.video_processing_salfom",
    "SaliencyFrame": "inference.predictor",
    "SaliencyPredictor": "inference.predictor",
    "UMTConfig": "models.configuration_salfom",
    "UMTModel": "models.modeling_umt",
    "VideoError": "errors",
    "VideoSaliencyPipeline": "inference.pipeline",
    "pipeline": "inference.pipeline",
}

if not TYPE_CHECKING:  # Type checkers cannot read this; without it, they take what is imported for them above.
    __all__ = [*_MODULES]


@contextmanager
def importing() -> Iterator[None]:
    """For imports, which make a million objects and drop few: to look for those is a quarter of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("salfom-hf")
    elif name in _MODULES:
        with importing():
            value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})


install()
