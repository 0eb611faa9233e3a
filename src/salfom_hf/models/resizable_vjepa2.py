"""V-JEPA 2's encoder with rotary angles of the input's own grid, where the original takes a square one for granted."""

import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Encoder, VJEPA2RopeAttention

from .configuration_salfom import pair


class ResizableVJEPA2Encoder(VJEPA2Encoder):
    def forward(self, pixel_values_videos: torch.Tensor, **kwargs) -> BaseModelOutput:
        hidden_states = self.embeddings(pixel_values_videos)
        rows, columns = (
            side // patch
            for side, patch in zip(pixel_values_videos.shape[-2:], pair(self.config.patch_size), strict=True)
        )
        token = torch.arange(hidden_states.shape[1], device=hidden_states.device)
        # In place of the masks, which are for training V-JEPA 2 itself: (time, row, column) of every token.
        positions = torch.stack((token // (rows * columns), token // columns % rows, token % columns))
        for layer in self.layer:
            hidden_states = layer(hidden_states, positions, **kwargs)[0]
        return BaseModelOutput(last_hidden_state=self.layernorm(hidden_states))


class ResizableVJEPA2Attention(VJEPA2RopeAttention):
    def get_position_ids(self, x: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return masks.unbind()


__all__ = ["ResizableVJEPA2Attention", "ResizableVJEPA2Encoder"]
