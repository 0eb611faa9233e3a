"""SalFoM video saliency prediction for the Hugging Face ecosystem: a video in, maps of where people look out."""

from importlib.metadata import version

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .configuration_salfom import SalFoMConfig
from .efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from .modeling_salfom import SalFoMForVideoSaliencyPrediction, SalFoMModel
from .predictor import SaliencyFrame, SaliencyPredictor
from .umt import UMTConfig, UMTModel
from .video import VideoError
from .video_processing_salfom import SalFoMVideoProcessor

__version__ = version("salfom-hf")

for config_class, model_class in (
    (UMTConfig, UMTModel),
    (EfficientNetLiteConfig, EfficientNetLiteModel),
    (SalFoMConfig, SalFoMForVideoSaliencyPrediction),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
AutoProcessor.register(SalFoMConfig, SalFoMVideoProcessor)
AutoVideoProcessor.register(SalFoMConfig, SalFoMVideoProcessor)

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
]
