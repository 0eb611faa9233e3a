"""Configurations: of SalFoM and of the package's own encoders."""

import math
import re
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .encoders import EncoderAdapter, adapter_for, channels_by_stride, pair
from .names import takes_names

# What no model has: to build one with more would take hours, or all of the memory.
MOST, MOST_LAYERS = 65_536, 256
COUNTED = re.compile("layers|depth|repeats|frames")
POSITIVE = re.compile("(sizes?|channels|heads|frames|strides?|kernels|expansions|divisor)$")


def check_limits(config: PreTrainedConfig) -> None:
    """Raise a ValueError for numbers in a configuration that no model can have."""
    for name, value in vars(config).items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        numbers = [number for number in numbers if isinstance(number, (int, float))]
        most, least = MOST_LAYERS if COUNTED.search(name) else MOST, 1 if POSITIVE.search(name) else -MOST
        total = sum(numbers) if most == MOST_LAYERS else max(numbers, default=0)
        if not (total <= most and len(numbers) <= MOST_LAYERS and all(number >= least for number in numbers)):
            raise ValueError(f"{name} is {value}, which no model has (1 to {most}).")
    if getattr(config, "image_size", None) and getattr(config, "patch_size", None):
        sides = zip(pair(config.image_size), pair(config.patch_size), strict=True)
        if math.prod(side // patch for side, patch in sides) * getattr(config, "num_frames", 1) > MOST:
            raise ValueError(
                f"image_size, patch_size and num_frames make more than {MOST} patches, which no model has."
            )


@strict
class EfficientNetLiteConfig(PreTrainedConfig):
    r"""
    Configuration of [`EfficientNetLiteModel`]; the defaults are Lite0.

    Args:
        num_channels, stem_channels (`int`): channels of a frame, and after the first convolution (stride 2).
        stage_channels, stage_depths, stage_strides, stage_kernels, stage_expansions (lists of `int`): per stage the
            output channels, number of blocks, stride of the first block, depthwise kernel and expansion ratio.
        batch_norm_eps (`float`): epsilon of the batch norms.
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

    def validate_stages(self) -> None:
        check_limits(self)
        names = ("channels", "depths", "strides", "kernels", "expansions")
        if len({len(getattr(self, f"stage_{name}")) for name in names}) != 1:
            raise ValueError("stage_channels, _depths, _strides, _kernels and _expansions must have one length.")
        if not {8, 16, 32} <= self.feature_channels.keys():
            raise ValueError(f"stage_strides {list(self.stage_strides)} make no features of the strides 8, 16 and 32.")

    @property
    def feature_channels(self) -> dict[int, int]:
        """Channels of the deepest feature map of each stride."""
        return channels_by_stride(self.stage_strides, self.stage_channels)


@strict
class UMTConfig(PreTrainedConfig):
    r"""
    Configuration of [`UMTModel`]. The defaults are UMT-L/16 with 16 frames of 224×224 pixels; UMT-B/16 has
    `hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12`.

    Args:
        image_size, num_frames (`int`, the former or a pair): height and width in pixels, and number of the frames for
            which the position table is stored. The model interpolates it for others.
        patch_size, num_channels (`int`): height and width of a patch in pixels, and channels of a frame.
        hidden_size, intermediate_size (`int`): width of the tokens, and of the hidden layer of the MLP.
        num_hidden_layers, num_attention_heads (`int`): transformer blocks, and attention heads of each.
        hidden_act (`str`): activation of the MLP.
        layer_norm_eps (`float`): epsilon of the layer norms.
        attention_dropout (`float`): dropout on the attention weights.
        initializer_range (`float`): standard deviation of the initial weights.
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

    def validate_sizes(self) -> None:
        check_limits(self)
        for name, part in (("hidden_size", "num_attention_heads"), ("image_size", "patch_size")):
            whole, divisor = getattr(self, name), getattr(self, part)
            if any(side % divisor for side in pair(whole)):
                raise ValueError(f"{name} ({whole}) must be a multiple of {part} ({divisor}).")

    @property
    def grid(self) -> tuple[int, int, int]:
        """The token grid (frames, rows, columns) of the stored position table."""
        height, width = pair(self.image_size)
        return self.num_frames, height // self.patch_size, width // self.patch_size


# Those that transformers does not know where saved code runs without the package.
OWN_CONFIGS = {config.model_type: config for config in (UMTConfig, EfficientNetLiteConfig)}


@takes_names
@strict
class SalFoMConfig(PreTrainedConfig):
    r"""
    Configuration of [`SalFoMModel`] and [`SalFoMForVideoSaliencyPrediction`]. The defaults are the paper's model.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, defaults to `UMTConfig()`): the encoder; any type listed in
            `salfom_hf.encoders.ENCODERS`.
        num_frames (`int`, defaults to 16): frames of the clip from which the map of its last frame is predicted. Over
            the encoder's frames per time step it must be a power of two.
        image_size (`int` or pair of `int`, defaults to 224): height and width in pixels of the frames that the model
            was made for; other sizes are accepted as long as the encoder's stride divides them.
        decoder_hidden_size (`int`, *optional*): channels that the decoder reads. `None` takes the encoder's as they
            are; a number projects them by a 1×1 convolution with ReLU.
        decoder_channels (six `int`, defaults to (512, 256, 128, 64, 32, 16)): output channels of the six DFD steps.
            Those of TCFE (2nd, 4th, 6th) and SFD follow, since the branches are added to one another.
        fusion_channels (two `int`, defaults to (32, 16)): channels of the two hidden fusion convolutions.
        use_tcfe, use_dfd, use_sfd (`bool`, default to `True`): which branches exist.
        tcfe_depths (three `int`, defaults to (6, 6, 6)): transformer blocks of the TCFE stages.
        tcfe_num_heads (three `int`, defaults to (8, 8, 8)): attention heads of the TCFE stages.
        tcfe_mlp_ratio (`float`, defaults to 4.0): hidden width of the TCFE MLPs over their input width.
        tcfe_layer_norm_eps (`float`, defaults to 1e-5): epsilon of the TCFE layer norms.
        drop_path_rate (`float`, defaults to 0.2): stochastic depth of the last block of each TCFE stage, growing
            linearly from 0 at the first.
        output_stride (1, 2 or 4, defaults to 1): resolution of the last decoder steps and of the fusion, as the
            factor by which a stride-16 encoder's input is larger. The map is up-sampled from there.
        center_prior (`bool`, defaults to `False`): whether learned maps are added to the logits, one always and one,
            initially a centred Gaussian, as far as the picture moves.
        motion_sharpness (`float`, defaults to 1.0): with `center_prior`, what the logits are multiplied by as far as
            the picture moves: above 1, maps of videos are narrower than those of stills.
        kl_weight, cc_weight (`float`, default to 1.0): weights of the loss terms KL(gt ‖ pred) and −CC.
        initializer_range (`float`, defaults to 0.02): standard deviation of initial linear weights.
    """

    model_type = "salfom"
    sub_configs = {"encoder_config": PreTrainedConfig}  # noqa: RUF012

    encoder_config: dict | PreTrainedConfig | None = None
    num_frames: int = 16
    image_size: int | list[int] | tuple[int, ...] = 224
    decoder_hidden_size: int | None = None
    decoder_channels: list[int] | tuple[int, ...] = (512, 256, 128, 64, 32, 16)
    fusion_channels: list[int] | tuple[int, ...] = (32, 16)
    use_tcfe: bool = True
    use_dfd: bool = True
    use_sfd: bool = True
    tcfe_depths: list[int] | tuple[int, ...] = (6, 6, 6)
    tcfe_num_heads: list[int] | tuple[int, ...] = (8, 8, 8)
    tcfe_mlp_ratio: float | int = 4.0
    tcfe_layer_norm_eps: float = 1e-5
    drop_path_rate: float | int = 0.2
    output_stride: int = 1
    center_prior: bool = False
    motion_sharpness: float | int = 1.0
    kl_weight: float | int = 1.0
    cc_weight: float | int = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if __package__ == "salfom_hf.models":
            # What saved code says of itself is for those without this package: transformers would not load the
            # pipeline without `trust_remote_code`, and models saved again would name code that they lack.
            for name in ("auto_map", "custom_pipelines"):
                kwargs.pop(name, None)
        if self.encoder_config is None:
            self.encoder_config = UMTConfig()
        elif isinstance(self.encoder_config, dict):
            encoder = dict(self.encoder_config)
            if "model_type" not in encoder:
                raise ValueError("encoder_config needs a model_type, such as 'umt'.")
            model_type = encoder.pop("model_type")
            own = OWN_CONFIGS.get(model_type)
            self.encoder_config = own(**encoder) if own else AutoConfig.for_model(model_type, **encoder)
        super().__post_init__(**kwargs)

    def encoder_facts(self) -> tuple[EncoderAdapter, PreTrainedConfig]:
        """What is known of the encoder, and its configuration."""
        assert isinstance(self.encoder_config, PreTrainedConfig)  # As `__post_init__` leaves it.
        return adapter_for(self.encoder_config), self.encoder_config

    def validate_input(self) -> None:
        facts, encoder = self.encoder_facts()
        check_limits(self)
        check_limits(encoder)
        frames_per_step, stride = facts.frames_per_step(encoder), self.encoder_stride
        of_encoder = f"the encoder '{encoder.model_type}'"
        steps, remainder = divmod(self.num_frames, frames_per_step)
        if remainder or steps < 1 or steps & (steps - 1):
            times = f"{frames_per_step} times a power of two"
            raise ValueError(f"num_frames ({self.num_frames}) must be {times} for {of_encoder}.")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be one number or (height, width), not {self.image_size}.")
        if any(side % stride for side in self.image_height_width):
            of = f"a multiple of {stride}, the stride of {of_encoder}"
            raise ValueError(f"image_size ({self.image_size}) must be {of}.")

    def validate_decoder(self) -> None:
        lengths = {"decoder_channels": 6, "fusion_channels": 2, "tcfe_depths": 3, "tcfe_num_heads": 3}
        for name, length in lengths.items():
            values = getattr(self, name)
            if len(values) != length or any(value < 1 for value in values):
                raise ValueError(f"{name} needs {length} positive numbers, not {list(values)}.")
        stages = zip(self.decoder_channels[1::2], self.tcfe_num_heads, strict=True)
        if any(channels % heads for channels, heads in stages):
            raise ValueError(
                f"The 2nd, 4th and 6th of decoder_channels {list(self.decoder_channels)} must be multiples of "
                f"tcfe_num_heads {list(self.tcfe_num_heads)}."
            )
        if not (self.use_tcfe or self.use_dfd or self.use_sfd):
            raise ValueError("At least one of use_tcfe, use_dfd and use_sfd must be true.")
        hidden = self.decoder_hidden_size
        for name, fits, words in (
            ("decoder_hidden_size", hidden is None or hidden > 0, "positive or None"),
            ("output_stride", self.output_stride in (1, 2, 4), "1, 2 or 4"),
            ("tcfe_mlp_ratio", self.tcfe_mlp_ratio > 0, "above 0"),
            ("motion_sharpness", 0 < self.motion_sharpness < math.inf, "above 0 and finite"),
            ("drop_path_rate", 0 <= self.drop_path_rate < 1, "at least 0 and below 1"),
        ):
            if not fits:
                raise ValueError(f"{name} must be {words}, not {getattr(self, name)}.")

    @property
    def image_height_width(self) -> tuple[int, int]:
        """The image size as (height, width) in pixels."""
        return pair(self.image_size)

    @property
    def encoder_stride(self) -> int:
        """The number that has to divide height and width of frames, in pixels."""
        facts, encoder = self.encoder_facts()
        return facts.stride(encoder)

    @property
    def time_steps(self) -> int:
        """Time steps of the feature volume of one clip."""
        facts, encoder = self.encoder_facts()
        return self.num_frames // facts.frames_per_step(encoder)

    @property
    def feature_channels(self) -> int:
        """Channels that the decoder reads."""
        facts, encoder = self.encoder_facts()
        return self.decoder_hidden_size or facts.channels(encoder)

    @property
    def time_reductions(self) -> tuple[int, int, int, int]:
        """Factors by which DFD steps 2, 4, 5 and 6 shorten time: halves while there is something to halve."""
        steps = self.time_steps
        second, fourth, fifth = (2 if steps >> halvings > 1 else 1 for halvings in range(3))
        return second, fourth, fifth, max(1, steps >> 3)

    @property
    def last_scales(self) -> tuple[int, int]:
        """Factors by which the last two decoder steps up-sample space."""
        return {1: (2, 2), 2: (2, 1), 4: (1, 1)}[self.output_stride]
