"""CLIP loss between rendered images and prompts (arXiv 2311.08403, section 3.3).

Image features are computed once: the loss compares them with those of prompts, `severity` with those of other views.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.modules.clip import ClipModel


class ClipImageEncoder:
    """A frozen CLIP image encoder that is differentiable in its images.

    The paper names no CLIP; ViT-L/14 (openai/clip-vit-large-patch14) is the one that the released code loads.

    Args:
        clip: The model.
    """

    def __init__(self, clip: ClipModel) -> None:
        self.clip, self.side = clip, int(clip.model.config.vision_config.image_size)
        self.mean, self.std = (
            torch.tensor(values, device=clip.device)[:, None, None]
            for values in (clip.image_processor.image_mean, clip.image_processor.image_std)
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ClipImageEncoder:
        """Load a CLIP from a folder or a Hub id.

        Raises:
            ValueError: It is not a folder with a complete CLIP and cannot be downloaded.
        """
        return cls(ClipModel.from_pretrained(source, device))

    @property
    def width(self) -> int:
        """Channels of a feature, F."""
        return self.clip.model.config.projection_dim

    def __call__(self, images: Tensor) -> Tensor:
        """Unit feature vectors (B, F) of square images (B, 3, S, S), about in [0, 1]; differentiable."""
        with torch.autocast(images.device.type, enabled=False):
            size = (self.side, self.side)
            resized = F.interpolate(images.float(), size, mode="bicubic", antialias=True)  # as Pillow, which CLIP uses
            features = self.clip.model.get_image_features((resized - self.mean) / self.std).pooler_output
        return F.normalize(features.float(), dim=-1)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit feature vectors (B, F) of prompts (B)."""
        return self.clip.embed_texts(prompts).to(self.clip.device)


def clip_loss(features: Tensor, texts: Tensor) -> Tensor:
    """1 - cosine (B,) of image features (B, F) with those of their prompts (section 3.3), in [0, 2]."""
    return 1 - F.cosine_similarity(features, texts, dim=-1)
