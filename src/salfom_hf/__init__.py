"""SalFoM video saliency prediction for the Hugging Face ecosystem: a video in, maps of where people look out.

Names are imported when they are first used (PEP 562): transformers and PyTorch take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register

if TYPE_CHECKING:
    from .configuration_encoders import EfficientNetLiteConfig, UMTConfig
    from .configuration_salfom import SalFoMConfig
    from .efficientnet_lite import EfficientNetLiteModel
    from .modeling_salfom import SalFoMForVideoSaliencyPrediction, SalFoMModel
    from .pipeline_salfom import VideoSaliencyPipeline, pipeline
    from .predictor import SaliencyFrame, SaliencyPredictor
    from .umt import UMTModel
    from .video import VideoError
    from .video_processing_salfom import SalFoMVideoProcessor

    __version__: str

# Name → module that defines it.
_MODULES = {
    "EfficientNetLiteConfig": "configuration_encoders",
    "EfficientNetLiteModel": "efficientnet_lite",
    "SalFoMConfig": "configuration_salfom",
    "SalFoMForVideoSaliencyPrediction": "modeling_salfom",
    "SalFoMModel": "modeling_salfom",
    "SalFoMVideoProcessor": "video_processing_salfom",
    "SaliencyFrame": "predictor",
    "SaliencyPredictor": "predictor",
    "UMTConfig": "configuration_encoders",
    "UMTModel": "umt",
    "VideoError": "video",
    "VideoSaliencyPipeline": "pipeline_salfom",
    "pipeline": "pipeline_salfom",
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


def __getattr__(name: str):
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


register()
