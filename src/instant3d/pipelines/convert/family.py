"""Description of a peer, and sizes that all converters read from tensor shapes."""

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
    """Released weights of a peer.

    Attributes:
        name: Name of the release.
        source: Hub id or file of the Hub.
        image_size: Pixels a side of its images.
        parameters: The peer's own count, including unused ones.
        sizes: Fields of the architecture that identify the release.
        download_bytes: Size of the file; None means four bytes per parameter.
    """

    name: str
    source: str
    image_size: int
    parameters: int
    sizes: Mapping[str, int]
    download_bytes: int | None = None

    def is_of(self, a: Architecture) -> bool:
        """Whether an architecture has the sizes of this release."""
        return all(getattr(a, name) == value for name, value in self.sizes.items())


@dataclass(frozen=True)
class Family:
    """A peer: how to identify, size and rename its tensors, and its licence.

    Attributes:
        name: Name in commands.
        title: Name in messages.
        terms: The licence in a few words.
        licence: The licence in full.
        marks: Keys of which every checkpoint has one; what precedes it is the prefix of all keys.
        files: Names or patterns of the files to download.
        preferred: The file to take where there are several.
        releases: Known releases.
        architecture: Reads the architecture from shapes and configuration.
        rules: Conversion rules of an architecture.
        prefix: Prefix of all keys in the peer's own checkpoints.
        strangers: Prefixes of keys that checkpoints hold beside the network.
        refused: Prefixes of keys of related networks that cannot be converted, and why.
        unit: From the configuration, half the side of the field's cube in the peer's world.
        settings: Configuration values from which `unit` and the like can be read again.
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
    """Shapes of tensors by key, with a clear error for a missing one.

    Args:
        tensors: Tensors by key.
        where: Their source, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: object) -> None:
        self.shapes, self.where = {key: tuple(value.shape) for key, value in tensors.items()}, where

    def __contains__(self, key: str) -> bool:
        return key in self.shapes

    def keys(self) -> Iterable[str]:
        """The keys of all tensors."""
        return self.shapes.keys()

    def of(self, key: str, dimensions: int) -> tuple[int, ...]:
        """The shape of tensor `key`; ValueError if it is missing or has another number of `dimensions`."""
        if key not in self.shapes:
            raise ValueError(
                f"{self.where} has no {key}, from which sizes are read; is the file complete, and of this family?"
            )
        if len(self.shapes[key]) != dimensions:
            raise ValueError(f"{self.where}: {key} has {len(self.shapes[key])} dimensions, expected {dimensions}")
        return self.shapes[key]


def square_side(count: int, what: str) -> int:
    """The side of a square of `count` elements; ValueError, which names them `what`, if it is not a square."""
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"{count} {what} do not make a square")
    return side


def heads(config: Config, width: int, what: str, *names: str) -> int:
    """Number of attention heads, which shapes do not determine: as configured, else of 64 channels each.

    Args:
        config: Configuration of the peer.
        width: Channels of all heads together.
        what: Name of the module, for messages.
        names: Names of the setting, of which one may occur.

    Raises:
        ValueError: If no number is known, or it does not divide `width`.
    """
    count = config.number(*names) or (width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else 0)
    if count < 1 or width % count:
        raise ValueError(
            f"the number of heads that share the {what}'s width of {width} does not follow from its tensors; "
            f"set {names[0]} in a configuration (--config)"
        )
    return count


def agreed(config: Config, sizes: Mapping[str, int]) -> None:
    """Check that a configuration agrees with the tensors.

    Args:
        config: Configuration of the peer.
        sizes: Sizes from the tensors, by dotted name of the setting.

    Raises:
        ValueError: If one differs.
    """
    for name, found in sizes.items():
        said = config.number(name)
        if said is not None and said != found:
            raise ValueError(f"the configuration has {name} = {said}, but the tensors have {found}")


def huggingface_vit_sizes(shapes: Shapes, prefix: str, config: Config) -> dict[str, Any]:
    """Sizes of a ViT with the names of the transformers library, as fields of an architecture.

    Args:
        shapes: Shapes of the tensors.
        prefix: Key of the ViT, without the final dot.
        config: Configuration of the peer, for the number of heads.

    Raises:
        ValueError: If a tensor is missing or of unexpected shape, or the number of heads is not known.
    """
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
    """Sizes of tokens, planes and the field's MLP, as fields of an architecture.

    Args:
        shapes: Shapes of the tensors.
        tokens: Tokens of all three planes.
        width: Channels of a token.
        upsample: Key of the upsampler's weight.
        first: Key of the weight of the MLP's first layer.
        layers: Linear layers of the MLP.
    """
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
