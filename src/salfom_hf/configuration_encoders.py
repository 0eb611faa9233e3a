"""Configurations of the package's own encoders, apart from their networks: without those they are quick to import."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    r"""
    Configuration of [`EfficientNetLiteModel`]; the defaults are Lite0.

    Args:
        num_channels (`int`, defaults to 3): channels of a frame.
        stem_channels (`int`, defaults to 32): channels after the first convolution (stride 2).
        stage_channels, stage_depths, stage_strides, stage_kernels, stage_expansions (lists of `int`): per stage the
            output channels, number of blocks, stride of the first block, depthwise kernel and expansion ratio.
        batch_norm_eps (`float`, defaults to 1e-3): epsilon of the batch norms.
    """

    model_type = "efficientnet_lite"

    num_channels: int = 3
    stem_channels: int = 32
    stage_channels: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    stage_depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    stage_strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    stage_kernels: list[int] | tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    stage_expansions: list[int] | tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    batch_norm_eps: float = 1e-3

    def validate_stages(self):
        lengths = {
            len(per_stage)
            for per_stage in (
                self.stage_channels,
                self.stage_depths,
                self.stage_strides,
                self.stage_kernels,
                self.stage_expansions,
            )
        }
        if len(lengths) != 1:
            raise ValueError("stage_channels, _depths, _strides, _kernels and _expansions must have one length.")

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the deepest feature map of each stride."""
        channels, stride = {}, 2
        for stage_channels, stage_stride in zip(self.stage_channels, self.stage_strides, strict=True):
            stride *= stage_stride
            channels[stride] = stage_channels
        return channels


@strict
class UMTConfig(PreTrainedConfig):
    r"""
    Configuration of [`UMTModel`]. The defaults are UMT-L/16 with 16 frames of 224×224 pixels; UMT-B/16 has
    `hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12`.

    Args:
        image_size (`int` or pair of `int`, defaults to 224): height and width in pixels for which the position table
            is stored. Other sizes are accepted by the model, which interpolates the table.
        patch_size (`int`, defaults to 16): height and width of a patch in pixels.
        num_frames (`int`, defaults to 16): frames for which the position table is stored.
        num_channels (`int`, defaults to 3): channels of a frame.
        hidden_size (`int`, defaults to 1024): width of the tokens.
        intermediate_size (`int`, defaults to 4096): width of the hidden layer of the MLP.
        num_hidden_layers (`int`, defaults to 24): transformer blocks.
        num_attention_heads (`int`, defaults to 16): attention heads per block.
        hidden_act (`str`, defaults to `"gelu"`): activation of the MLP.
        layer_norm_eps (`float`, defaults to 1e-6): epsilon of the layer norms.
        attention_dropout (`float`, defaults to 0.0): dropout on the attention weights.
        initializer_range (`float`, defaults to 0.02): standard deviation of the initial weights.
    """

    model_type = "umt"

    image_size: int | list[int] | tuple[int, ...] = 224
    patch_size: int = 16
    num_frames: int = 16
    num_channels: int = 3
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02

    def validate_heads(self):
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )

    def validate_image_size(self):
        if any(side % self.patch_size or side < self.patch_size for side in self.image_height_width):
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size}).")

    @property
    def image_height_width(self) -> tuple[int, int]:
        """The image size as (height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (frames, rows, columns) of the stored position table."""
        height, width = self.image_height_width
        return self.num_frames, height // self.patch_size, width // self.patch_size


__all__ = ["EfficientNetLiteConfig", "UMTConfig"]
