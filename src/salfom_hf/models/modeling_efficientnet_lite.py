"""EfficientNet-Lite0, the light frame-wise encoder of the weights that ship in the package.

Tan & Le, "EfficientNet", ICML 2019, in the Lite variant (TensorFlow TPU repository, 2020): no squeeze-and-excitation,
ReLU6 in place of swish. It runs on every frame by itself and expects pixels as `(x - 127) / 128`.

On a CPU, `inference/encoder_graph.py` computes the same layers in its own way, and its tests compare both: who changes
the encoder here changes it there, too.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_salfom import EfficientNetLiteConfig


class ConvNorm(nn.Sequential):
    """Convolution with TensorFlow's "SAME" padding, batch norm and, unless `activation=False`, ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, config: EfficientNetLiteConfig, **options: int):
        stride, groups = options.get("stride", 1), options.get("groups", 1)
        # "SAME" on an even input puts the odd pixel of padding at the end, which a symmetric padding cannot express.
        self.kernel, self.asymmetric = kernel, stride > 1
        self.pads = ((kernel - 2) // 2, (kernel - 1) // 2) if self.asymmetric else (kernel // 2, kernel // 2)
        padding = 0 if self.asymmetric else kernel // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=config.batch_norm_eps, momentum=0.01),
        )
        self.activation = options.get("activation", True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.asymmetric:
            features = F.pad(features, self.pads * 2)
        features = super().forward(features)
        return F.relu6(features) if self.activation else features


class InvertedResidual(GradientCheckpointingLayer):
    """MobileNetV2 block: 1×1 expansion, depthwise convolution, linear 1×1 projection, residual where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, config: EfficientNetLiteConfig
    ):
        super().__init__()
        width = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.expand = ConvNorm(inputs, width, 1, config) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(width, width, kernel, config, stride=stride, groups=width)
        self.project = ConvNorm(width, outputs, 1, config, activation=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        output = self.project(self.depthwise(self.expand(features)))
        return features + output if self.residual else output


class EfficientNetLiteModel(PreTrainedModel):
    """EfficientNet-Lite without classifier; gives the feature maps of strides 8, 16 and 32."""

    config: EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["InvertedResidual"]  # noqa: RUF012
    _supports_sdpa = True  # It has no attention that could not be: what is chosen for SalFoM reaches its encoder.
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": InvertedResidual}  # noqa: RUF012

    def __init__(self, config: EfficientNetLiteConfig):
        super().__init__(config)
        self.stem = ConvNorm(config.num_channels, config.stem_channels, 3, config, stride=2)
        self.blocks = nn.ModuleList()
        self.strides = []  # Of the frame over the output of each block.
        inputs, total_stride = config.stem_channels, 2
        names = ("channels", "depths", "strides", "kernels", "expansions")
        stages = zip(*(getattr(config, f"stage_{name}") for name in names), strict=True)
        for outputs, depth, stride, kernel, expansion in stages:
            total_stride *= stride
            for index in range(depth):
                block_stride = stride if index == 0 else 1
                self.blocks.append(InvertedResidual(inputs, outputs, kernel, block_stride, expansion, config))
                inputs = outputs
                self.strides.append(total_stride)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out")

    @capture_outputs
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BackboneOutput:
        r"""
        Frames to feature maps.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Frames as `(x - 127) / 128` of 0…255; height and width are multiples of 32.

        Returns:
            `BackboneOutput` with `feature_maps`, `(batch_size, channels, height / stride, width / stride)` for each of
            the strides 8, 16 and 32; with `output_hidden_states=True` also `hidden_states`, of the stem and every
            block.
        """
        features = self.stem(pixel_values.to(self.dtype))
        by_stride = {}
        for block, stride in zip(self.blocks, self.strides, strict=True):
            features = block(features)
            by_stride[stride] = features
        return BackboneOutput(feature_maps=tuple(by_stride[stride] for stride in (8, 16, 32)))
