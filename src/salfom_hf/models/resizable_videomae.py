"""VideoMAE's embeddings with a position table that follows the input's size."""

import torch
from transformers.models.videomae.modeling_videomae import VideoMAEEmbeddings

from .configuration_salfom import pair
from .modeling_umt import interpolate_positions


class ResizableVideoMAEEmbeddings(VideoMAEEmbeddings):
    def forward(self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None) -> torch.Tensor:
        features = self.patch_embeddings.projection(pixel_values.transpose(1, 2))
        (height, width), (rows, columns) = pair(self.config.image_size), pair(self.config.patch_size)
        stored = (self.config.num_frames // self.config.tubelet_size, height // rows, width // columns)
        positions = interpolate_positions(self.position_embeddings, stored, tuple(features.shape[2:]))
        return features.flatten(2).transpose(1, 2) + positions.to(features)


__all__ = ["ResizableVideoMAEEmbeddings"]
