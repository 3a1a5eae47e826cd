"""Options of the mesh of an asset: number of faces, colours, origin."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Origin = Literal["ground", "centre", "world"]
ORIGINS: tuple[Origin, ...] = ("ground", "centre", "world")
FORMATS = ("glb", "obj", "ply", "stl", "3mf", "usdz")  # that meshes are written in
FEWEST, MAX_FACES = 4, 5_000_000  # triangles: of a closed surface, and of any mesh
TEXTURE_SIDES = (16, 8192)  # pixels
SIZE_MM = 100.0  # default length of the largest side in formats with a unit of length


@dataclass(frozen=True)
class MeshOptions:
    """Options of the mesh of an asset.

    Attributes:
        faces: Most triangles; None for the full surface.
        texture: Side of the base colour texture in pixels; None for vertex colours.
        origin: "ground": the lowest point at height 0, the bounding box's centre above the origin; "centre": the
            bounding box's centre at the origin; "world": as the cameras see it.
        printable: One closed 2-manifold, its largest part alone.
        blend_views: Blend the images that the asset was made of into its colours.

    Raises:
        ValueError: A number is out of its range, or the origin is none of these.
    """

    faces: int | None = 20_000
    texture: int | None = 1024
    origin: Origin = "ground"
    printable: bool = False
    blend_views: bool = True

    def __post_init__(self) -> None:
        low, high = TEXTURE_SIDES
        if self.faces is not None and not FEWEST <= self.faces <= MAX_FACES:
            raise ValueError(f"a mesh has between {FEWEST} and {MAX_FACES} faces, got {self.faces}; or say full")
        if self.texture is not None and not low <= self.texture <= high:
            raise ValueError(f"a texture has between {low} and {high} pixels a side, got {self.texture}; or say none")
        if self.origin not in ORIGINS:
            raise ValueError(f"the origin of a mesh is one of {', '.join(ORIGINS)}, got {self.origin!r}")

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return dataclasses.asdict(self)


DEFAULT = MeshOptions()
PRESETS = {
    "game": MeshOptions(faces=10_000),
    "print": MeshOptions(faces=50_000, printable=True),
    "web": MeshOptions(faces=6_000, texture=512),
}
