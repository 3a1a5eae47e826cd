"""Warm start: a variant of the network that begins with the weights of a trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from instant3d.stage2.architecture import Architecture
from instant3d.stage2.network import Reconstructor

SHOWN = 3  # tensors that an error names


def variant_of(base: Architecture, changes: Architecture) -> Architecture:
    """The architecture `base` with those fields of `changes` that differ from their defaults, except `image_size`."""
    changed = {
        field.name: value
        for field in fields(changes)
        if (value := getattr(changes, field.name)) != field.default and field.name != "image_size"
    }
    return replace(base, **changed)


def warm_start(weights: str | Path, changes: Architecture) -> tuple[Reconstructor, list[str]]:
    """Build a variant of a trained network that contains its weights.

    What only the variant has keeps its initial values; the last layer of each optional branch begins at zero, as in
    ControlNet (arXiv 2302.05543, section 3.1), so that a variant with further branches begins with the same output.

    Args:
        weights: Folder of weights or Hub id.
        changes: What differs from the architecture of the weights, see `variant_of`.

    Returns:
        The variant in float32 and training mode, with the licence of the weights, and the names of the tensors that
        only the variant has.

    Raises:
        FileNotFoundError: There is no such folder or Hub id.
        ValueError: The variant lacks tensors of the weights, or has them in other shapes.
    """
    base = Reconstructor.from_pretrained(weights)
    architecture = variant_of(base.architecture, changes)
    if architecture == base.architecture:
        return base.train(), []
    variant = Reconstructor(architecture)
    own, trained = variant.state_dict(), base.state_dict()
    _check(weights, own, trained)
    variant.load_state_dict(own | trained)
    variant.licence, variant.precise = base.licence, base.precise
    return variant.train(), sorted(own.keys() - trained.keys())


def _check(weights: str | Path, own: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    missing = sorted(trained.keys() - own.keys())
    if missing:
        raise ValueError(
            f"the architecture has no place for {len(missing)} tensors of {weights} ({_abbreviated(missing)}); "
            "leave out what removes them, or train it without model.start"
        )
    other = [
        f"{name} {tuple(own[name].shape)} instead of {tuple(value.shape)}"
        for name, value in trained.items()
        if own[name].shape != value.shape
    ]
    if other:
        raise ValueError(
            f"the architecture has {len(other)} tensors in other shapes than {weights} ({_abbreviated(other)}); "
            "leave out what changes their sizes, or train it without model.start"
        )


def _abbreviated(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
