"""
Frame-wise encoders, ready to run. The light one in float32 is an ONNX graph in memory: onnxruntime computes it in half
of PyTorch's time or less. In bfloat16, oneDNN computes each convolution with its norm and activation in one call.
"""

import copy
from collections.abc import Callable
from typing import Any

import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import PreTrainedModel

from ..models.encoders import check_clips
from ..models.modeling_efficientnet_lite import ConvNorm, EfficientNetLiteModel
from ..models.modeling_salfom import SalFoMModel
from .profiling import stage

# Of ONNX: operators and file format of the year 2020, which every onnxruntime that is in use can read.
OPSET, FORMAT = 13, 7


class Graph:
    """Operators and weights; methods that add some give the name of what comes out."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"node{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, values: torch.Tensor) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.detach().contiguous().numpy(), name))
        return name

    def conv_norm(self, features: str, norm: Any) -> str:
        """What a `ConvNorm` computes in evaluation mode."""
        folded, (before, after) = fuse_conv_bn_eval(norm[0], norm[1]), norm.pads
        weights = [self.weight(values) for values in (folded.weight, folded.bias)]
        pads, strides = [before, before, after, after], list(folded.stride)
        features = self.node("Conv", features, *weights, pads=pads, strides=strides, group=folded.groups)
        if not norm.activation:
            return features
        return self.node("Clip", features, self.weight(torch.tensor(0.0)), self.weight(torch.tensor(6.0)))

    def frame_features(self, pixels: str, encoder: Any, projection: Any) -> str:
        """Pixels of frames to what encoder and projection make of them."""
        features, by_stride = self.conv_norm(pixels, encoder.stem), {}
        for block, stride in zip(encoder.blocks, encoder.strides, strict=True):
            before = features
            for part in (block.expand, block.depthwise, block.project):
                features = features if isinstance(part, nn.Identity) else self.conv_norm(features, part)
            if block.residual:
                features = self.node("Add", before, features)
            by_stride[stride] = features
        # The projection of `fuse_scales`, scale by scale: a kernel of 2×2 reads the fine pixels where they lie, and
        # the coarse features are up-sampled when they are few.
        channels = encoder.config.feature_channels
        fine, middle, coarse = projection.weight.split([4 * channels[8], channels[16], channels[32]], 1)
        fine = fine.unflatten(1, (channels[8], 2, 2)).squeeze((-2, -1))
        of_fine = self.node("Conv", by_stride[8], self.weight(fine), strides=[2, 2])
        of_middle = self.node("Conv", by_stride[16], self.weight(middle), self.weight(projection.bias))
        of_coarse = self.node("Conv", by_stride[32], self.weight(coarse))
        scales = self.weight(torch.tensor([1.0, 1.0, 2.0, 2.0]))
        of_coarse = self.node("Resize", of_coarse, "", scales, mode="linear")
        return self.node("Relu", self.node("Add", self.node("Add", of_fine, of_middle), of_coarse))


def can_be_a_graph(network: SalFoMModel) -> bool:
    """Whether [`encoder_session`] takes a network: with the light encoder, its projection, and float32."""
    is_light = network.encoder.config.model_type == "efficientnet_lite"
    return is_light and network.projection is not None and network.dtype == torch.float32


def encoder_model(network: SalFoMModel) -> ModelProto:
    """
    The graph of what a network computes before its decoder: `pixels`, float32 `(frames, 3, height, width)`, to
    features `(frames, channels, height / 16, width / 16)`. The weights are copied as they are now.
    """
    graph = Graph()
    features = graph.frame_features("pixels", network.encoder, network.projection)
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["frames", 3, "height", "width"])
    output = helper.make_tensor_value_info(features, TensorProto.FLOAT, ["frames", "channels", "rows", "columns"])
    whole = helper.make_graph(graph.nodes, "encoder", [pixels], [output], graph.weights)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT)


def encoder_session(network: SalFoMModel, threads: int) -> onnxruntime.InferenceSession:
    """What runs [`encoder_model`] on a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # Errors.
    # Between calls its threads sleep at once, as the decoder needs the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = encoder_model(network).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class FusedConvNorm(nn.Module):
    """What a [`ConvNorm`] computes in evaluation mode, with what follows, by one call of oneDNN; without gradients."""

    def __init__(self, norm: ConvNorm):
        super().__init__()
        fused = fuse_conv_bn_eval(*copy.deepcopy(norm).float()).to(norm[0].weight.dtype).requires_grad_(False)
        weight, padding = fused.weight, fused.padding
        if norm.asymmetric:
            # A zero in front of the kernel makes the padding symmetric, without a padded copy of the input.
            weight, padding = F.pad(weight, (1, 0, 1, 0)), (norm.kernel // 2,) * 2
        self.weight, self.bias = weight.detach().contiguous(memory_format=torch.channels_last), fused.bias
        self.packed: torch.Tensor | None = None
        self.geometry = padding, fused.stride, fused.dilation, fused.groups
        self.activation = ("hardtanh", [0.0, 6.0]) if norm.activation else ("none", [])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features.contiguous(memory_format=torch.channels_last)
        if self.packed is None:  # In the layout that suits this size best, and holds for others, too.
            pack: Callable = torch._C._nn.mkldnn_reorder_conv2d_weight  # PyTorch's annotations lack an argument.
            self.packed = pack(self.weight.to_mkldnn(), *self.geometry, features.shape)
        return torch.ops.mkldnn._convolution_pointwise(
            features, self.packed, self.bias, *self.geometry, *self.activation, ""
        )


def fused(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of an EfficientNet-Lite in bfloat16, with its batch norms folded; any other encoder as it is."""
    offered = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if encoder.dtype != torch.bfloat16 or not isinstance(encoder, EfficientNetLiteModel) or not offered:
        return encoder
    model = copy.deepcopy(encoder)
    for name, module in list(model.named_modules()):
        if isinstance(module, ConvNorm):
            model.set_submodule(name, FusedConvNorm(module))
    return model


class FrameEncoder:
    """
    The frame-wise encoder of a network in evaluation mode, ready to run; its weights are taken as they are now, and as
    many threads as PyTorch has now, unless it is told.
    """

    def __init__(self, network: SalFoMModel, threads: int | None = None):
        self.threads = threads or torch.get_num_threads()
        self.session = encoder_session(network, self.threads) if can_be_a_graph(network) else None
        self.adapter, self.stride = network.adapter, network.config.encoder_stride
        self.encoder, self.projection = fused(network.encoder), network.projection

    @torch.inference_mode()
    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(frames, 3, height, width)` to `(frames, channels, rows, columns)`."""
        with stage("encoder"):
            if self.session is not None:
                (features,) = self.session.run(None, {"pixels": pixel_values.contiguous().numpy()})
                return torch.from_numpy(features).contiguous(memory_format=torch.channels_last)
            check_clips(pixel_values.unsqueeze(1), 1, self.stride)
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
            features = self.adapter.features(self.encoder, pixel_values)[0]
            return features if self.projection is None else self.projection(features).relu_()
