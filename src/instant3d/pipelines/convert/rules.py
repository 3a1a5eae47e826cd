"""Conversion rules between a peer's tensors and ours, in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Map = Callable[..., tuple[Tensor, ...]]


def unchanged(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The identity."""
    return tensors


@dataclass(frozen=True)
class Rule:
    """Conversion of some of a peer's tensors to some of ours; `{i}` in a key is the number of a layer.

    Attributes:
        ours: Our keys.
        theirs: The peer's keys.
        fold: From the peer's tensors to ours.
        unfold: From ours to the peer's; may return nothing for tensors that are not required.
        optional: Whether the peer's tensors may be missing.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    fold: Map = unchanged
    unfold: Map = unchanged
    optional: bool = False

    def numbered(self, number: int) -> Rule:
        """The rule of one layer."""
        ours, theirs = (tuple(key.replace("{i}", str(number)) for key in keys) for keys in (self.ours, self.theirs))
        return replace(self, ours=ours, theirs=theirs)


def renamed(ours: str, theirs: str, *names: str) -> Rule:
    """A rule for tensors that only change their names; `names` follow both prefixes, such as weight and bias."""
    if not names:
        return Rule((ours,), (theirs,))
    return Rule(tuple(f"{ours}.{name}" for name in names), tuple(f"{theirs}.{name}" for name in names))


def linear(ours: str, theirs: str) -> Rule:
    """A rule for weight and bias of a layer with new prefixes."""
    return renamed(ours, theirs, "weight", "bias")


def stacked(ours: str, theirs: Sequence[str]) -> Rule:
    """Make a rule that stacks a peer's matrices (or vectors) to one of ours.

    Args:
        ours: Our key.
        theirs: Keys of the peer's tensors of equal shape, in this order.
    """
    count = len(theirs)
    return Rule((ours,), tuple(theirs), lambda *parts: (torch.cat(parts),), lambda whole: whole.chunk(count))


def layers(count: int, rules: Iterable[Rule]) -> list[Rule]:
    """The rules of layers 0 to count - 1."""
    rules = list(rules)
    return [rule.numbered(number) for number in range(count) for rule in rules]


def folded(rules: Sequence[Rule], theirs: State) -> dict[str, Tensor]:
    """Convert a peer's tensors to ours; `differences` must have found none."""
    ours: dict[str, Tensor] = {}
    for rule in rules:
        if not rule.optional or all(key in theirs for key in rule.theirs):
            ours |= zip(rule.ours, rule.fold(*(theirs[key] for key in rule.theirs)), strict=True)
    return ours


def unfolded(rules: Sequence[Rule], ours: State) -> dict[str, Tensor]:
    """Convert our tensors to a peer's."""
    theirs: dict[str, Tensor] = {}
    for rule in rules:
        made = rule.unfold(*(ours[key] for key in rule.ours))
        theirs |= zip(rule.theirs, made, strict=True) if made else {}
    return theirs


def differences(rules: Sequence[Rule], keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """The missing keys, required by the rules, and the unexpected keys, which no rule takes."""
    found = set(keys)
    wanted = {key for rule in rules if not rule.optional for key in rule.theirs}
    known = {key for rule in rules for key in rule.theirs}
    return sorted(wanted - found), sorted(found - known)


def count_layers(keys: Iterable[str], prefix: str) -> int:
    """One more than the greatest number that follows `prefix` in a key."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, keys) if match), default=0)
