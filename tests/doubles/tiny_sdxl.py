"""A tiny SDXL with random weights, made by the real constructors within a second: grids of 64 x 64 pixels.

Latents are 4 x 8 x 8 (VAE factor 8), text embeddings 24 tokens of 16 + 32 numbers, summaries of 24.
"""

from pathlib import Path
from typing import Any

import torch

from instant3d.diffusion.components import Components
from instant3d.diffusion.sdxl import SCHEDULER
from instant3d.diffusion.small import train_tokenizer

CAPTIONS = ["a red fire hydrant", "a blue wooden chair", "a green teapot with a golden lid", "two yellow rubber boots"]
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
SIZES: dict[str, dict[str, Any]] = {
    "text_encoder": TEXT,
    "text_encoder_2": {**TEXT, "hidden_size": 32, "projection_dim": 24, "hidden_act": "gelu"},
    "unet": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "attention_head_dim": [2, 4],
        "transformer_layers_per_block": [1, 1],
        "use_linear_projection": True,
        "norm_num_groups": 8,
        "cross_attention_dim": 16 + 32,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    },
    "vae": {
        "sample_size": 64,
        "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [8, 8, 8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "force_upcast": False,
    },
    "scheduler": SCHEDULER,
}


def tiny_sdxl(tokenizer_folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Components:
    """The same weights for the same seed; writes its vocabulary into `tokenizer_folder` (a test's tmp_path)."""
    train_tokenizer(CAPTIONS, tokenizer_folder, size=600, max_length=24)
    sizes = {**SIZES, "scheduler": {**SIZES["scheduler"], "prediction_type": prediction_type}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Components.build(sizes, tokenizer_folder)


def tiny_sdxl_folder(folder: Path, **settings: Any) -> Path:
    """The tiny SDXL as a folder in diffusers' layout, in half precision."""
    tiny_sdxl(folder / "tokenizer", **settings).save(folder)
    return folder
