"""SalFoM: the encoder, the decoder's three branches, their fusion into one saliency map.

Moradi et al., "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024 (arXiv 2404.03097).
"""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .arguments import check_keywords, check_pixels
from .configuration_salfom import SalFoMConfig
from .dfd import DFD
from .encoders import EncoderAdapter, adapter_for, build_encoder
from .losses import saliency_loss
from .pretrained import resolve
from .sfd import SFD
from .tcfe import TCFE, TemporalWindowAttention
from .umt import PicklableModel


@dataclass
class SalFoMModelOutput(ModelOutput):
    """
    Output of [`SalFoMModel`]. A branch that is switched off gives `None`; `rows` and `columns` are those of the
    feature volume, 1/16 of the input for the paper's encoder, and `scale` is `16 / config.output_stride`.

    Args:
        last_hidden_state: feature volume `(batch, channels, time, rows, columns)` that the decoder reads.
        static_features: output of SFD, `(batch, channels, scale · rows, scale · columns)`.
        transformer_features: output of TCFE, likewise.
        dynamic_features: output of DFD, likewise.
        hidden_states, attentions: those of the encoder, on request.
    """

    last_hidden_state: torch.FloatTensor | None = None
    static_features: torch.FloatTensor | None = None
    transformer_features: torch.FloatTensor | None = None
    dynamic_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SalFoMOutput(ModelOutput):
    """
    Output of [`SalFoMForVideoSaliencyPrediction`].

    Args:
        loss: scalar, when labels were given.
        logits: `(batch, height, width)` at input size.
        saliency: `sigmoid(logits)`, values in 0…1.
        hidden_states, attentions: those of the encoder, on request.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    saliency: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class Fusion(nn.Module):
    """The branches' outputs, stacked, to one map of logits."""

    def __init__(self, config: SalFoMConfig):
        super().__init__()
        branches = config.use_sfd + config.use_tcfe + config.use_dfd
        channels = (branches * config.decoder_channels[-1], *config.fusion_channels, 1)
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False) for i in range(3)]
        )

    def forward(self, branches: list[torch.Tensor]) -> torch.Tensor:
        first, second, last = self.convolutions
        return last(second(first(torch.cat(branches, dim=1)).relu()).relu())


class CenterPrior(nn.Module):
    """
    People look at the centre more than at the border, and at moving pictures more so than at stills: learned
    log-densities, added to the logits.

    The one of moving pictures, at first a Gaussian, counts in the measure in which the features change from frame to
    frame; that of stills, at first flat, always.
    """

    GRID = (12, 16)
    # Standard deviation of the initial Gaussian as a fraction of the frame.
    SIGMA = 0.22
    # Features of filmed scenes change by 2 to 20 % from frame to frame; at first, 2 % make 63 % of a moving picture.
    SENSITIVITY = 50.0

    def __init__(self):
        super().__init__()
        self.log_density = nn.Parameter(self.initial_density())
        self.log_sensitivity = nn.Parameter(torch.tensor(math.log(self.SENSITIVITY)))

    def initial_density(self, device: torch.device | None = None) -> torch.Tensor:
        """Of stills and of moving pictures, float32 `(2, 1, *GRID)`."""
        y, x = ((torch.arange(size, device=device) + 0.5) / size - 0.5 for size in self.GRID)
        moving = -(y[:, None] ** 2 + x[None, :] ** 2) / (2 * self.SIGMA**2)
        return torch.stack([torch.zeros_like(moving), moving]).unsqueeze(1)

    def log_densities(self, size: tuple[int, int]) -> torch.Tensor:
        """Those of stills and of moving pictures, at the (height, width) of the map: `(2, 1, height, width)`."""
        return F.interpolate(self.log_density, size=size, mode="bilinear", align_corners=False)

    def motion(self, change: torch.Tensor) -> torch.Tensor:
        """Mean change of the features from frame to frame, relative to their mean, to 0 (still) … 1 (moving)."""
        return -torch.expm1(-change * self.log_sensitivity.exp())

    def forward(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Args:
            features: `(batch, channels, time, rows, columns)`; one time step stands for a still.
            size: (height, width) of the map.

        Returns:
            `(batch, 1, height, width)`.
        """
        still, moving = self.log_densities(size)
        if features.shape[2] == 1:
            return still.expand(len(features), 1, *size)
        features = features.detach()  # They are there for the branches; here they are only measured.
        change = features.diff(dim=2).abs().mean((1, 2, 3, 4)) / features.abs().mean((1, 2, 3, 4)).clamp_min(1e-6)
        return still + self.motion(change).view(-1, 1, 1, 1) * moving


class SalFoMPreTrainedModel(PicklableModel):
    config: SalFoMConfig
    base_model_prefix = "salfom"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("TemporalSwinBlock", "UMTEmbeddings", "UMTLayer", "InvertedResidual")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also accepts the package's own names (`salfom_hf.pretrained`)."""
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            # All temporal taps start equal: an untrained decoder takes every clip for a still. From taps of opposite
            # signs it would start with noise that training on slow video never removes.
            spatial = torch.empty_like(module.weight[:, :, :1] if module.weight.ndim == 5 else module.weight)
            nn.init.kaiming_normal_(spatial, nonlinearity="relu")
            taps = module.weight.shape[2] if module.weight.ndim == 5 else 1
            init.copy_(module.weight, spatial.expand_as(module.weight) / taps)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, TemporalWindowAttention):
            init.trunc_normal_(module.relative_position_bias, std=self.config.initializer_range)
        elif isinstance(module, CenterPrior):
            init.copy_(module.log_density, module.initial_density(module.log_density.device))
            init.constant_(module.log_sensitivity, math.log(module.SENSITIVITY))


class SalFoMModel(SalFoMPreTrainedModel):
    """Encoder and the three branches of the decoder, without their fusion."""

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        self.encoder = build_encoder(config.encoder_config, config.num_frames)
        self.projection = None
        if config.decoder_hidden_size is not None:
            self.projection = nn.Conv2d(self.adapter.channels(config.encoder_config), config.decoder_hidden_size, 1)
        self.tcfe = TCFE(config) if config.use_tcfe else None
        self.dfd = DFD(config) if config.use_dfd else None
        self.sfd = SFD(config) if config.use_sfd else None
        self._frozen_parts: tuple[str, ...] = ()
        self.post_init()

    @property
    def adapter(self) -> EncoderAdapter:
        return adapter_for(self.config.encoder_config)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def train(self, mode: bool = True):
        """As in torch; frozen parts stay in evaluation mode, so that their batch norms and dropout do not change."""
        super().train(mode)
        for part in self._frozen_parts:
            getattr(self, part).eval()
        return self

    def freeze(self, *parts: str) -> None:
        """
        Exclude parts from training.

        Args:
            parts: any of `"encoder"`, `"projection"`, `"tcfe"`, `"dfd"`, `"sfd"`.

        Raises:
            ValueError: this model has no such part.
        """
        available = [name for name, _ in self.named_children()]
        for part in parts:
            if part not in available:
                raise ValueError(f"No part '{part}' to freeze; this model has {', '.join(available)}.")
        self._frozen_parts = tuple(dict.fromkeys(self._frozen_parts + parts))
        for part in parts:
            getattr(self, part).requires_grad_(False)
        self.train(self.training)

    def check_input(self, pixel_values_videos: torch.Tensor) -> None:
        check_pixels(pixel_values_videos)
        if pixel_values_videos.ndim != 5 or pixel_values_videos.shape[2] != 3:
            raise ValueError(
                f"This model takes (batch, frames, 3, height, width), not {tuple(pixel_values_videos.shape)}."
            )
        _, frames, _, height, width = pixel_values_videos.shape
        if frames not in (1, self.config.num_frames):
            raise ValueError(
                f"This model takes clips of {self.config.num_frames} frames, or stills of one frame, not {frames}."
            )
        stride = self.adapter.stride(self.config.encoder_config)
        if height % stride or width % stride:
            raise ValueError(f"This model takes heights and widths that {stride} divides, not {height}x{width}.")

    def encode(self, pixel_values_videos: torch.Tensor, **flags) -> tuple[torch.Tensor, ModelOutput]:
        """
        Clips `(batch, frames, 3, height, width)` to the feature volume that the decoder reads. A frame-wise encoder
        sees a still once, and its volume has one time step; any other encoder sees it as often as a clip has frames.
        """
        self.check_input(pixel_values_videos)
        if pixel_values_videos.shape[1] == 1 and not self.adapter.framewise:
            pixel_values_videos = pixel_values_videos.expand(-1, self.config.num_frames, -1, -1, -1)
        batch, frames = pixel_values_videos.shape[:2]
        if not self.adapter.framewise:
            features, outputs = self.adapter.features(self.encoder, pixel_values_videos, **flags)
            return self.project(features), outputs
        features, outputs = self.adapter.features(self.encoder, pixel_values_videos.flatten(0, 1), **flags)
        return self.project(features).unflatten(0, (batch, frames)).transpose(1, 2), outputs

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Single frames to their slices of the feature volume; stacked along a new time dimension, the slices of
        `num_frames` frames are what `encode` gives for their clip. Only for frame-wise encoders.

        Args:
            pixel_values: float `(frames, 3, height, width)`.

        Returns:
            `(frames, channels, rows, columns)`.
        """
        if not self.adapter.framewise:
            raise ValueError(f"Encoders of type '{self.config.encoder_config.model_type}' do not see single frames.")
        check_pixels(pixel_values)
        return self.project(self.adapter.features(self.encoder, pixel_values)[0])

    def project(self, features: torch.Tensor) -> torch.Tensor:
        if self.projection is None:
            return features
        if features.ndim == 4:
            return self.projection(features).relu()
        batch = features.shape[0]
        features = self.projection(features.transpose(1, 2).flatten(0, 1)).relu()
        return features.unflatten(0, (batch, -1)).transpose(1, 2)

    def decode(self, features: torch.Tensor) -> SalFoMModelOutput:
        """
        Feature volume `(batch, channels, time, rows, columns)` to the outputs of the branches. One time step stands
        for a still, at a fraction of the cost of that step repeated, and with the same result.
        """
        from_transformer, transformer_features = None, None
        if self.tcfe is not None:
            *from_transformer, transformer_features = self.tcfe(features)
        from_dynamic, dynamic_features = None, None
        if self.dfd is not None:
            *from_dynamic, dynamic_features = self.dfd(features, from_transformer)
        static_features = self.sfd(features, from_dynamic) if self.sfd is not None else None
        return SalFoMModelOutput(
            last_hidden_state=features,
            static_features=static_features,
            transformer_features=transformer_features,
            dynamic_features=dynamic_features,
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> SalFoMModelOutput:
        r"""
        Args:
            pixel_values_videos: float `(batch, frames, 3, height, width)`, normalised as [`SalFoMVideoProcessor`]
                does; `config.num_frames` frames, or one, which stands for a still; height and width multiples of the
                encoder's stride.
            output_hidden_states, output_attentions: whether to return those of the encoder.
            kwargs: those of `TransformersKwargs`, which change nothing.

        Raises:
            TypeError: an argument is unknown, or the pixels are no float tensor.
            ValueError: the number of frames or the size does not fit the model.
        """
        check_keywords(kwargs)
        flags = {
            "output_hidden_states": self.config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states,
            "output_attentions": self.config.output_attentions if output_attentions is None else output_attentions,
        }
        features, encoder_outputs = self.encode(pixel_values_videos, **flags)
        outputs = self.decode(features)
        if flags["output_hidden_states"]:
            outputs.hidden_states = encoder_outputs.hidden_states
        if flags["output_attentions"]:
            outputs.attentions = getattr(encoder_outputs, "attentions", None)
        return outputs


class SalFoMForVideoSaliencyPrediction(SalFoMPreTrainedModel):
    """SalFoM with its fusion: a clip to the saliency map of its last frame."""

    # The loss is a mean over the batch: transformers' Trainer has to divide it by the steps that it accumulates.
    accepts_loss_kwargs = False

    def __init__(self, config: SalFoMConfig):
        super().__init__(config)
        self.salfom = SalFoMModel(config)
        self.fusion = Fusion(config)
        self.center_prior = CenterPrior() if config.center_prior else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.salfom.get_input_embeddings()

    @classmethod
    def from_encoder_pretrained(cls, encoder: str | os.PathLike, **config_kwargs):
        """
        A model for fine-tuning: a pretrained encoder under a decoder with fresh weights.

        Args:
            encoder: folder or Hub name of any encoder in `salfom_hf.encoders.ENCODERS`, for instance what
                `salfom convert` made of a UMT checkpoint.
            config_kwargs: fields of [`SalFoMConfig`].
        """
        from transformers import AutoModel

        pretrained = AutoModel.from_pretrained(encoder)
        if os.path.isdir(encoder):  # A folder of this machine has no place in what is saved and perhaps published.
            pretrained.config._name_or_path = ""
        model = cls(SalFoMConfig(encoder_config=pretrained.config, **config_kwargs))
        model.salfom.adapter.prepare(pretrained, model.config.num_frames)
        model.salfom.encoder = pretrained
        return model.to(pretrained.dtype).eval()

    def freeze(self, *parts: str) -> None:
        """Exclude parts from training: `"fusion"`, `"center_prior"`, or any that [`SalFoMModel.freeze`] knows."""
        own = [part for part in parts if part in ("fusion", "center_prior") and getattr(self, part) is not None]
        self.salfom.freeze(*(part for part in parts if part not in own))
        for part in own:
            getattr(self, part).requires_grad_(False)

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """See [`SalFoMModel.encode_frames`]."""
        return self.salfom.encode_frames(pixel_values)

    def fuse(self, branches: SalFoMModelOutput, size: tuple[int, int]) -> torch.Tensor:
        """Outputs of the branches to logits `(batch, height, width)` of the given size."""
        outputs = (branches.static_features, branches.transformer_features, branches.dynamic_features)
        logits = self.fusion([output for output in outputs if output is not None])
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        if self.center_prior is not None:
            logits = logits + self.center_prior(branches.last_hidden_state, size)
        return logits.squeeze(1)

    def decode(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Feature volume to logits.

        Args:
            features: `(batch, channels, time, rows, columns)`, from [`SalFoMModel.encode`] or stacked slices of
                `encode_frames`; one time step stands for a still.
            size: (height, width) of the frames.

        Returns:
            `(batch, height, width)`.
        """
        return self.fuse(self.salfom.decode(features), size)

    @can_return_tuple
    def forward(self, pixel_values_videos: torch.Tensor, labels: torch.Tensor | None = None, **kwargs) -> SalFoMOutput:
        r"""
        Args:
            pixel_values_videos: float `(batch, frames, 3, height, width)`, normalised as [`SalFoMVideoProcessor`]
                does; `config.num_frames` frames, or one, which stands for a still; height and width multiples of the
                encoder's stride.
            labels: densities `(batch, height', width')` of the last frames, of any size, to compute the loss.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Raises:
            TypeError: an argument is unknown, or the pixels are no float tensor.
            ValueError: the number of frames, the size or the labels do not fit the model.
        """
        branches = self.salfom(pixel_values_videos, **{**kwargs, "return_dict": True})
        logits = self.fuse(branches, tuple(pixel_values_videos.shape[-2:]))
        loss = None
        if labels is not None:
            if not isinstance(labels, torch.Tensor) or labels.ndim != 3 or len(labels) != len(logits):
                found = tuple(labels.shape) if isinstance(labels, torch.Tensor) else type(labels).__name__
                raise ValueError(f"labels must be a tensor ({len(logits)}, height, width), not {found}.")
            loss = saliency_loss(logits, labels, self.config.kl_weight, self.config.cc_weight)
        return SalFoMOutput(
            loss=loss,
            logits=logits,
            saliency=logits.sigmoid(),
            hidden_states=branches.hidden_states,
            attentions=branches.attentions,
        )


__all__ = [
    "SalFoMForVideoSaliencyPrediction",
    "SalFoMModel",
    "SalFoMModelOutput",
    "SalFoMOutput",
    "SalFoMPreTrainedModel",
]
