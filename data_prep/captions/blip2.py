"""Captions of images by BLIP-2, and the choice among captions of several views."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LONGEST = 40  # tokens of a caption


class Captioner:
    """A BLIP-2 of transformers with its processor."""

    def __init__(self, model: Any, processor: Any, device: str | torch.device = "cpu") -> None:
        self.model, self.processor = model.to(device).eval().requires_grad_(False), processor
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> Captioner:
        """Load from a folder or a Hub id, such as Salesforce/blip2-opt-2.7b; in half precision where that is fast."""
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        name, dtype = str(source), torch.float32 if torch.device(device).type == "cpu" else torch.float16
        try:
            model = Blip2ForConditionalGeneration.from_pretrained(name, use_safetensors=True, dtype=dtype)
            return cls(model, Blip2Processor.from_pretrained(name), device)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name} is neither a folder with a whole BLIP-2 (config.json, safetensors, processor and tokenizer) "
                f"nor a Hub id that can be reached: {str(error).splitlines()[0]}"
            ) from error

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str = "") -> list[str]:
        """Caption each image (V, 3, H, W) in [0, 1]: the likeliest continuation of `prompt`, by five beams."""
        levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        ready = self.processor(images=list(levels), text=[prompt] * len(levels), return_tensors="pt")
        inputs = ready.to(self.device, self.model.dtype)  # the numbers of words stay whole
        tokens = self.model.generate(**inputs, num_beams=5, max_new_tokens=LONGEST, do_sample=False)
        if not self.model.config.text_config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # what was given comes back first
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def consensus(captions: Sequence[str]) -> str:
    """The caption that shares most words with the others (by Jaccard's index); of equals the first.

    The views of an object are captioned one by one; content that several captions share is more likely to be right.
    """
    words = [set(re.findall(r"\w+", caption.lower())) for caption in captions]

    def shared(k: int) -> float:
        return sum(len(words[k] & other) / max(len(words[k] | other), 1) for n, other in enumerate(words) if n != k)

    return captions[max(range(len(captions)), key=lambda k: (shared(k), -k))]
