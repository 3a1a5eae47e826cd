"""A tiny Stable Diffusion 2 with random weights, made by the real constructors: pictures of 64 x 64 pixels.

Latents are 4 x 8 x 8 (VAE factor 8), prompts 24 tokens of 32 numbers.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_sdxl import CAPTIONS, SIZES, TEXT

from instant3d.diffusion.components import make, write
from instant3d.diffusion.loading import load_tokenizer
from instant3d.diffusion.small import train_tokenizer

NOT_SDXL = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim")


def tiny_stable_folder(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0, **vae: Any) -> Path:
    """A folder in diffusers' layout, in float32; the same weights for the same seed."""
    train_tokenizer(CAPTIONS, folder / "vocabulary", size=600, max_length=24)
    tokenizer = load_tokenizer(folder / "vocabulary")
    known = {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "eos_token_id": tokenizer.eos_token_id}
    unet = {key: value for key, value in SIZES["unet"].items() if key not in NOT_SDXL}
    sizes = {
        "text_encoder": {**TEXT, **known, "hidden_size": 32, "hidden_act": "gelu"},
        "unet": {**unet, "cross_attention_dim": 32},
        "vae": {**SIZES["vae"], "scaling_factor": 0.18215, **vae},
        "scheduler": {**SIZES["scheduler"], "prediction_type": prediction_type},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {name: make(name, config) for name, config in sizes.items()} | {"tokenizer": tokenizer}
    for name, part in parts.items():
        (folder / name).mkdir()
        write(part, name, folder / name, torch.float32)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    unused = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **index, **unused}))
    return folder
