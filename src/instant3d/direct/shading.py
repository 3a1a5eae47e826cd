"""A field under a light, which shows shape apart from colour: what is rendered is again a `Field`.

(DreamFusion, arXiv 2209.14988, section 3.1. Shadeless renderings let a guide paint shape onto flat ground.)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.nerf.field import Field, finite_difference_normals
from instant3d.utils.random_numbers import randn_like

Mode = Literal["albedo", "lambertian", "textureless", "normal"]

SCALE = 1.75  # of the paper's world, a box of side 3.5, beside ours
FACING = 0.1  # the least that a surface which faces away receives of what one that faces the light does


class ShadedField:
    """A field whose colours are lit from `light`; density is the field's own.

    albedo       the colours themselves, at no more cost than the field
    lambertian   colour x (ambient + (1 - ambient) x the cosine between normal and light)
    textureless  the same on white
    normal       (1 + normal) / 2 as red, green and blue for the world's x, y and z

    light    (..., 3) directions from the objects towards their lights, which are far away: one for each object
    ambient  the share of light that comes from everywhere
    """

    def __init__(self, field: Field, mode: Mode, light: Tensor | None = None, ambient: float = 0.1) -> None:
        if mode in ("lambertian", "textureless") and light is None:
            raise ValueError(f"{mode} shading needs directions (..., 3) towards the light, got none")
        self.field, self.mode, self.ambient = field, mode, ambient
        self.light = None if light is None else F.normalize(light, dim=-1)

    @property
    def device(self) -> torch.device:
        return getattr(self.field, "device", torch.device("cpu"))

    def density(self, points: Tensor) -> Tensor:
        return self.field.density(points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
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
        """Light (..., N, 1) that surfaces of these normals (..., N, 3) receive."""
        assert self.light is not None
        cosine = (normal * self.light[..., None, :]).sum(-1, keepdim=True)
        return self.ambient + (1 - self.ambient) * cosine.clamp(min=FACING)


def light_directions(cameras: Cameras, generator: torch.Generator) -> Tensor:
    """Directions (..., 3) towards lights scattered around the cameras (...), as the authors' code draws them."""
    place = cameras.positions
    return F.normalize(place + randn_like(place, generator) / SCALE, dim=-1)
