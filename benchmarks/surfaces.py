"""What smoothing and repair of a surface are worth: `python -m benchmarks.surfaces SCENES -o OUT`.

Each scene is reconstructed from its first four frames. Its surface is changed in several ways, then simplified and
coloured as `generate` does it, and unlit renders are compared with the other frames: PSNR, SSIM, mask IoU, and the
normals' error where scenes have normal maps. Writes metrics.json and table.md; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from benchmarks.mesh_comparison import compare_ways, parser
from instant3d.mesh import Mesh, clean, fill_holes, smooth, smooth_within_edges
from instant3d.mesh.processing import pieces
from instant3d.mesh.simplification import simplify
from instant3d.nerf.asset import Asset
from instant3d.nerf.baked_field import bake, grid_density
from instant3d.nerf.field import Field
from instant3d.nerf.mesh_extraction import extract_surface
from instant3d.nerf.texture_baking import add_normals, color_vertices
from instant3d.views import Views

OUTSIDE = 0.5  # share of a piece's faces outside of a view's silhouette, from which on it floats


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the scenes one by one and write the means."""
    compare_ways(meshes, parser("surfaces", __doc__).parse_args(arguments))


def meshes(asset: Asset, options: argparse.Namespace) -> Iterator[tuple[str, Mesh]]:
    """The meshes that are compared, the one that `generate` makes first."""
    cleaned = clean(asset.surface)
    ways: dict[str, Callable[[], Mesh]] = {
        "as it is": lambda: cleaned,
        "smooth, 3 steps": lambda: smooth(cleaned, 3),
        "smooth, 10 steps": lambda: smooth(cleaned, 10),
        "smooth within edges, 3 steps": lambda: smooth_within_edges(cleaned, 3),
        "smooth within edges, 10 steps": lambda: smooth_within_edges(cleaned, 10),
        "holes filled": lambda: fill_holes(cleaned),
        "pieces that a view contradicts left out": lambda: without_floaters(cleaned, asset.views),
        "gaps of two nodes closed": lambda: closed_gaps(asset, 3),
        "gaps of four nodes closed": lambda: closed_gaps(asset, 5),
    }
    for name, way in ways.items():
        light = add_normals(asset.field, simplify(way(), options.faces))
        yield name, color_vertices(asset.field, light, asset.views)


def without_floaters(mesh: Mesh, views: Views | None) -> Mesh:
    """Leave out connected pieces half of whose faces lie outside of a view's silhouette; the largest one stays."""
    if views is None:
        return mesh
    piece = pieces(mesh)
    count = int(piece.max()) + 1
    points = torch.from_numpy(mesh.vertices[mesh.faces].mean(axis=1)).float()
    outside = np.zeros(count)
    for view in range(len(views.rgb)):
        place, depth = views.cameras[view].project(points)
        seen = F.grid_sample(views.alpha[view][None], (2 * place - 1)[None, None], align_corners=False)[0, 0, 0]
        missed = ((seen < 0.5) & (depth > 0)).double().numpy()
        outside = np.maximum(outside, np.bincount(piece, missed, count) / np.bincount(piece, minlength=count))
    keep = outside < OUTSIDE
    keep[np.bincount(piece).argmax()] = True
    return clean(Mesh(mesh.vertices, mesh.faces[keep[piece]]))


def closed_gaps(asset: Asset, size: int) -> Mesh:
    """The surface of a field whose density is closed (a maximum, then a minimum) over `size` nodes a side."""
    field = ClosedField(asset.field, asset.resolution, size)
    return clean(extract_surface(field, asset.resolution, views=asset.views))


@dataclass
class ClosedField:
    """A field with small gaps closed: its density is at least that of a closed grid of it.

    Args:
        field: The field.
        nodes: Of the grid along each axis.
        size: Of the closing, in nodes.
    """

    field: Field
    nodes: int
    size: int

    def __post_init__(self) -> None:
        grid = grid_density(bake(self.field), torch.linspace(-1, 1, self.nodes))
        self.grid = torch.from_numpy(ndimage.grey_closing(grid.numpy(), self.size))

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """Density (N) at world points (N, 3)."""
        places = points.flip(-1).view(1, -1, 1, 1, 3)  # the grid's last axis comes first there
        closed = F.grid_sample(self.grid[None, None], places, align_corners=True).view(-1)
        return torch.maximum(bake(self.field).density(points), closed)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density (N) and colour (N, 3) at world points (N, 3)."""
        return self.density(points), self.field(points)[1]


if __name__ == "__main__":
    main()
