"""What a converter tells about a peer, and what all converters read from tensors' shapes. Knows no peer by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from instant3d.pipelines.convert.rules import Rule, count_layers
from instant3d.pipelines.convert.source import Config
from instant3d.stage2.architecture import Architecture

HEAD_WIDTH = 64  # of an attention head in all released networks


@dataclass(frozen=True)
class Release:
    """Weights that a peer gave away: where they lie, and the sizes that tell them apart.

    parameters  in the peer's own count, with what is of no use here
    """

    name: str
    source: str
    image_size: int
    parameters: int
    sizes: Mapping[str, int]
    download_bytes: int | None = None
    """None where only the parameters tell: four bytes each."""

    def is_of(self, a: Architecture) -> bool:
        return all(getattr(a, name) == value for name, value in self.sizes.items())


@dataclass(frozen=True)
class Family:
    """A peer: how to know its tensors, read its sizes, name its tensors as ours, and what its licence asks.

    terms        the licence in a few words, `licence` in full
    marks        keys of which every checkpoint has one; what stands before it is the prefix of all
    prefix       what its own code puts before all keys of a checkpoint
    strangers    beginnings of keys that checkpoints hold beside the network
    refused      beginnings of keys of its relatives that cannot be converted, and why
    unit         from the configuration, the length of half the field's cube in the peer's world
    settings     what a configuration must say of an architecture so that `unit` and the like come back
    """

    name: str
    title: str
    terms: str
    licence: str
    marks: tuple[str, ...]
    files: tuple[str, ...]
    preferred: str | None
    releases: tuple[Release, ...]
    architecture: Callable[[Shapes, Config], Architecture]
    rules: Callable[[Architecture], list[Rule]]
    prefix: str = ""
    strangers: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    unit: Callable[[Config], float] = lambda _: 1.0
    settings: Callable[[Architecture], dict[str, Any]] = lambda _: {}


class Shapes:
    """Shapes of tensors by key; asks for one that is not there in a sentence."""

    def __init__(self, tensors: Mapping[str, Tensor], where: object) -> None:
        self.shapes, self.where = {key: tuple(value.shape) for key, value in tensors.items()}, where

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def keys(self) -> Iterable[str]:
        return self.shapes.keys()

    def of(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor from which sizes are read."""
        if key not in self.shapes:
            raise ValueError(f"{self.where} has no {key}, from which sizes are read; is it whole, and of this family?")
        if len(self.shapes[key]) != dimensions:
            raise ValueError(f"{self.where}: {key} has {len(self.shapes[key])} dimensions, expected {dimensions}")
        return self.shapes[key]


def square_side(count: int, what: str) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} {what} do not make a square")
    return side


def heads(config: Config, width: int, what: str, *names: str) -> int:
    """Heads of an attention, which no shape tells: as the configuration says, else of 64 channels each."""
    count = config.number(*names) or (width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0)
    if count < 1 or width % count:
        raise ValueError(
            f"how many heads share the {what}'s width of {width} is not to be seen from its tensors; "
            f"say {names[0]} in a configuration (--config)"
        )
    return count


def agreed(config: Config, sizes: Mapping[str, int]) -> None:
    """Sizes that a configuration names must be those of the tensors: dotted name -> what the tensors say."""
    for name, found in sizes.items():
        said = config.number(name)
        if said is not None and said != found:
            raise ValueError(f"the configuration says {name} = {said}, but the tensors say {found}")


def huggingface_vit_sizes(shapes: Shapes, prefix: str, config: Config) -> dict[str, Any]:
    """Sizes of a ViT with the transformers library's names, as those of an architecture."""
    width = shapes.of(f"{prefix}.embeddings.cls_token", 3)[-1]
    return {
        "encoder_width": width,
        "encoder_depth": count_layers(shapes.keys(), f"{prefix}.encoder.layer."),
        "encoder_heads": heads(config, width, "encoder", "vit.num_attention_heads"),
        "encoder_feed": shapes.of(f"{prefix}.encoder.layer.0.intermediate.dense.weight", 2)[0],
        "patch": shapes.of(f"{prefix}.embeddings.patch_embeddings.projection.weight", 4)[-1],
        "position_side": square_side(shapes.of(f"{prefix}.embeddings.position_embeddings", 3)[1] - 1, "positions"),
    }


def triplane_sizes(shapes: Shapes, tokens: int, width: int, upsample: str, first: str, layers: int) -> dict[str, Any]:
    """Sizes of tokens, planes and the field's MLP, as those of an architecture."""
    side = square_side(tokens // 3, "tokens of a plane")
    _, channels, factor, _ = shapes.of(upsample, 4)
    return {
        "width": width,
        "token_side": side,
        "plane_side": side * factor,
        "channels": channels,
        "decoder_width": shapes.of(first, 2)[0],
        "decoder_layers": layers,
    }
