"""How far pictures are from their prompts by a CLIP's word, as a loss. Knows pictures and prompts; no fields.

The features of pictures are made once: the loss compares them with the prompts', `severity` with those of other views.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.modules.clip import ClipModel


class ClipImageEncoder:
    """A CLIP through which gradients reach the pictures; its own weights get none.

    The paper names no CLIP; ViT-L/14 (openai/clip-vit-large-patch14) is the one that the released code loads.
    """

    def __init__(self, clip: ClipModel) -> None:
        self.clip, self.side = clip, int(clip.model.config.vision_config.image_size)
        self.mean, self.std = (
            torch.tensor(values, device=clip.device)[:, None, None]
            for values in (clip.image_processor.image_mean, clip.image_processor.image_std)
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ClipImageEncoder:
        """From a folder or a Hub id."""
        return cls(ClipModel.from_pretrained(source, device))

    @property
    def width(self) -> int:
        """Numbers of a feature, F."""
        return self.clip.model.config.projection_dim

    def __call__(self, images: Tensor) -> Tensor:
        """Unit vectors (B, F) of square pictures (B, 3, S, S) in about [0, 1]; differentiable."""
        with torch.autocast(images.device.type, enabled=False):
            size = (self.side, self.side)
            shown = F.interpolate(images.float(), size, mode="bicubic", antialias=True)  # Pillow's, as CLIP's own
            found = self.clip.model.get_image_features((shown - self.mean) / self.std).pooler_output
        return F.normalize(found.float(), dim=-1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors (B, F) of prompts (B)."""
        return self.clip.embed_texts(prompts).to(self.clip.device)


def clip_loss(features: Tensor, texts: Tensor) -> Tensor:
    """1 - cosine (B,) of pictures' features (B, D) with those of their prompts (section 3.3), in [0, 2]."""
    return 1 - F.cosine_similarity(features, texts, dim=-1)
