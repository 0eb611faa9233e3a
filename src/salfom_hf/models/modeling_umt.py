"""UnMasked Teacher (UMT), the video foundation model that SalFoM builds on.

Li et al., "Unmasked Teacher: Towards Training-Efficient Video Foundation Models", ICCV 2023. A ViT with joint
space-time attention: every frame is cut into patches, and all patches of all frames attend to one another.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils.generic import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .configuration_salfom import UMTConfig
from .encoders import interpolate_positions

# Every published UMT model derives its position table from this grid of (frames, rows, columns).
PRETRAINING_GRID = (8, 14, 14)


def sinusoidal_table(num_positions: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sine-cosine table of "Attention Is All You Need": float32 `(num_positions, width)`, sine on even channels."""
    channel = torch.arange(width, device=device)
    # float64: the angles grow to the number of positions, where float32 sines lose digits.
    frequency = 10000.0 ** (-2.0 * (channel // 2).double() / width)
    angle = torch.arange(num_positions, device=device).double()[:, None] * frequency
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


class PatchEmbedding(nn.Conv3d):
    """
    The convolution that makes a token of each patch of a frame, as the matrix product that it is: the tokens lie in
    memory as all layers read and write them.
    """

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """`(batch, time, channels, height, width)` to `(batch, time · rows · columns, width of a token)`."""
        side = self.kernel_size[1]
        patches = pixel_values_videos.unflatten(4, (-1, side)).unflatten(3, (-1, side))
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class UMTEmbeddings(nn.Module):
    """Frames to tokens: patches of single frames in the order (time, row, column), plus their position."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.grid = config.grid
        self.patch_size = config.patch_size
        kernel = (1, config.patch_size, config.patch_size)
        self.patch_embedding = PatchEmbedding(config.num_channels, config.hidden_size, kernel, stride=kernel)
        # Fixed in the original too, where it is a detached parameter. Stored, since checkpoints bring their own.
        positions = self.initial_positions(config.hidden_size)
        self.position_embeddings = nn.Buffer(positions.to(torch.get_default_dtype()))

    def initial_positions(self, width: int, device: torch.device | None = None) -> torch.Tensor:
        """The table of pretraining, float32, on the model's own grid: `(1, frames · rows · columns, width)`."""
        table = sinusoidal_table(math.prod(PRETRAINING_GRID), width, device).unsqueeze(0)
        return interpolate_positions(table, PRETRAINING_GRID, self.grid)

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        _, frames, _, height, width = pixel_values_videos.shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"Frames of {height}x{width} pixels do not divide into patches of {self.patch_size}.")
        grid = (frames, height // self.patch_size, width // self.patch_size)
        tokens = self.patch_embedding(pixel_values_videos)
        positions: torch.Tensor = self.position_embeddings
        if grid != self.grid:
            positions = interpolate_positions(positions, self.grid, grid)
        return tokens + positions


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,  # As every token attends to all.
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    weights = F.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class UMTAttention(nn.Module):
    """Multi-head self-attention over all tokens; queries and values have a bias, keys have none."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.v_bias = nn.Parameter(torch.zeros(config.hidden_size))
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch, tokens, channels = hidden_states.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = self.qkv(hidden_states) + bias
        query, key, value = qkv.view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        implementation, dropout = self.config._attn_implementation, self.attention_dropout if self.training else 0.0
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attended, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout, **kwargs)
        return self.output(attended.reshape(batch, tokens, channels)), weights


class UMTMLP(nn.Module):
    def __init__(self, config: UMTConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class UMTLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: UMTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = UMTAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = UMTMLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.norm2(hidden_states))


class UMTModel(PreTrainedModel):
    """UMT encoder without head. As in SalFoM, the last block's tokens are returned without a final norm."""

    config: UMTConfig
    base_model_prefix = "umt"
    main_input_name = "pixel_values_videos"
    input_modalities = ["video"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["UMTEmbeddings", "UMTLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": UMTLayer, "attentions": UMTAttention}  # noqa: RUF012

    def __init__(self, config: UMTConfig):
        super().__init__(config)
        self.embeddings = UMTEmbeddings(config)
        self.layers = nn.ModuleList([UMTLayer(config) for _ in range(config.num_hidden_layers)])
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            init.trunc_normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, UMTAttention):
            init.zeros_(module.q_bias)
            init.zeros_(module.v_bias)
        elif isinstance(module, UMTEmbeddings):
            positions = module.position_embeddings
            init.copy_(positions, module.initial_positions(positions.shape[-1], positions.device))

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @capture_outputs
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutput:
        r"""
        Clips to tokens.

        Args:
            pixel_values_videos (`torch.FloatTensor` of shape `(batch_size, frames, channels, height, width)`):
                Clips, normalised with the ImageNet mean and standard deviation; height and width are multiples of the
                patch size.

        Returns:
            `BaseModelOutput` with `last_hidden_state` `(batch_size, tokens, hidden_size)`, tokens in the order (time,
            row, column); on request `hidden_states`, and with eager attention `attentions`.

        Raises:
            ValueError: the patches do not divide the frames.
        """
        hidden_states = self.embeddings(pixel_values_videos)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)
