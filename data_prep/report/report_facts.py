"""The facts in the report on a set of scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..curation.scene_index import Broken

BINS = 20  # of the histogram of coverage
ENDS = 8  # scenes shown at each end of an order


@dataclass(frozen=True)
class Thumbnail:
    """A small image of a scene's first views, as WebP, and how much of them the object covers, 0 ... 1."""

    id: str
    caption: str | None
    image: bytes
    coverage: float
    remark: str = ""


@dataclass(frozen=True)
class ReportFacts:
    """The facts of a report on a set of scenes."""

    scenes: int
    frames: Counter[str]  # how many scenes have so many views, and so on
    sizes: Counter[str]
    licences: Counter[str]
    sources: Counter[str]
    captioned: int
    without_caption: list[str]
    broken: Broken
    shown: list[Thumbnail]
    rejected: list[dict[str, Any]]
    objects: Mapping[str, int] | None = None  # of the manifest: in all, with a scene, rejected, neither
    doctor: Mapping[str, Any] | None = None
    best: list[Thumbnail] = field(default_factory=list)
    worst: list[Thumbnail] = field(default_factory=list)

    @property
    def views(self) -> int:
        """Number of views of all scenes together."""
        return sum(int(count) * scenes for count, scenes in self.frames.items())
