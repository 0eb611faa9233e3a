"""Configuration of the SalFoM network."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_encoders import EfficientNetLiteConfig, UMTConfig
from .pretrained import resolve

OWN_ENCODERS = {config.model_type: config for config in (UMTConfig, EfficientNetLiteConfig)}


def encoder_config_of(model_type: str, **fields) -> PreTrainedConfig:
    """The configuration of an encoder of this package or of transformers."""
    if model_type in OWN_ENCODERS:
        return OWN_ENCODERS[model_type](**fields)
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **fields)


def adapter_for(encoder_config: PreTrainedConfig):
    """[`salfom_hf.encoders.adapter_for`], imported late: it brings the networks along."""
    from .encoders import adapter_for

    return adapter_for(encoder_config)


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
    kl_weight: float | int = 1.0
    cc_weight: float | int = 1.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if __package__ == "salfom_hf":
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
            self.encoder_config = encoder_config_of(encoder.pop("model_type"), **encoder)
        super().__post_init__(**kwargs)

    def validate_frames(self):
        frames_per_step = adapter_for(self.encoder_config).frames_per_step(self.encoder_config)
        steps, remainder = divmod(self.num_frames, frames_per_step)
        if remainder or steps < 1 or steps & (steps - 1):
            raise ValueError(
                f"num_frames ({self.num_frames}) must be {frames_per_step} times a power of two for the encoder "
                f"'{self.encoder_config.model_type}'."
            )

    def validate_image_size(self):
        if len(self.image_height_width) != 2:
            raise ValueError(f"image_size must be one number or (height, width), not {self.image_size}.")
        stride = adapter_for(self.encoder_config).stride(self.encoder_config)
        if any(side < stride or side % stride for side in self.image_height_width):
            raise ValueError(
                f"image_size ({self.image_size}) must be a multiple of {stride}, the stride of the encoder "
                f"'{self.encoder_config.model_type}'."
            )

    def validate_decoder(self):
        lengths = {"decoder_channels": 6, "fusion_channels": 2, "tcfe_depths": 3, "tcfe_num_heads": 3}
        for name, length in lengths.items():
            values = getattr(self, name)
            if len(values) != length or any(value < 1 for value in values):
                raise ValueError(f"{name} needs {length} positive numbers, not {list(values)}.")
        for channels, heads in zip(self.decoder_channels[1::2], self.tcfe_num_heads, strict=True):
            if channels % heads:
                raise ValueError(
                    f"The 2nd, 4th and 6th of decoder_channels {list(self.decoder_channels)} must be multiples of "
                    f"tcfe_num_heads {list(self.tcfe_num_heads)}."
                )
        if not (self.use_tcfe or self.use_dfd or self.use_sfd):
            raise ValueError("At least one of use_tcfe, use_dfd and use_sfd must be true.")
        if self.decoder_hidden_size is not None and self.decoder_hidden_size < 1:
            raise ValueError(f"decoder_hidden_size must be positive or None, not {self.decoder_hidden_size}.")
        if self.output_stride not in (1, 2, 4):
            raise ValueError(f"output_stride must be 1, 2 or 4, not {self.output_stride}.")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be at least 0 and below 1, not {self.drop_path_rate}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also accepts the package's own names (`salfom_hf.pretrained`)."""
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    @property
    def image_height_width(self) -> tuple[int, int]:
        """The image size as (height, width) in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else tuple(self.image_size)

    @property
    def time_steps(self) -> int:
        """Time steps of the feature volume of one clip."""
        return self.num_frames // adapter_for(self.encoder_config).frames_per_step(self.encoder_config)

    @property
    def feature_channels(self) -> int:
        """Channels that the decoder reads."""
        return self.decoder_hidden_size or adapter_for(self.encoder_config).channels(self.encoder_config)

    @property
    def time_reductions(self) -> tuple[int, int, int, int]:
        """Factors by which DFD steps 2, 4, 5 and 6 shorten time: halves while there is something to halve."""
        factors, left = [], self.time_steps
        for _ in range(3):
            factors.append(2 if left > 1 else 1)
            left //= factors[-1]
        return (*factors, left)

    @property
    def last_scales(self) -> tuple[int, int]:
        """Factors by which the last two decoder steps up-sample space."""
        return {1: (2, 2), 2: (2, 1), 4: (1, 1)}[self.output_stride]


__all__ = ["SalFoMConfig"]
