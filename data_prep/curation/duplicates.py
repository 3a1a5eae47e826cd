"""Near-duplicates of scenes by their features: groups, and which scenes of each to keep."""

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
    """A group of near-duplicates.

    Attributes:
        keep: Ids of the scenes to keep.
        drop: For each other scene its id, the kept one to which it is similar, and their cosine.
    """

    keep: tuple[str, ...]
    drop: tuple[tuple[str, str, float], ...]

    def record(self) -> dict[str, Any]:
        """The group as a JSON object."""
        drop = [{"id": name, "like": like, "cosine": round(cosine, 4)} for name, like, cosine in self.drop]
        return {"keep": list(self.keep), "drop": drop}


def find(
    features: Features,
    threshold: float,
    preference: Mapping[str, float] | None = None,
    on_step: OnStep = lambda *_: None,
) -> list[Group]:
    """Find groups of near-duplicates.

    In each group the best scene is kept and those similar to it are dropped; among the others this is repeated, since
    the ends of a long chain of small steps are not similar.

    Args:
        features: Features of all scenes.
        threshold: Least cosine (mean over views) of two similar scenes.
        preference: Score by id, of which the higher is kept; else the first by id.
        on_step: Called with the progress.

    Returns:
        The groups with at least one dropped scene.
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
    """Pairs of rows (i < j) with a cosine of at least `threshold`; by blocks of rows to limit memory."""
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
                    f"more than {MAX_PAIRS:,} pairs are that similar; choose a threshold above {threshold:g}"
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
