"""CLIP image-text similarity and the text-alignment metrics that are computed from it.

Similarities are cosines (P, V, N) of view V of the asset generated for prompt P with each of N prompts, of which
number P is its own; N = P unless images are compared with further prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BATCH = 32


class ClipModel:
    """A CLIP of transformers with its own tokenizer and image preprocessing.

    Args:
        model: A `transformers.CLIPModel`; it is frozen.
        tokenizer: Its tokenizer.
        image_processor: Its image preprocessing.
        device: Where the model runs.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, device: str | torch.device = "cpu") -> None:
        self.model, self.tokenizer, self.image_processor = (
            model.to(device).eval().requires_grad_(False),
            tokenizer,
            image_processor,
        )
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ClipModel:
        """Load a CLIP from a folder or a Hub id.

        Args:
            source: Such as openai/clip-vit-large-patch14 (the papers' ViT-L/14) or
                laion/CLIP-ViT-bigG-14-laion2B-39B-b160k (their OpenCLIP bigG).
            device: Where the model runs.

        Raises:
            ValueError: It is not a folder with a complete CLIP and cannot be downloaded.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        name = str(source)
        try:
            model = CLIPModel.from_pretrained(name, use_safetensors=True)
            return cls(model, CLIPTokenizer.from_pretrained(name), CLIPImageProcessor.from_pretrained(name), device)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name} is neither a folder with a whole CLIP (config.json, model.safetensors, a tokenizer, "
                f"preprocessor_config.json) nor a Hub id that can be reached: {str(error).splitlines()[0]}"
            ) from error

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines in the training loss (the inverse temperature)."""
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit feature vectors (..., D) of images (..., 3, H, W) in [0, 1]."""
        pixels = (images.reshape(-1, *images.shape[-3:]).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        features = []
        for part in pixels.split(BATCH):
            ready = self.image_processor(images=[image.permute(1, 2, 0).numpy() for image in part], return_tensors="pt")
            features.append(self.model.get_image_features(ready["pixel_values"].to(self.device)).pooler_output)
        return F.normalize(torch.cat(features).float(), dim=-1).cpu().reshape(*images.shape[:-3], -1)

    @torch.no_grad()
    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit feature vectors (N, D) of prompts; what exceeds CLIP's maximal length is cut off."""
        max_length, features = self.model.config.text_config.max_position_embeddings, []
        for k in range(0, len(prompts), BATCH):
            words = self.tokenizer(
                list(prompts[k : k + BATCH]), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            ).to(self.device)
            features.append(self.model.get_text_features(words.input_ids, words.attention_mask).pooler_output)
        return F.normalize(torch.cat(features).float(), dim=-1).cpu()


def clip_metrics(
    clip: ClipModel, images: Tensor, prompts: Sequence[str], others: Sequence[str] = ()
) -> dict[str, float]:
    """All CLIP metrics of a set of generated assets.

    Args:
        clip: The model.
        images: Views of the assets, (P, V, 3, H, W) in [0, 1].
        prompts: P different prompts, in the order of the assets.
        others: Further prompts to retrieve among.

    Returns:
        CLIP score, R-precision and average precision in percent, retrieval probability, and the counts.

    Raises:
        ValueError: A prompt occurs twice.
    """
    if len(set(prompts)) != len(prompts):
        raise ValueError("prompts to be ranked must differ; leave out those that occur twice")
    among = [*prompts, *(text for text in dict.fromkeys(others) if text not in set(prompts))]
    similarity = clip.embed_images(images) @ clip.embed_texts(among).T
    precision, average = r_precision(similarity)
    return {
        "clip_score": clip_score(similarity),
        "r_precision": precision,
        "average_precision": average,
        "retrieval_probability": retrieval_probability(similarity, clip.logit_scale),
        "prompts": len(prompts),
        "among": len(among),
        "views": images.shape[1],
    }


def own_prompt(similarity: Tensor) -> Tensor:
    """Similarities (P, V) of each view with its own prompt, from (P, V, N)."""
    return similarity.diagonal(dim1=0, dim2=2).T


def clip_score(similarity: Tensor) -> float:
    """100 x the mean cosine of images with their own prompts (Instant3D, table 1)."""
    return 100 * own_prompt(similarity).double().mean().item()


def r_precision(similarity: Tensor) -> tuple[float, float]:
    """R-Precision@1 and average precision in percent (Dream Fields; GRM): each image ranks all prompts of the set.

    One prompt is right, so an image's average precision is 1 / rank. Ties count against the right prompt, so that
    images which do not depend on the prompt score lowest.
    """
    rank = (similarity >= own_prompt(similarity)[..., None]).sum(-1).double()  # its own is among them
    return 100 * (rank == 1).double().mean().item(), 100 * (1 / rank).mean().item()


def retrieval_probability(similarity: Tensor, scale: float) -> float:
    """Mean probability of the right prompt among the set, softmax(scale x cosine) (ATT3D's R-probability).

    The papers average over 4 views of a prompt; here over all views given.
    """
    return own_prompt((scale * similarity.double()).softmax(-1)).mean().item()
