"""The light model's encoder as an ONNX graph in memory: onnxruntime computes it in two thirds of PyTorch's time."""

from typing import Any

import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..models.modeling_salfom import SalFoMModel

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
        folded, kernel = fuse_conv_bn_eval(norm[0], norm[1]), norm.kernel
        before, after = ((kernel - 2) // 2, (kernel - 1) // 2) if norm.asymmetric else (kernel // 2, kernel // 2)
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


__all__ = ["can_be_a_graph", "encoder_model", "encoder_session"]
