"""TimeSformer's embeddings with position tables that follow the input's size."""

import torch
from transformers.models.timesformer.modeling_timesformer import TimesformerEmbeddings

from .modeling_umt import interpolate_positions


class ResizableTimesformerEmbeddings(TimesformerEmbeddings):
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        batch, frames = pixel_values.shape[:2]
        features = self.patch_embeddings.projection(pixel_values.flatten(0, 1)).unflatten(0, (batch, frames))
        stored = [
            side // patch
            for side, patch in zip(self.patch_embeddings.image_size, self.patch_embeddings.patch_size, strict=True)
        ]
        of_class, of_patches = self.position_embeddings[:, :1], self.position_embeddings[:, 1:]
        of_patches = interpolate_positions(of_patches, (1, *stored), (1, *features.shape[-2:]))
        tokens = self.pos_drop(features.flatten(3).transpose(2, 3) + of_patches.unsqueeze(1))
        if self.attention_type != "space_only":
            of_frames = interpolate_positions(
                self.time_embeddings, (self.time_embeddings.shape[1], 1, 1), (frames, 1, 1)
            )
            tokens = self.time_drop(tokens + of_frames.unsqueeze(2))
        # Time runs fastest, behind the class token.
        tokens = tokens.transpose(1, 2).flatten(1, 2)
        cls_token = self.pos_drop(self.cls_token.expand(batch, -1, -1) + of_class)
        return torch.cat([cls_token, tokens], dim=1)


__all__ = ["ResizableTimesformerEmbeddings"]
