"""SalFoM video saliency prediction for the Hugging Face ecosystem."""

from transformers import AutoConfig, AutoModel

from .configuration_salfom import SalFoMConfig
from .efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel
from .modeling_salfom import SalFoMForVideoSaliencyPrediction, SalFoMModel
from .umt import UMTConfig, UMTModel

for config_class, model_class in (
    (UMTConfig, UMTModel),
    (EfficientNetLiteConfig, EfficientNetLiteModel),
    (SalFoMConfig, SalFoMForVideoSaliencyPrediction),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
