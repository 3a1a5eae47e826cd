"""How well pictures fit prompts by the word of a CLIP: the door to it, and the papers' definitions as pure functions.

Knows nothing of where the pictures come from. Similarities are cosines (P, V, N): of view V of the asset made for
prompt P with each of the N prompts of the set, of which number P is its own; so N = P unless more are compared with.
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
    """A CLIP of transformers with its own way of cutting words and preparing pictures."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, device: str | torch.device = "cpu") -> None:
        self.model, self.tokenizer, self.image_processor = (
            model.to(device).eval().requires_grad_(False),
            tokenizer,
            image_processor,
        )
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ClipModel:
        """From a folder or a Hub id, such as openai/clip-vit-large-patch14 (the papers' ViT-L/14) or
        laion/CLIP-ViT-bigG-14-laion2B-39B-b160k (their OpenCLIP bigG)."""
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
        """What its cosines were multiplied by, when it was trained, to be logits."""
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (..., D) of pictures (..., 3, H, W) in [0, 1]."""
        flat = (images.reshape(-1, *images.shape[-3:]).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        found = []
        for part in flat.split(BATCH):
            ready = self.image_processor(
                images=[picture.permute(1, 2, 0).numpy() for picture in part], return_tensors="pt"
            )
            found.append(self.model.get_image_features(ready["pixel_values"].to(self.device)).pooler_output)
        return F.normalize(torch.cat(found).float(), dim=-1).cpu().reshape(*images.shape[:-3], -1)

    @torch.no_grad()
    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of prompts; what is longer than CLIP reads is cut off."""
        most, found = self.model.config.text_config.max_position_embeddings, []
        for k in range(0, len(prompts), BATCH):
            words = self.tokenizer(
                list(prompts[k : k + BATCH]), padding=True, truncation=True, max_length=most, return_tensors="pt"
            ).to(self.device)
            found.append(self.model.get_text_features(words.input_ids, words.attention_mask).pooler_output)
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()


def clip_metrics(
    clip: ClipModel, images: Tensor, prompts: Sequence[str], others: Sequence[str] = ()
) -> dict[str, float]:
    """All numbers of pictures (P, V, 3, H, W) of the assets made for P prompts, compared with those and with others."""
    if len(set(prompts)) != len(prompts):
        raise ValueError("prompts to be told apart must differ; leave out those that come twice")
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
    """What of similarities (P, V, N) belongs to the asset's own prompt: (P, V)."""
    return similarity.diagonal(dim1=0, dim2=2).T


def clip_score(similarity: Tensor) -> float:
    """100 x the mean cosine of pictures with their own prompts (Instant3D, table 1)."""
    return 100 * own_prompt(similarity).double().mean().item()


def r_precision(similarity: Tensor) -> tuple[float, float]:
    """R-Precision@1 and average precision, in percent (Dream Fields; GRM): each picture ranks all prompts of the set.

    One prompt alone is right, so a picture's average precision is 1 / rank. What ties with the right one goes before
    it: pictures that say nothing find nothing.
    """
    rank = (similarity >= own_prompt(similarity)[..., None]).sum(-1).double()  # its own is among them
    return 100 * (rank == 1).double().mean().item(), 100 * (1 / rank).mean().item()


def retrieval_probability(similarity: Tensor, scale: float) -> float:
    """The mean probability of the right prompt among the set: softmax(scale x cosine) (ATT3D's R-probability).

    The papers average over 4 views a prompt; here over as many as there are.
    """
    return own_prompt((scale * similarity.double()).softmax(-1)).mean().item()
