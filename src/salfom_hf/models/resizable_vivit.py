"""ViViT's embeddings with a position table that follows the input's size."""

import torch
from transformers.models.vivit.modeling_vivit import VivitEmbeddings

from .modeling_umt import interpolate_positions


class ResizableVivitEmbeddings(VivitEmbeddings):
    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = True) -> torch.Tensor:
        features = self.patch_embeddings.projection(pixel_values.transpose(1, 2))
        (height, width), (patch_height, patch_width) = self.image_size, self.patch_size
        rows, columns = height // patch_height, width // patch_width
        stored = (self.patch_embeddings.num_patches // (rows * columns), rows, columns)
        of_class, of_patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        positions = torch.cat([of_class, interpolate_positions(of_patches, stored, tuple(features.shape[2:]))], dim=1)
        cls_token = self.cls_token.expand(features.shape[0], -1, -1)
        return self.dropout(torch.cat([cls_token, features.flatten(2).transpose(1, 2)], dim=1) + positions)


__all__ = ["ResizableVivitEmbeddings"]
