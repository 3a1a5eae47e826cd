"""Sizes of an SDXL in the layout of Stability AI's own code (SGM), as diffusers' and transformers' configurations.

Sizes come from the tensors. Heads, which no tensor determines, are 64 channels wide unless a configuration says
otherwise.
"""

from __future__ import annotations

from typing import Any

from instant3d.modules.diffusion.sdxl import SCHEDULER, VAE
from instant3d.pipelines.convert.family import Shapes, heads
from instant3d.pipelines.convert.rules import count_layers
from instant3d.pipelines.convert.source import Config

UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
TEXT, TEXT_2 = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
HEAD_WIDTH = 64
SIZE_CONDITIONS = 6  # numbers of SDXL's micro-conditioning


def sdxl_sizes(shapes: Shapes, config: Config) -> dict[str, dict[str, Any]]:
    """Configurations of the four networks and the scheduler, as `Components.build` takes them.

    Raises:
        ValueError: A tensor from which sizes are read is missing, or heads do not divide a width.
    """
    vae = _vae_sizes(shapes, config)
    text, text_2 = _text_sizes(shapes, config), _text_2_sizes(shapes, config)
    unet = _unet_sizes(shapes, config, text_2["projection_dim"])
    unet["sample_size"] = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
    return {"unet": unet, "vae": vae, "text_encoder": text, "text_encoder_2": text_2, "scheduler": SCHEDULER}


def _unet_sizes(shapes: Shapes, config: Config, summary: int) -> dict[str, Any]:
    _, channels, _, _ = shapes.of(f"{UNET}input_blocks.0.0.weight", 4)
    blocks = count_layers(shapes.keys(), f"{UNET}input_blocks.")
    ends = [i for i in range(blocks) if f"{UNET}input_blocks.{i}.0.op.weight" in shapes]
    per_level = (ends or [blocks])[0] - 1
    starts = [1 + level * (per_level + 1) for level in range(len(ends) + 1)]
    widths = [shapes.of(f"{UNET}input_blocks.{i}.0.out_layers.3.weight", 4)[0] for i in starts]
    depths = [count_layers(shapes.keys(), f"{UNET}input_blocks.{i}.1.transformer_blocks.") for i in starts]
    cross = [f"{UNET}input_blocks.{i}.1." for i, depth in zip(starts, depths, strict=True) if depth]
    if not cross:
        raise ValueError(f"{shapes.where} has no transformer in its UNet, so it is not an SDXL; give another")
    added = shapes.of(f"{UNET}label_emb.0.0.weight", 2)[1]
    per_head = config.number("unet.num_head_channels") or HEAD_WIDTH
    return {
        "in_channels": channels,
        "out_channels": shapes.of(f"{UNET}out.2.weight", 4)[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "block_out_channels": widths,
        "layers_per_block": per_level,
        "transformer_layers_per_block": [depth or 1 for depth in depths],
        "attention_head_dim": [max(1, width // per_head) for width in widths],  # diffusers' name for their number
        "cross_attention_dim": shapes.of(f"{cross[0]}transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": len(shapes.shapes[f"{cross[0]}proj_in.weight"]) == 2,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (added - summary) // SIZE_CONDITIONS,
        "projection_class_embeddings_input_dim": added,
    }


def _vae_sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
    levels = count_layers(shapes.keys(), f"{FIRST_STAGE}encoder.down.")
    widths = [shapes.of(f"{FIRST_STAGE}encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)]
    return {
        "sample_size": config.number("sampling.image_size") or VAE["sample_size"],
        "latent_channels": shapes.of(f"{FIRST_STAGE}decoder.conv_in.weight", 4)[1],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": count_layers(shapes.keys(), f"{FIRST_STAGE}encoder.down.0.block."),
        "scaling_factor": float(config.get("vae.scale_factor", default=VAE["scaling_factor"])),
        "force_upcast": VAE["force_upcast"],
    }


def _text_sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
    vocabulary, width = shapes.of(f"{TEXT}embeddings.token_embedding.weight", 2)
    return {
        **_marks(vocabulary),
        "hidden_size": width,
        "intermediate_size": shapes.of(f"{TEXT}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "projection_dim": width,
        "num_hidden_layers": count_layers(shapes.keys(), f"{TEXT}encoder.layers."),
        "num_attention_heads": heads(config, width, "first text encoder", "text_l.num_attention_heads"),
        "max_position_embeddings": shapes.of(f"{TEXT}embeddings.position_embedding.weight", 2)[0],
        "hidden_act": "quick_gelu",
    }


def _text_2_sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
    vocabulary, width = shapes.of(f"{TEXT_2}token_embedding.weight", 2)
    return {
        **_marks(vocabulary),
        "hidden_size": width,
        "intermediate_size": shapes.of(f"{TEXT_2}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "projection_dim": shapes.of(f"{TEXT_2}text_projection", 2)[1],
        "num_hidden_layers": count_layers(shapes.keys(), f"{TEXT_2}transformer.resblocks."),
        "num_attention_heads": heads(config, width, "second text encoder", "text_g.num_attention_heads"),
        "max_position_embeddings": shapes.of(f"{TEXT_2}positional_embedding", 2)[0],
        "hidden_act": "gelu",
    }


def _marks(vocabulary: int) -> dict[str, int]:
    """CLIP's start and end marks are the last two tokens; both towers find the end by its number."""
    return {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
