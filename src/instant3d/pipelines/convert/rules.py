"""Key maps that work both ways: which of their tensors make which of ours. Knows nothing of files or of any peer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Map = Callable[..., tuple[Tensor, ...]]


def unchanged(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tensors


@dataclass(frozen=True)
class Rule:
    """Tensors of theirs that make tensors of ours; `{i}` in a key stands for a layer's number.

    fold      from theirs to ours
    unfold    back; it may return nothing for what they can do without
    optional  nothing is missed where they lack these
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
    """Tensors that only change their names; `names` are those below both prefixes, such as weight and bias."""
    if not names:
        return Rule((ours,), (theirs,))
    return Rule(tuple(f"{ours}.{name}" for name in names), tuple(f"{theirs}.{name}" for name in names))


def linear(ours: str, theirs: str) -> Rule:
    return renamed(ours, theirs, "weight", "bias")


def stacked(ours: str, theirs: Sequence[str]) -> Rule:
    """Equal matrices (or vectors) of theirs that are the rows of one of ours, in this order."""
    count = len(theirs)
    return Rule((ours,), tuple(theirs), lambda *parts: (torch.cat(parts),), lambda whole: whole.chunk(count))


def layers(count: int, rules: Iterable[Rule]) -> list[Rule]:
    """The rules of layers 0 to count - 1."""
    rules = list(rules)
    return [rule.numbered(number) for number in range(count) for rule in rules]


def folded(rules: Sequence[Rule], theirs: State) -> dict[str, Tensor]:
    """Their tensors as ours; they must be those that `differences` finds nothing to say about."""
    ours: dict[str, Tensor] = {}
    for rule in rules:
        if not rule.optional or all(key in theirs for key in rule.theirs):
            ours |= zip(rule.ours, rule.fold(*(theirs[key] for key in rule.theirs)), strict=True)
    return ours


def unfolded(rules: Sequence[Rule], ours: State) -> dict[str, Tensor]:
    """Our tensors as theirs."""
    theirs: dict[str, Tensor] = {}
    for rule in rules:
        made = rule.unfold(*(ours[key] for key in rule.ours))
        theirs |= zip(rule.theirs, made, strict=True) if made else {}
    return theirs


def differences(rules: Sequence[Rule], keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Keys that the rules want and are not there, and keys that are there and no rule takes."""
    found = set(keys)
    wanted = {key for rule in rules if not rule.optional for key in rule.theirs}
    known = {key for rule in rules for key in rule.theirs}
    return sorted(wanted - found), sorted(found - known)


def count_layers(keys: Iterable[str], prefix: str) -> int:
    """One more than the greatest number that follows `prefix` in a key."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return max((int(match[1]) + 1 for match in map(pattern.match, keys) if match), default=0)
