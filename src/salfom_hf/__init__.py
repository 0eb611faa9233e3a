"""SalFoM video saliency prediction for the Hugging Face ecosystem: a video in, maps of where people look out.

Names are imported when they are first used (PEP 562): transformers and PyTorch take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .inference.auto import install

if TYPE_CHECKING:
    from .errors import VideoError
    from .inference.pipeline import VideoSaliencyPipeline, pipeline
    from .inference.predictor import SaliencyFrame, SaliencyPredictor
    from .models.configuration_salfom import EfficientNetLiteConfig, SalFoMConfig, UMTConfig
    from .models.modeling_efficientnet_lite import EfficientNetLiteModel
    from .models.modeling_salfom import SalFoMForVideoSaliencyPrediction, SalFoMModel
    from .models.modeling_umt import UMTModel
    from .models.video_processing_salfom import SalFoMVideoProcessor

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

__all__ = [
    "EfficientNetLiteConfig",
    "EfficientNetLiteModel",
    "SalFoMConfig",
    "SalFoMForVideoSaliencyPrediction",
    "SalFoMModel",
    "SalFoMVideoProcessor",
    "SaliencyFrame",
    "SaliencyPredictor",
    "UMTConfig",
    "UMTModel",
    "VideoError",
    "VideoSaliencyPipeline",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value = version("salfom-hf")
    elif name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "__version__"})


install()
