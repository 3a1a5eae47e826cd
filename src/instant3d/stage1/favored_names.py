"""A share of the training examples for grids of given names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from instant3d.stage1.cache import LatentCache
from instant3d.stage1.grid_dataset import SceneGrids


def with_favored_names(
    sources: Sequence[LatentCache | SceneGrids], weights: Sequence[float] | None, names: Sequence[str], share: float
) -> tuple[list[LatentCache | SceneGrids], list[float]]:
    """Append, for each name, the grids whose captions are that name, weighted so that together they have their share.

    Args:
        sources: Caches.
        weights: How often an epoch shows a grid of each; once by default.
        names: Names to favor; those in no caption are left out with a warning.
        share: Share of all examples that show one of the names, between 0 and 1.

    Returns:
        Sources and weights.

    Raises:
        ValueError: `share` is out of range or a source is no cache.
    """
    if not 0 < share < 1:
        raise ValueError(f"favored_share is a share of the examples between 0 and 1, got {share}")
    weights = [1.0] * len(sources) if weights is None else list(weights)
    examples = share / (1 - share) * sum(w * len(source) for w, source in zip(weights, sources, strict=True))
    found = {name: parts for name in names if (parts := _captioned_all(sources, name))}
    if missing := [name for name in names if name not in found]:
        warnings.warn(
            f"{len(missing)} of {len(names)} names in data.favored are in no caption of the training data: "
            f"{', '.join(map(repr, missing))}; the others are favored",
            stacklevel=2,
        )
    more = [(part, examples / len(found) / sum(map(len, parts))) for parts in found.values() for part in parts]
    return [*sources, *(part for part, _ in more)], [*weights, *(weight for _, weight in more)]


def _captioned_all(sources: Sequence[LatentCache | SceneGrids], name: str) -> list[LatentCache]:
    """Parts of caches whose captions are a name; an article and one more word may stand before it."""
    pattern = re.compile(rf"((an?|the) )?([^ ]+ )?{re.escape(name)}")
    return [part for source in sources if (part := _captioned(source, pattern)) is not None]


def _captioned(source: LatentCache | SceneGrids, pattern: re.Pattern[str]) -> LatentCache | None:
    if not isinstance(source, LatentCache):
        raise ValueError("data.favored needs caches, got scenes; run `instant3d cache-stage1` first")
    grids = (source.grids[row] for row in source.rows)
    ids = {grid["id"] for grid in grids if pattern.fullmatch(grid["caption"])}
    return LatentCache(source.folder, ids) if ids else None
