"""Selection of the best scenes of a ranking, without near-duplicates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ..manifests.id_lists import BAD, RankedScene, read_rows

TOP = 10_000  # what arXiv 2311.06214 fine-tuned on


def top(places: Sequence[RankedScene], count: int, without: Collection[str] = ()) -> list[RankedScene]:
    """The first `count` scenes of a ranking (best first) that are neither labelled bad nor in the ids `without`."""
    return [place for place in places if place.label != BAD and place.id not in without][:count]


def dropped(path: str | Path) -> set[str]:
    """The ids that a file of near-duplicates drops."""
    return set(_dropped(path))


def _dropped(path: str | Path) -> Iterator[str]:
    hint = "`instant3d data curate duplicates` writes it"
    for number, row in read_rows(path, hint):
        entries = row.get("drop")
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and isinstance(e.get("id"), str) for e in entries
        ):
            raise ValueError(f"{path}, line {number} is no group of near-duplicates; {hint}")
        yield from (entry["id"] for entry in entries)
