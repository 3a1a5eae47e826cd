"""What the colours of a mesh are worth: `python -m benchmarks.textures SCENES -o OUT`.

Each scene is reconstructed from its first four frames. Unlit renders of its mesh are compared with the other frames,
for four ways to colour it: a texture of the field alone, a texture with the input views blended in, and vertex colours
on the full surface, of the field alone and with the views. Writes metrics.json and table.md; an interrupted run
resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

from benchmarks.mesh_comparison import compare_ways, parser
from instant3d.mesh import Mesh, clean
from instant3d.mesh.simplification import simplify
from instant3d.mesh.unwrap import unwrap
from instant3d.nerf.asset import Asset
from instant3d.nerf.texture_baking import add_normals, bake_texture, color_vertices
from instant3d.utils.mesh_options import DEFAULT


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the scenes one by one and write the means."""
    options = parser("textures", __doc__)
    options.add_argument("--texture", type=int, default=DEFAULT.texture, help="pixels a side (default %(default)s)")
    compare_ways(meshes, options.parse_args(arguments))


def meshes(asset: Asset, options: argparse.Namespace) -> Iterator[tuple[str, Mesh]]:
    """The meshes that are compared; both textured ones have the same triangles and texture coordinates."""
    light = add_normals(asset.field, simplify(clean(asset.surface), options.faces))
    light = unwrap(light, options.texture).mesh
    yield "texture, field alone", bake_texture(asset.field, light, options.texture)
    yield "texture, views blended", bake_texture(asset.field, light, options.texture, asset.views)
    yield "vertex colours, full surface", dataclasses.replace(asset.mesh(), normals=None)
    full = add_normals(asset.field, clean(asset.surface))
    yield "vertex colours, full surface, views blended", color_vertices(asset.field, full, asset.views)


if __name__ == "__main__":
    main()
