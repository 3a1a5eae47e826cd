"""OpenLRM 1.1 (and 1.0): one image to a triplane, in the world of its camera.

Folded into the weights: the camera's axes (OpenGL there, OpenCV here), DINOv2's LayerScale, the class token's own
position, and that 1.1 gives DINOv2 images in [0, 1] where we normalise. Set in the architecture: the camera modulates
the triplane transformer instead of the encoder, register tokens, and that the columns of the third plane run along z.
In its world the camera is at (0, -2, 0) and looks along +y.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from instant3d.pipelines.convert import parts
from instant3d.pipelines.convert.family import (
    Family,
    Release,
    Shapes,
    agreed,
    heads,
    huggingface_vit_sizes,
    square_side,
    triplane_sizes,
)
from instant3d.pipelines.convert.rules import Rule, count_layers, layers, linear, renamed
from instant3d.pipelines.convert.source import Config
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.encoder import IMAGENET_MEAN, IMAGENET_STD

FIRST_EPSILON = 1e-12  # of version 1.0, whose encoder is a ViT of the transformers library

LICENCE = """\
These weights were converted from OpenLRM (Zexin He and Tengfei Wang, https://github.com/3DTopia/OpenLRM).

OpenLRM's weights are given under **CC BY-NC 4.0**: attribution, no commercial use
(https://creativecommons.org/licenses/by-nc/4.0/). It holds for whatever is fine-tuned from them as well. Their image
encoder started from DINOv2 (Meta, Apache-2.0). Credit: He and Wang, "OpenLRM: Open-Source Large Reconstruction
Models", 2023; Hong et al., "LRM: Large Reconstruction Model for Single Image to 3D", ICLR 2024.

What was changed: names and order of tensors; the encoder's layer scales, the normalisation of pictures and the signs
of the camera's y and z axes are multiplied into the matrices beside them.
"""


def architecture(shapes: Shapes, config: Config) -> Architecture:
    """The architecture: sizes from the tensors; heads from the configuration, else of 64 channels each."""
    first = "encoder.model.embeddings.cls_token" in shapes  # version 1.0
    place, upsample = ("transformer.pos_embed", "transformer.deconv") if first else ("pos_embed", "upsampler")
    _, tokens, width = shapes.of(place, 3)
    depth = count_layers(shapes.keys(), "transformer.layers.")
    mlp = count_layers(shapes.keys(), "synthesizer.decoder.net.") // 2 + 1
    agreed(config, {"transformer_dim": width, "transformer_layers": depth})
    encoder = huggingface_vit_sizes(shapes, "encoder.model", config) if first else _dinov2_sizes(shapes, config)
    registers = shapes.of("encoder.model.register_tokens", 3)[1] if "encoder.model.register_tokens" in shapes else 0
    return Architecture(
        image_size=0,
        **encoder,
        **triplane_sizes(shapes, tokens, width, f"{upsample}.weight", "synthesizer.decoder.net.0.weight", mlp),
        encoder_epsilon=FIRST_EPSILON if first else 1e-6,
        registers=registers,
        positions="antialiased" if registers else "dino",
        camera="decoder",
        camera_width=shapes.of("camera_embedder.mlp.2.weight", 2)[0],
        depth=depth,
        heads=heads(config, width, "transformer", "transformer_heads"),
        feed=shapes.of("transformer.layers.0.mlp.0.weight", 2)[0],
        epsilon=1e-6,
        last_epsilon=1e-6,
        plane_order="xy xz zy",
        resize="bicubic_corners",
        foreground=0.8,  # its own preprocessing leaves a fifth of the side empty
        assumed_camera=(-90.0, 0.0, 2.0, 67.38013505195957),  # a focal length of 0.75, as of Blender's 24 mm
    )


def _dinov2_sizes(shapes: Shapes, config: Config) -> dict[str, Any]:
    width = shapes.of("encoder.model.cls_token", 3)[-1]
    return {
        "encoder_width": width,
        "encoder_depth": count_layers(shapes.keys(), "encoder.model.blocks."),
        "encoder_heads": heads(config, width, "encoder", "vit.num_heads"),
        "encoder_feed": shapes.of("encoder.model.blocks.0.mlp.fc1.weight", 2)[0],
        "patch": shapes.of("encoder.model.patch_embed.proj.weight", 4)[-1],
        "position_side": square_side(shapes.of("encoder.model.pos_embed", 3)[1] - 1, "positions"),
    }


def rules(a: Architecture) -> list[Rule]:
    """Conversion rules of all keys, in the order of the modules."""
    first = a.encoder_epsilon == FIRST_EPSILON
    encoder = parts.huggingface_vit("encoder.model", a.encoder_depth) if first else dinov2(a)
    return [
        *encoder,
        *([parts.pooler("encoder.model", a.encoder_width, written=False)] if first else []),
        *parts.camera_embedding("camera", "camera_embedder.mlp"),
        renamed("tokens", "transformer.pos_embed" if first else "pos_embed"),
        *parts.lrm_transformer("transformer.layers", a.depth, norm="norm{n}.norm"),
        *parts.modulated_norms("transformer.layers", a.depth),
        linear("norm", "transformer.norm"),
        linear("upsample", "transformer.deconv" if first else "upsampler"),
        *parts.decoder("synthesizer.decoder.net", a.decoder_layers),
    ]


def dinov2(a: Architecture) -> list[Rule]:
    """Rules of DINOv2: Meta's names, which timm shares, and what is folded into neighbouring layers."""
    ours, theirs = "encoder.vit", "encoder.model"
    block, layer = f"{ours}.blocks.{{i}}", f"{theirs}.blocks.{{i}}"
    return [
        Rule(
            (f"{ours}.patch_embed.proj.weight", f"{ours}.patch_embed.proj.bias"),
            (f"{theirs}.patch_embed.proj.weight", f"{theirs}.patch_embed.proj.bias"),
            fold_image_normalization,
            unfold_image_normalization,
        ),
        *_tokens(a, ours, theirs),
        *layers(
            a.encoder_depth,
            [
                linear(f"{block}.norm1", f"{layer}.norm1"),
                linear(f"{block}.attn.qkv", f"{layer}.attn.qkv"),
                _scaled(f"{block}.attn.proj", f"{layer}.attn.proj", f"{layer}.ls1"),
                linear(f"{block}.norm2", f"{layer}.norm2"),
                linear(f"{block}.mlp.fc1", f"{layer}.mlp.fc1"),
                _scaled(f"{block}.mlp.fc2", f"{layer}.mlp.fc2", f"{layer}.ls2"),
            ],
        ),
        linear(f"{ours}.norm", f"{theirs}.norm"),
        Rule((), (f"{theirs}.mask_token",), lambda _: (), lambda: (), optional=True),  # used only in its training
    ]


def _tokens(a: Architecture, ours: str, theirs: str) -> list[Rule]:
    """The class token, the table of positions and the registers, if any; in timm these have no position."""
    pair = (f"{theirs}.cls_token", f"{theirs}.pos_embed")
    mine = (f"{ours}.cls_token", f"{ours}.pos_embed")
    if not a.registers:
        return [Rule(mine, pair)]
    return [
        Rule(mine, pair, add_class_position, split_class_position),
        renamed(f"{ours}.reg_token", f"{theirs}.register_tokens"),
    ]


def add_class_position(token: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The class token with its position added, and the table (1, 1 + N, C) without it."""
    return token + table[:, :1], table[:, 1:]


def split_class_position(token: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse up to the split of the sum: all of it goes to the token, none to the position."""
    return token, torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)


def _scaled(ours: str, theirs: str, scale: str) -> Rule:
    """A linear layer whose output is scaled channel by channel."""
    return Rule(
        (f"{ours}.weight", f"{ours}.bias"),
        (f"{theirs}.weight", f"{theirs}.bias", f"{scale}.gamma"),
        lambda weight, bias, gamma: (gamma[:, None] * weight, gamma * bias),
        lambda weight, bias: (weight, bias, torch.ones_like(bias)),
    )


def fold_image_normalization(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a convolution (C, 3, P, P) of images in [0, 1] into one of images normalised by ImageNet's statistics."""
    mean, std = (weight.new_tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in STATISTICS)
    exact = weight.double()
    return (exact * std).to(weight.dtype), (bias.double() + (exact * mean).sum((1, 2, 3))).to(bias.dtype)


def unfold_image_normalization(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `fold_image_normalization`."""
    mean, std = (weight.new_tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in STATISTICS)
    exact = weight.double() / std
    return exact.to(weight.dtype), (bias.double() - (exact * mean).sum((1, 2, 3))).to(bias.dtype)


STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)


def _release(size: str, encoder: int, width: int, depth: int, channels: int, pixels: int, parameters: int) -> Release:
    return Release(
        name=f"openlrm-{size}-1.1",
        source=f"zxhezexin/openlrm-mix-{size}-1.1",
        image_size=pixels,
        parameters=parameters,
        sizes={"width": width, "depth": depth, "channels": channels, "encoder_width": encoder, "patch": 14},
    )


FAMILY = Family(
    name="openlrm",
    title="OpenLRM",
    terms="CC BY-NC 4.0: not for commercial use",
    licence=LICENCE,
    marks=("camera_embedder.mlp.0.weight",),
    files=("model.safetensors", "model.pth", "pytorch_model.bin"),
    preferred=None,
    releases=(
        _release("small", 384, 512, 12, 32, 224, 111_390_948),
        _release("base", 768, 768, 12, 48, 336, 260_201_972),
        _release("large", 768, 1024, 16, 80, 448, 452_138_004),
    ),
    architecture=architecture,
    rules=rules,
)
