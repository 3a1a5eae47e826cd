"""From a field's surface to a mesh that is light and coloured: clean, simplify, add normals, unwrap, bake."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from instant3d.mesh import Mesh, clean, geometry_report, moved_to, printable
from instant3d.mesh.simplification import simplify
from instant3d.mesh.unwrap import unwrap
from instant3d.nerf.field import Field
from instant3d.nerf.texture_baking import add_normals, bake_texture, color_vertices
from instant3d.utils.mesh_options import MeshOptions
from instant3d.utils.progress import Stopwatch
from instant3d.views import Views


@dataclass(frozen=True)
class MeshResult:
    """A finished mesh and how it was unwrapped.

    Attributes:
        mesh: With normals, and with a texture or vertex colours.
        unwrap: "xatlas" or "per face"; None without a texture.
        charts: Number of pieces in the texture; None without a texture.
    """

    mesh: Mesh
    unwrap: str | None = None
    charts: int | None = None

    def report(self) -> dict[str, Any]:
        """Return the shape (`GeometryReport`), the texture's side in pixels and the kind of unwrap, for a JSON file."""
        texture = None if self.mesh.texture is None else len(self.mesh.texture)
        return geometry_report(self.mesh).as_dict() | {
            "texture": texture,
            "unwrap": self.unwrap,
            "charts": self.charts,
        }


def build_mesh(
    field: Field,
    surface: Mesh,
    options: MeshOptions,
    views: Views | None = None,
    watch: Stopwatch | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> MeshResult:
    """Make the mesh of an object.

    Args:
        field: Its density and colour.
        surface: Its surface at full resolution, as `extract_surface` finds it.
        options: What is to be made of it.
        views: Posed images (V,) that are blended into its colours, if the options allow it.
        watch: Gets the seconds of each part: simplify, unwrap and texture.
        meanwhile: Called, for a mesh with a texture, while another process unwraps it; `unwrap` has the seconds after.

    Returns:
        The mesh, and how it was unwrapped.

    Raises:
        ValueError: The texture has no room for so many faces, or nothing of the surface encloses a volume, though a
            printable solid is wanted.
    """
    watch = watch or Stopwatch()
    views = views if options.blend_views else None
    with watch("simplify"):
        mesh = clean(surface)
        mesh = mesh if options.faces is None else simplify(mesh, options.faces)
        mesh = printable(mesh) if options.printable else mesh
        mesh = add_normals(field, mesh)
    if options.texture is None:
        with watch("texture"):
            return MeshResult(moved_to(color_vertices(field, mesh, views), options.origin))
    with ThreadPoolExecutor(1) as pool:
        unwrapping = pool.submit(unwrap, mesh, options.texture)
        if meanwhile is not None:
            meanwhile()
        with watch("unwrap"):
            unwrapped = unwrapping.result()
    with watch("texture"):
        mesh = bake_texture(field, unwrapped.mesh, options.texture, views)
    mesh = dataclasses.replace(mesh, wrap=("clamp", "clamp"))
    return MeshResult(moved_to(mesh, options.origin), unwrapped.method, unwrapped.charts)
