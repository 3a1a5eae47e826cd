"""Bands of objects by measured properties of their true views: thin, flat, round and textured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from instant3d import scenes
from instant3d.views import Views

BANDS = ("thin", "flat", "round", "textured")
THIN, FLAT, TEXTURED = 0.4, 0.4, 0.15


@dataclass(frozen=True)
class Shape:
    """Properties of an object in its views.

    Attributes:
        compactness: 4 pi area / perimeter^2 of the silhouettes, mean over the views: 1 for a disc, less for thin parts.
        evenness: Area of the smallest silhouette divided by that of the largest: small for a flat object.
        contrast: Standard deviation of the colours on the object, root of the mean variance of the three channels.
    """

    compactness: float
    evenness: float
    contrast: float

    @classmethod
    def of(cls, views: Views) -> Shape:
        """Measure views (V,) of one object; empty views are left out.

        Raises:
            ValueError: All views are empty.
        """
        alpha = views.alpha[:, 0]
        area = alpha.sum((1, 2))
        shown = area > 1
        if not bool(shown.any()):
            raise ValueError("the object is in none of its views; leave the scene out")
        area, around = area[shown], perimeter(alpha)[shown]
        compactness = (4 * math.pi * area / around.square().clamp(min=1e-6)).mean()
        colours = views.rgb.movedim(1, -1)[alpha > 0.99]
        contrast = colours.var(0, unbiased=False).mean().sqrt() if len(colours) else torch.zeros(())
        return cls(float(compactness), float(area.min() / area.max()), float(contrast))

    @property
    def bands(self) -> list[str]:
        """Names of the object's bands: thin, flat or both, else round; and textured beside them."""
        shape = [name for name, holds in (("thin", self.compactness < THIN), ("flat", self.evenness < FLAT)) if holds]
        return (shape or ["round"]) + ["textured"] * (self.contrast > TEXTURED)


def perimeter(alpha: Tensor) -> Tensor:
    """Length in pixels of the outlines of masks (V, H, W): the integral of |grad alpha| (coarea formula)."""
    padded = torch.nn.functional.pad(alpha[:, None], (3, 3, 3, 3))
    smooth = torch.nn.functional.avg_pool2d(padded, 3, stride=1)[:, 0]  # so that differences have a direction
    across = (smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2]) / 2
    down = (smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]) / 2
    return (across.square() + down.square()).sqrt().sum((1, 2))


def find_bands(folders: Mapping[str, Path], size: int) -> dict[str, list[str]]:
    """Bands of scenes.

    Args:
        folders: Scene folders by name.
        size: Side in pixels at which their views are measured.

    Returns:
        Names of the scenes of each band.
    """
    found: dict[str, list[str]] = {band: [] for band in BANDS}
    for name, folder in folders.items():
        for band in Shape.of(scenes.read(folder, size=size, maps=()).views).bands:
            found[band].append(name)
    return found
