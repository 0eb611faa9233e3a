"""Convolutions for inference, with what follows them and with weights laid out once."""

import torch
from torch.nn import functional as F

# What follows, as oneDNN calls it: name, arguments.
ACTIVATIONS = {None: ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}


class PackedConvolution:
    """
    A 2-D convolution of channels-last features with a weight that stays as it is.

    On a CPU, oneDNN computes convolution and activation in one go, with the weight in the layout that suits the size
    of the first input; a plain convolution would bring the weight into it with every call. Elsewhere, and in builds
    of PyTorch that do not offer this, it is a plain convolution.

    Args:
        weight: `(outputs, inputs, height, width)`.
        bias: `(outputs,)`.
        stride, padding, groups: as of a convolution.
        activation: a name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
        activation: str | None = None,
    ):
        self.weight = weight.detach().contiguous(memory_format=torch.channels_last)
        self.bias, self.activation = None if bias is None else bias.detach(), activation
        self.geometry = padding, stride, (1, 1), groups
        self.packed: torch.Tensor | None = None
        self.works = False
        known = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        # Graphs that are traced for other programs are made of plain convolutions.
        self.can_pack = known and not torch.compiler.is_compiling()

    def __getstate__(self) -> dict:
        # oneDNN's layouts are of one machine, and cannot be copied: they are made again with the next input.
        return {**self.__dict__, "packed": None, "works": False}

    def plain(self, features: torch.Tensor) -> torch.Tensor:
        padding, stride, dilation, groups = self.geometry
        features = F.conv2d(features, self.weight, self.bias, stride, padding, dilation, groups)
        if self.activation == "relu":
            features.relu_()
        elif self.activation == "relu6":
            features.clamp_(0, 6)
        return features

    def fused(self, features: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            self.packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
                self.weight.to_mkldnn(), *self.geometry, features.shape
            )
        name, arguments = ACTIVATIONS[self.activation]
        return torch.ops.mkldnn._convolution_pointwise(
            features, self.packed, self.bias, *self.geometry, name, arguments, ""
        )

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, inputs, rows, columns)` to `(batch, outputs, …)`, both channels-last."""
        # A program that is exported is for other machines, and may not name oneDNN.
        if self.can_pack and not torch.compiler.is_exporting():
            try:
                result = self.fused(features)
            except (AttributeError, RuntimeError):  # These are not part of PyTorch's public interface.
                if self.works:  # What went well before fails for another reason, such as a lack of memory.
                    raise
                self.can_pack = False
            else:
                self.works = True
                return result
        return self.plain(features)


__all__ = ["PackedConvolution"]
