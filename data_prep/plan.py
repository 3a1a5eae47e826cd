"""What to render of every object: which cameras, how large, under what light. Knows nothing of who renders it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import torch
import yaml

from instant3d.cameras import Cameras, from_fov, random_sphere, structured

Range = tuple[float, float]
LIGHTINGS = ("flat", "soft")


@dataclass(frozen=True)
class Plan:
    """The four structured views of every object, then `random_views` others. A YAML file of the same names."""

    size: int = 128  # pixels a side
    random_views: int = 20
    elevation_deg: Range = (-30.0, 75.0)
    radius: Range = (2.4, 3.0)  # from 2.37 on a 50 degree camera sees the whole unit sphere
    fov_deg: Range = (50.0, 50.0)
    lighting: str = "flat"
    supersample: int = 3
    geometry: bool = True  # depth and normal maps beside the pictures
    seed: int = 0  # another one gives other random cameras

    def __post_init__(self) -> None:
        if not (1 <= self.size <= 4096 and 0 <= self.random_views <= 1000 and 1 <= self.supersample <= 8):
            raise ValueError(
                "a plan needs size 1 to 4096, random_views 0 to 1000 and supersample 1 to 8, "
                f"got {self.size}, {self.random_views} and {self.supersample}"
            )
        limits = {"elevation_deg": (-90, 90), "radius": (1e-3, 1e3), "fov_deg": (1, 170)}
        for name, (lowest, highest) in limits.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"a plan's {name} is [low, high] within {lowest} and {highest}, got [{low}, {high}]")
        if self.lighting not in LIGHTINGS:
            raise ValueError(f"a plan's lighting is one of {', '.join(LIGHTINGS)}, got {self.lighting!r}")

    def cameras(self, object_id: str) -> Cameras:
        """Cameras (4 + random_views,), the same for the same object wherever and whenever it is rendered."""
        digest = hashlib.sha256(f"{self.seed}/{object_id}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        others = random_sphere(
            self.random_views, generator, elevation_deg=self.elevation_deg, radius=self.radius, fov_deg=self.fov_deg[0]
        )
        low, high = self.fov_deg
        fov = low + (high - low) * torch.rand(self.random_views, generator=generator)
        return Cameras.cat([structured(), Cameras(others.cam_to_world, from_fov(fov))])

    def described(self) -> dict[str, Any]:
        """The plan as plain numbers and words, as it stands in YAML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def read(path: str | Path) -> Plan:
    """The plan in a YAML file; what the file does not name keeps its default."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}; configs/render holds some")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML ({error})") from error
    known = get_type_hints(Plan)
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise ValueError(f"{path} must name some of {', '.join(known)}; it holds {content}")
    try:
        return Plan(**{name: _converted(name, value, known[name]) for name, value in content.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _converted(name: str, value: Any, kind: Any) -> Any:
    if kind == Range and isinstance(value, int | float) and not isinstance(value, bool):
        value = [value, value]
    if kind == Range and isinstance(value, list) and len(value) == 2:
        return tuple(float(part) for part in value)
    if type(value) is not kind:
        expected = "a number or [low, high]" if kind == Range else f"of type {kind.__name__}"
        raise ValueError(f"{name} should be {expected}, got {value!r}")
    return value


def write(plan: Plan, path: Path) -> None:
    """Write a plan as YAML with every number named."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(yaml.safe_dump(plan.described(), sort_keys=False))
    partial.replace(path)
