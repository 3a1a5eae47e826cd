"""Shaded fields for score distillation (DreamFusion, arXiv 2209.14988, section 3.1); a shaded field is again a `Field`.

Without shading, a guidance model can paint shape onto flat ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.field import Field, finite_difference_normals
from instant3d.utils.random_numbers import randn_like

Mode = Literal["albedo", "lambertian", "textureless", "normal"]

SCALE = 1.75  # lengths of the paper's world, a box of side 3.5, for one of ours
FACING = 0.1  # least cosine, so that surfaces facing away from the light are not black


@dataclass(frozen=True)
class Lighting:
    """Random shading, so that shape is not painted on; the paper has no numbers, these are threestudio's.

    Attributes:
        chance: Probability that a step is shaded, from step `begin` on; a shaded image costs seven times the density
            evaluations.
        begin: First step that may be shaded.
        textureless: Share of shaded steps without colours.
        ambient: Share of ambient light.
    """

    chance: float = 0.0
    begin: int = 2000
    textureless: float = 0.5
    ambient: float = 0.1


class ShadedField:
    """A field whose colours are shaded under a light; the density is unchanged.

    Args:
        field: The field.
        mode: "albedo" is the colours themselves, at no additional cost. "lambertian" is colour x (ambient + (1 -
            ambient) x the cosine between normal and light). "textureless" is the same with white for the colour.
            "normal" is (1 + normal) / 2 as red, green and blue for the world's x, y and z.
        light: Directions (..., 3) from the objects to their distant lights, one for each object.
        ambient: Share of ambient light.

    Raises:
        ValueError: The mode needs a light and there is none.
    """

    def __init__(self, field: Field, mode: Mode, light: Tensor | None = None, ambient: float = 0.1) -> None:
        if mode in ("lambertian", "textureless") and light is None:
            raise ValueError(f"{mode} shading needs directions (..., 3) towards the light, got none")
        self.field, self.mode, self.ambient = field, mode, ambient
        self.light = None if light is None else F.normalize(light, dim=-1)

    @property
    def device(self) -> torch.device:
        """Device of the field."""
        return getattr(self.field, "device", torch.device("cpu"))

    def density(self, points: Tensor) -> Tensor:
        """Density (..., N, 1) at points (..., N, 3)."""
        return self.field.density(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density (..., N, 1) and shaded colour (..., N, 3) at points (..., N, 3)."""
        if self.mode == "albedo":
            return self.field(points)
        normal = finite_difference_normals(self.field, points)
        if self.mode == "normal":
            return self.field.density(points), (1 + normal) / 2
        if self.mode == "textureless":
            return self.field.density(points), self._received_light(normal).expand_as(points)
        density, rgb = self.field(points)
        return density, rgb * self._received_light(normal)

    def _received_light(self, normal: Tensor) -> Tensor:
        """Light (..., N, 1) that surfaces with these normals (..., N, 3) receive."""
        assert self.light is not None
        cosine = (normal * self.light[..., None, :]).sum(-1, keepdim=True)
        return self.ambient + (1 - self.ambient) * cosine.clamp(min=FACING)


def light_directions(cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Directions (..., 3) to lights drawn around the cameras (...), as in the authors' code."""
    place = cameras.positions
    return F.normalize(place + randn_like(place, generator) / SCALE, dim=-1)
