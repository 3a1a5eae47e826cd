"""Scenes that look alike, by their features: which go together, which one stays, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from instant3d.utils.progress import OnStep

from .feature_store import Features

BLOCK = 2048  # scenes on a side of what is compared at once
MAX_PAIRS = 20_000_000


@dataclass(frozen=True)
class Group:
    """Scenes that hang together: those that stay, and for each other one which of those it looks like, and how much."""

    keep: tuple[str, ...]
    drop: tuple[tuple[str, str, float], ...]  # id, the one that it looks like, cosine

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        drop = [{"id": name, "like": like, "cosine": round(cosine, 4)} for name, like, cosine in self.drop]
        return {"keep": list(self.keep), "drop": drop}


def find(
    features: Features,
    threshold: float,
    preference: Mapping[str, float] | None = None,
    on_step: OnStep = lambda *_: None,
) -> list[Group]:
    """Groups of scenes in which each is like another (cosine of features, mean over views, at or above `threshold`).

    In each group the best one stays, and what is like it goes. What is like only such a one that went stays too and is
    asked next: in a long row of small steps the two ends are not alike.

    preference  which of two is better: the higher number; the first by id where it says nothing
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"a threshold is a cosine above 0 and at most 1, got {threshold:g}")
    flat = features.vectors.flatten(1)
    pairs = _pairs(flat, features.vectors.shape[1], threshold, on_step)
    neighbours: dict[int, dict[int, float]] = {}
    for one, other, cosine in pairs:
        neighbours.setdefault(one, {})[other] = cosine
        neighbours.setdefault(other, {})[one] = cosine
    better = preference or {}
    order = sorted(neighbours, key=lambda k: (-better.get(features.ids[k], float("-inf")), features.ids[k]))
    place = {k: n for n, k in enumerate(order)}
    groups = [_group(members, neighbours, features.ids) for members in _united(order, neighbours, place)]
    return sorted(groups, key=lambda group: group.keep)


def _pairs(flat: Tensor, views: int, threshold: float, on_step: OnStep) -> list[tuple[int, int, float]]:
    """Rows (i < j) and their cosines at or above the threshold; a block of rows at a time, so memory stays small."""
    found: list[tuple[int, int, float]] = []
    starts = range(0, len(flat), BLOCK)
    for done, first in enumerate(starts, start=1):
        rows = flat[first : first + BLOCK].float()
        for second in range(first, len(flat), BLOCK):
            cosines = rows @ flat[second : second + BLOCK].float().T / views
            if first == second:
                cosines = cosines.triu(1)
            hits = (cosines >= threshold).nonzero()
            values = cosines[hits[:, 0], hits[:, 1]].clamp(max=1)
            found += [(first + i, second + j, c) for (i, j), c in zip(hits.tolist(), values.tolist(), strict=True)]
            if len(found) > MAX_PAIRS:
                raise ValueError(
                    f"more than {MAX_PAIRS:,} pairs are that much alike; choose a threshold above {threshold:g}"
                )
        on_step(done, len(starts))
    return found


def _united(
    order: list[int], neighbours: Mapping[int, Mapping[int, float]], place: Mapping[int, int]
) -> list[list[int]]:
    """Connected groups, each with its members in the order of preference."""
    seen: set[int] = set()
    groups = []
    for start in order:
        if start in seen:
            continue
        seen.add(start)
        members, ahead = [], [start]
        while ahead:
            members.append(ahead.pop())
            fresh = neighbours[members[-1]].keys() - seen
            seen |= fresh
            ahead += fresh
        groups.append(sorted(members, key=place.__getitem__))
    return groups


def _group(members: list[int], neighbours: Mapping[int, Mapping[int, float]], ids: tuple[str, ...]) -> Group:
    keep: dict[int, None] = {}
    for member in members:
        if neighbours[member].keys().isdisjoint(keep):
            keep[member] = None
    drop = []
    for member in members:
        if member not in keep:
            cosine, nearest = max((neighbours[member][k], -k) for k in neighbours[member].keys() & keep.keys())
            drop.append((ids[member], ids[-nearest], cosine))
    return Group(tuple(ids[k] for k in keep), tuple(drop))
