"""Conversion rules that several peers share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from instant3d.pipelines.convert.rules import Rule, layers, linear, renamed, stacked

# Of a matrix that multiplies a camera's sixteen numbers (three rows of camera-to-world, then the intrinsics): columns
# of the camera's y and z axes. Theirs point up and backwards (OpenGL), ours down and forwards (OpenCV).
UP_AND_BACK = (1, 2, 5, 6, 9, 10)


def rotated_camera(weight: Tensor) -> tuple[Tensor]:
    """Convert the first matrix (W, 16) of a camera embedding to the other axis convention; its own inverse."""
    sign = torch.ones(weight.shape[1], dtype=weight.dtype)
    sign[list(UP_AND_BACK)] = -1
    return (weight * sign.to(weight.device),)


def camera_embedding(ours: str, theirs: str) -> list[Rule]:
    """Rules of a camera embedding: two linear layers, of which the first takes the camera."""
    first = Rule((f"{ours}.0.weight",), (f"{theirs}.0.weight",), rotated_camera, rotated_camera)
    return [first, renamed(f"{ours}.0.bias", f"{theirs}.0.bias"), linear(f"{ours}.2", f"{theirs}.2")]


def huggingface_vit(theirs: str, depth: int) -> list[Rule]:
    """Rules of a ViT with the names of transformers; ours are timm's, with query, key and value in one matrix."""
    ours, block, layer = "encoder.vit", "encoder.vit.blocks.{i}", f"{theirs}.encoder.layer.{{i}}"
    qkv = [f"{layer}.attention.attention.{name}" for name in ("query", "key", "value")]
    return [
        renamed(f"{ours}.cls_token", f"{theirs}.embeddings.cls_token"),
        renamed(f"{ours}.pos_embed", f"{theirs}.embeddings.position_embeddings"),
        linear(f"{ours}.patch_embed.proj", f"{theirs}.embeddings.patch_embeddings.projection"),
        *layers(
            depth,
            [
                linear(f"{block}.norm1", f"{layer}.layernorm_before"),
                stacked(f"{block}.attn.qkv.weight", [f"{name}.weight" for name in qkv]),
                stacked(f"{block}.attn.qkv.bias", [f"{name}.bias" for name in qkv]),
                linear(f"{block}.attn.proj", f"{layer}.attention.output.dense"),
                linear(f"{block}.norm2", f"{layer}.layernorm_after"),
                linear(f"{block}.mlp.fc1", f"{layer}.intermediate.dense"),
                linear(f"{block}.mlp.fc2", f"{layer}.output.dense"),
            ],
        ),
        linear(f"{ours}.norm", f"{theirs}.layernorm"),
    ]


def lrm_transformer(theirs: str, depth: int, norm: str = "norm{n}") -> list[Rule]:
    """Rules of LRM's blocks with torch's attention: cross-attention, self-attention and feed-forward.

    Args:
        theirs: Key of their list of blocks.
        depth: Number of blocks.
        norm: Name of a block's n-th norm, with `{n}` for its number from 1 to 3.
    """
    block, layer = "blocks.{i}", f"{theirs}.{{i}}"
    norms = [f"{layer}.{norm.format(n=n)}" for n in (1, 2, 3)]
    cross, own = f"{layer}.cross_attn", f"{layer}.self_attn"
    return layers(
        depth,
        [
            linear(f"{block}.cross_norm", norms[0]),
            renamed(f"{block}.cross.query.weight", f"{cross}.q_proj_weight"),
            stacked(f"{block}.cross.key_value.weight", [f"{cross}.k_proj_weight", f"{cross}.v_proj_weight"]),
            renamed(f"{block}.cross.out.weight", f"{cross}.out_proj.weight"),
            linear(f"{block}.self_norm", norms[1]),
            Rule(
                (f"{block}.self_attention.query.weight", f"{block}.self_attention.key_value.weight"),
                (f"{own}.in_proj_weight",),
                _query_and_rest,
                lambda *parts: (torch.cat(parts),),
            ),
            renamed(f"{block}.self_attention.out.weight", f"{own}.out_proj.weight"),
            linear(f"{block}.feed_norm", norms[2]),
            linear(f"{block}.feed.0", f"{layer}.mlp.0"),
            linear(f"{block}.feed.2", f"{layer}.mlp.3"),
        ],
    )


def _query_and_rest(whole: Tensor) -> tuple[Tensor, Tensor]:
    rows = len(whole) // 3
    return whole[:rows], whole[rows:]


def modulated_norms(theirs: str, depth: int) -> list[Rule]:
    """Rules that combine the three layers (shift and scale each) after LRM's norms into one of ours."""
    mlps = [f"{theirs}.{{i}}.norm{n}.mlp.1" for n in (1, 2, 3)]
    ours = "blocks.{i}.modulation.linear"
    return layers(depth, [stacked(f"{ours}.{kind}", [f"{mlp}.{kind}" for mlp in mlps]) for kind in ("weight", "bias")])


def decoder(theirs: str, count: int) -> list[Rule]:
    """Rules of the field's MLP of `count` linear layers, at the even indices of a sequence."""
    ours = ["decoder.first", *(f"decoder.hidden.{k}" for k in range(count - 2)), "decoder.last"]
    return [linear(name, f"{theirs}.{2 * k}") for k, name in enumerate(ours)]


def pooler(theirs: str, width: int, *, written: bool) -> Rule:
    """Rule of a ViT's pooler, which is not used here.

    Args:
        theirs: Key of the ViT.
        width: Channels of the ViT.
        written: Write zeros for it in the other direction; otherwise nothing.
    """

    def nothing() -> tuple[Tensor, ...]:
        return (torch.zeros(width, width), torch.zeros(width)) if written else ()

    return Rule((), (f"{theirs}.pooler.dense.weight", f"{theirs}.pooler.dense.bias"), lambda *_: (), nothing, True)


def without(keys: Iterable[str], prefixes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split keys into those without and those with one of the prefixes."""
    keys = list(keys)
    apart = [key for key in keys if key.startswith(tuple(prefixes))]
    return [key for key in keys if key not in set(apart)], apart
