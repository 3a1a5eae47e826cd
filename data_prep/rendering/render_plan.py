"""Render plans: cameras, size and light of every object's views."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml

from instant3d.cameras import Cameras, intrinsics_from_fov, orbit, random_sphere, structured_cameras
from instant3d.utils import atomic, shipped
from instant3d.utils.yaml_files import load_yaml
from instant3d.views import MAPS

Range = tuple[float, float]
FAST_LIGHTINGS = ("flat", "soft")
BLENDER_LIGHTINGS = ("flat", "uniform", "area")
LIGHTINGS = tuple(dict.fromkeys(FAST_LIGHTINGS + BLENDER_LIGHTINGS))
RENDERERS = ("auto", "fast", "blender")
DEVICES = ("cpu", "cuda", "optix")


@dataclass(frozen=True)
class Plan:
    """The four structured views of every object, rings of views, then random ones. A YAML file of the same names."""

    size: int = 128  # pixels a side
    random_views: int = 20
    elevation_deg: Range = (-30.0, 75.0)
    radius: Range = (2.4, 3.0)  # from 2.37 on the whole unit sphere is in a 50 degree camera's view
    fov_deg: Range = (50.0, 50.0)
    ring_views: int = 0  # evenly around at each of the two heights, the same for all objects, from the front on
    ring_deg: Range = (0.0, 30.0)  # these heights
    lighting: str = "flat"
    supersample: int = 3  # of the fast renderer: samples a side of a pixel
    depth: bool = True  # maps beside the images, which losses may use
    normals: bool = False
    seed: int = 0  # another one gives other random cameras and area lights
    renderer: str = "auto"  # "fast", "blender", or "auto": the fast one where it supports the light
    samples: int = 16  # of Blender: paths a pixel
    device: str = "cpu"  # of Blender: "cpu", "cuda" or "optix"

    def __post_init__(self) -> None:
        if not (1 <= self.size <= 4096 and 0 <= self.random_views <= 1000 and 1 <= self.supersample <= 8):
            raise ValueError(
                "a plan needs size 1 to 4096, random_views 0 to 1000 and supersample 1 to 8, "
                f"got {self.size}, {self.random_views} and {self.supersample}"
            )
        if not 0 <= self.ring_views <= 360:
            raise ValueError(f"a plan's ring_views are 0 to 360 at each height, got {self.ring_views}")
        limits = {"elevation_deg": (-90, 90), "ring_deg": (-90, 90), "radius": (1e-3, 1e3), "fov_deg": (1, 170)}
        for name, (lowest, highest) in limits.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"a plan's {name} is [low, high] within {lowest} and {highest}, got [{low}, {high}]")
        if not 1 <= self.samples <= 65536:
            raise ValueError(f"a plan's samples are 1 to 65536 a pixel, got {self.samples}")
        for name, known in (("lighting", LIGHTINGS), ("renderer", RENDERERS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ValueError(f"a plan's {name} is one of {', '.join(known)}, got {getattr(self, name)!r}")
        able = FAST_LIGHTINGS if self.chosen_renderer == "fast" else BLENDER_LIGHTINGS
        if self.lighting not in able:
            raise ValueError(
                f"the {self.chosen_renderer} renderer has no {self.lighting!r} light, only {', '.join(able)}; "
                "name another renderer or light in the plan"
            )

    @property
    def chosen_renderer(self) -> str:
        """The renderer: "fast" or "blender"."""
        if self.renderer == "auto":
            return "fast" if self.lighting in FAST_LIGHTINGS else "blender"
        return self.renderer

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps beside the images: some of depth and normals."""
        return tuple(name for name in MAPS if getattr(self, name))

    def object_seed(self, object_id: str) -> int:
        """The seed (56 bits) of an object's random cameras and area lights."""
        digest = hashlib.sha256(f"{self.seed}/{object_id}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def cameras(self, object_id: str) -> Cameras:
        """Cameras (4 + 2 ring_views + random_views,), the same for an object wherever and whenever it is rendered."""
        generator = torch.Generator().manual_seed(self.object_seed(object_id))
        others = random_sphere(
            self.random_views, generator, elevation_deg=self.elevation_deg, radius=self.radius, fov_deg=self.fov_deg[0]
        )
        low, high = self.fov_deg
        fov = low + (high - low) * torch.rand(self.random_views, generator=generator)
        return Cameras.cat(
            [structured_cameras(), *self.rings(), Cameras(others.cam_to_world, intrinsics_from_fov(fov))]
        )

    def rings(self) -> list[Cameras]:
        """Cameras (ring_views,) at each height; glTF's front, +z, is our -y, in front of a camera at azimuth 270."""
        around = [270 + 360 * k / self.ring_views for k in range(self.ring_views)]
        return [orbit(around, height, self.radius[0], self.fov_deg[0]) for height in self.ring_deg] if around else []

    def described(self) -> dict[str, Any]:
        """The plan as plain numbers and words, as it stands in YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def read(path: str | Path) -> Plan:
    """The plan in a YAML file, or a shipped one such as `small`; what the file does not name keeps its default."""
    path = shipped.find(path, ["render"])
    content = load_yaml(path) or {}
    known = get_type_hints(Plan)
    if not isinstance(content, dict) or not set(content) <= {*known, "geometry"}:
        raise ValueError(f"{path} must name some of {', '.join(known)}; it holds {content}")
    try:
        if "geometry" in content:  # how older plans name both maps at once
            content = dict.fromkeys(MAPS, _converted("geometry", content.pop("geometry"), bool)) | content
        return Plan(**{name: _converted(name, value, known[name]) for name, value in content.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _converted(name: str, value: Any, kind: Any) -> Any:
    if kind == Range and isinstance(value, int | float) and not isinstance(value, bool):
        value = [value, value]
    if kind == Range and isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        return tuple(float(part) for part in value)
    if type(value) is not kind:
        expected = "a number or [low, high]" if kind == Range else f"of type {kind.__name__}"
        raise ValueError(f"{name} should be {expected}, got {value!r}")
    return value


def write(plan: Plan, path: Path) -> None:
    """Write a plan as YAML with every number named."""
    atomic.write_text(path, yaml.safe_dump(plan.described(), sort_keys=False))
