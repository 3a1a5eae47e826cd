"""TripoSR (arXiv 2403.02151): one image to a triplane, without a camera.

Folded into the weights: the order of its tokens' dimensions. Set in the architecture: self-attention before
cross-attention, gated feed-forward layers, biases after attention, and a residual projection around the transformer.
Its field fills a cube of half side 0.87, ours one of half side 1: its lengths are 0.87 times ours. Its density is per
fraction of a ray's path through the cube, not per length; it is not converted.
"""

from __future__ import annotations

from torch import Tensor

from instant3d.pipelines.convert import parts
from instant3d.pipelines.convert.family import (
    Family,
    Release,
    Shapes,
    agreed,
    heads,
    huggingface_vit_sizes,
    triplane_sizes,
)
from instant3d.pipelines.convert.rules import Rule, count_layers, layers, linear, renamed, stacked
from instant3d.pipelines.convert.source import Config
from instant3d.stage2.architecture import Architecture

RADIUS = 0.87
DISTANCE = 1.9

LICENCE = """\
These weights were converted from TripoSR (Tripo AI and Stability AI, arXiv 2403.02151), which is given under the
**MIT licence**:

MIT License

Copyright (c) 2024 Tripo AI & Stability AI

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

Its image encoder is DINO's ViT-B/16 (Meta, Apache-2.0). What was changed: names and order of tensors.
"""


def radius(config: Config) -> float:
    """Half the side of the field's cube, in TripoSR's units."""
    return float(config.get("lrm.radius", "renderer.radius", default=RADIUS))


def architecture(shapes: Shapes, config: Config) -> Architecture:
    """The architecture: sizes from the tensors; heads from the configuration, else of 64 channels each."""
    planes, width, rows, columns = shapes.of("tokenizer.embeddings", 4)
    depth = count_layers(shapes.keys(), "backbone.transformer_blocks.")
    mlp = count_layers(shapes.keys(), "decoder.layers.") // 2 + 1
    agreed(config, {"plane_size": rows, "num_channels": width, "backbone.num_layers": depth})
    agreed(config, {"lrm.layers": depth})
    _plain(config)
    tokens = planes * rows * columns
    return Architecture(
        image_size=0,
        **huggingface_vit_sizes(shapes, "image_tokenizer.model", config),
        **triplane_sizes(shapes, tokens, width, "post_processor.upsample.weight", "decoder.layers.0.weight", mlp),
        encoder_epsilon=float(config.get("vit.layer_norm_eps", default=1e-12)),
        positions="dino",
        background=0.5,
        camera="none",
        depth=depth,
        heads=heads(config, width, "transformer", "backbone.num_attention_heads", "lrm.heads"),
        feed=shapes.of("backbone.transformer_blocks.0.ff.net.2.weight", 2)[1],
        gated=True,
        self_first=True,
        out_bias=True,
        bypass=True,
        density="exp",
        decoder_activation="silu",
        rgb_margin=0.0,
        foreground=0.85,
        assumed_camera=(0.0, 0.0, DISTANCE / radius(config), 40.0),
    )


def _plain(config: Config) -> None:
    """Check settings for which only the usual value can be converted."""
    usual = {
        "renderer.feature_reduction": ("concat",),
        "renderer.density_activation": ("exp", "trunc_exp"),
        "renderer.density_bias": (-1, -1.0),
        "decoder.activation": ("silu",),
    }
    for name, known in usual.items():
        if config.get(name, default=known[0]) not in known:
            raise ValueError(f"the configuration has {name} = {config.get(name)!r}; only {known[0]} can be converted")


def rules(a: Architecture) -> list[Rule]:
    """Conversion rules of all keys, in the order of the modules."""
    block, layer = "blocks.{i}", "backbone.transformer_blocks.{i}"
    return [
        *parts.huggingface_vit("image_tokenizer.model", a.encoder_depth),
        parts.pooler("image_tokenizer.model", a.encoder_width, written=True),
        Rule(("tokens",), ("tokenizer.embeddings",), flat_tokens, lambda tokens: square_tokens(tokens, a.token_side)),
        linear("bypass.norm", "backbone.norm"),
        linear("bypass.inward", "backbone.proj_in"),
        *layers(
            a.depth,
            [
                linear(f"{block}.self_norm", f"{layer}.norm1"),
                *_attention(f"{block}.self_attention", f"{layer}.attn1"),
                linear(f"{block}.cross_norm", f"{layer}.norm2"),
                *_attention(f"{block}.cross", f"{layer}.attn2"),
                linear(f"{block}.feed_norm", f"{layer}.norm3"),
                linear(f"{block}.feed.widen", f"{layer}.ff.net.0.proj"),
                linear(f"{block}.feed.narrow", f"{layer}.ff.net.2"),
            ],
        ),
        linear("bypass.outward", "backbone.proj_out"),
        linear("upsample", "post_processor.upsample"),
        *parts.decoder("decoder.layers", a.decoder_layers),
    ]


def _attention(ours: str, theirs: str) -> list[Rule]:
    return [
        renamed(f"{ours}.query.weight", f"{theirs}.to_q.weight"),
        stacked(f"{ours}.key_value.weight", [f"{theirs}.to_k.weight", f"{theirs}.to_v.weight"]),
        linear(f"{ours}.out", f"{theirs}.to_out.0"),
    ]


def flat_tokens(table: Tensor) -> tuple[Tensor]:
    """Tokens (3, C, side, side) as (1, 3 * side * side, C), ordered plane, row, column."""
    return (table.movedim(1, -1).flatten(0, 2)[None].contiguous(),)


def square_tokens(tokens: Tensor, side: int) -> tuple[Tensor]:
    """The inverse of `flat_tokens`: tokens (1, 3 * side * side, C) as (3, C, side, side)."""
    return (tokens[0].unflatten(0, (3, side, side)).movedim(-1, 1).contiguous(),)


FAMILY = Family(
    name="triposr",
    title="TripoSR",
    terms="MIT",
    licence=LICENCE,
    marks=("post_processor.upsample.weight",),
    files=("model.ckpt", "model.safetensors"),
    preferred=None,
    releases=(
        Release(
            name="TripoSR",
            source="stabilityai/TripoSR",
            image_size=512,
            parameters=419_275_628,
            sizes={"width": 1024, "depth": 16, "channels": 40, "encoder_width": 768},
            download_bytes=1_677_246_742,
        ),
    ),
    architecture=architecture,
    rules=rules,
    unit=radius,
    settings=lambda a: {"radius": DISTANCE / a.assumed_camera[2]} if a.assumed_camera else {},
)
