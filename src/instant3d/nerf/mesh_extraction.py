"""Surface extraction from a field: adaptive marching cubes with refined vertices and vertex colours.

The surface is where density passes a threshold. Density is read on a coarse grid everywhere and on the fine grid only
around the surface, on a GPU everywhere; marching cubes connects the fine grid's crossings, each of which is then moved
to where the field itself passes the threshold; colour is read at the vertices alone.

The threshold, if not given, is Otsu's (1979): of all values, the one that best separates the opacities found in the
cube into two classes, empty and solid, where opacity is what a 32nd of a world unit of that density absorbs. So it lies
half-way between haze and matter, whatever the scale of the field's densities, at every resolution. With the views that
the field was made of, it is the multiple of that threshold whose silhouettes agree with theirs
(`instant3d.nerf.silhouette_threshold`). Where nothing is visible, or no place is less than half as opaque as the most
opaque, there is no surface, and the error says which.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from instant3d.mesh import Mesh
from instant3d.nerf.baked_field import bake, device_of, grid_density
from instant3d.nerf.field import Field
from instant3d.nerf.marching_cubes import marching_cubes
from instant3d.nerf.narrow_band import refine
from instant3d.nerf.silhouette_threshold import silhouette_threshold
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.views import Views

THICKNESS = 1 / 32  # of the slice, in world units, whose opacity the automatic threshold uses
INVISIBLE = 0.35  # a ray through the whole cube at this density lets half of the light through: -ln(1/2) / 2
COARSEST = 48  # the coarse grid has at least as many cells a side, if the fine one has, and less than twice as many
FACTORS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25)  # of the automatic threshold, among which views choose
HALVINGS = 3  # of the edge on which a vertex lies; leaves a tenth of an edge even where density is a step
BYTES_PER_NODE, BYTES_PER_GPU_NODE = 5, 32  # of the finest grid
OUTSIDE = -0.5  # height where density is 0
BYTES_PER_POINT = 2048  # eight 64-wide float32 activations


@dataclass(frozen=True)
class _Grid:
    """Nodes 1 to `resolution` span the cube along each axis; node 0 and those beyond lie outside, with density 0."""

    resolution: int

    @property
    def levels(self) -> int:
        """Number of times that the coarse grid's cells are halved."""
        return max(0, int(math.log2((self.resolution + 1) / COARSEST)))

    @property
    def stride(self) -> int:
        return 2**self.levels

    @property
    def cells(self) -> int:
        return -(-(self.resolution + 1) // self.stride) * self.stride

    def inside(self, nodes: np.ndarray) -> np.ndarray:
        """Whether each of the nodes (..., 3) is in the cube."""
        return np.all((nodes >= 1) & (nodes <= self.resolution), axis=-1)

    def world(self, nodes: np.ndarray) -> np.ndarray:
        """Return the world coordinates of nodes, integer or fractional, in float64."""
        return (nodes - 1) * (2 / (self.resolution - 1)) - 1


def extract_mesh(
    field: Field,
    resolution: int = 256,
    *,
    threshold: float | Literal["auto"] = "auto",
    max_memory: int = MemoryLimits.scratch,
) -> Mesh:
    """Extract the surface of one object's field, with vertex colours.

    Args:
        field: One object's density and colour.
        resolution: See `extract_surface`.
        threshold: See `extract_surface`.
        max_memory: Bytes that it may take; the result does not depend on it.

    Returns:
        The mesh of `extract_surface` with the field's colours (V, 3) in [0, 1] at its vertices.

    Raises:
        ValueError: See `extract_surface`.
    """
    surface = extract_surface(field, resolution, threshold=threshold, max_memory=max_memory)
    return dataclasses.replace(surface, colors=color_at(field, surface.vertices, max_memory=max_memory))


@torch.no_grad()
def extract_surface(
    field: Field,
    resolution: int = 256,
    *,
    threshold: float | Literal["auto"] = "auto",
    views: Views | None = None,
    max_memory: int = MemoryLimits.scratch,
) -> Mesh:
    """Extract the surface of one object's field.

    Args:
        field: One object's density and colour.
        resolution: Nodes along each edge of the cube [-1, 1]^3, the first and the last on its faces; what is still
            solid there is closed by the cube.
        threshold: Density at the surface, per world unit; "auto": chosen from the field, see the module.
        views: Posed images (V,) of the object, with which an automatic threshold is chosen.
        max_memory: Bytes that it may take; the result does not depend on it.

    Returns:
        A closed mesh in world axes, its faces outward, without colours.

    Raises:
        ValueError: The resolution is below 2 or its grid takes more than `max_memory`, the threshold is not above 0,
            the density is not finite, or the field is empty or full.
    """
    grid = _Grid(resolution)
    _check(grid, max_memory, BYTES_PER_GPU_NODE if _on_gpu(field) else BYTES_PER_NODE)
    quick, exact = bake(field), bake(field, exact=True)
    coarse = _coarse_density(quick, grid)
    level = _threshold(coarse[coarse >= 0], threshold)
    if views is not None and threshold == "auto":
        levels = [level * factor for factor in FACTORS if level * factor < coarse.max()]
        level = silhouette_threshold(quick, views, levels) or level

    def height(some: Field, nodes: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(grid.world(nodes)).float().to(device_of(field))
        density = torch.cat([some.density(part) for part in points.split(_at_once(max_memory))]).cpu().numpy()
        return _height(np.where(grid.inside(nodes), density, 0.0), level)

    if _on_gpu(field):
        values, crossings, faces = _on_the_whole_grid(quick, grid, level)
    else:
        values, cells = refine(_height(coarse.clip(min=0), level), grid.levels, lambda nodes: height(quick, nodes))
        crossings, faces = _marching_cubes(values, cells)
    vertices = grid.world(_corrected(crossings, values, grid, lambda nodes: height(exact, nodes))).clip(-1, 1)
    return Mesh(vertices, faces)


@torch.no_grad()
def color_at(field: Field, places: np.ndarray, *, max_memory: int = MemoryLimits.scratch) -> np.ndarray:
    """Return a field's colours at places.

    Args:
        field: One object's density and colour.
        places: World points (N, 3).
        max_memory: Bytes that it may take; the result does not depend on it.

    Returns:
        Colours (N, 3), float32 in [0, 1].
    """
    quick, points = bake(field), torch.from_numpy(places).float().to(device_of(field))
    colors = torch.cat([quick(part)[1] for part in points.split(_at_once(max_memory))])
    return colors.clamp(0, 1).cpu().numpy()


def _on_gpu(field: Field) -> bool:
    return device_of(field).type == "cuda"


def _at_once(max_memory: int) -> int:
    """Number of points to read together."""
    return max(1, min(2**18, max_memory // 8 // BYTES_PER_POINT))


def _check(grid: _Grid, max_memory: int, bytes_per_node: int) -> None:
    if grid.resolution < 2:
        raise ValueError(f"a mesh needs a resolution of at least 2 nodes a side, got {grid.resolution}")
    need = bytes_per_node * (grid.cells + 1) ** 3
    if need > max_memory:
        raise ValueError(
            f"a grid of {grid.resolution} nodes a side takes {need / 2**30:.1f} GiB, and "
            f"{max_memory / 2**30:.1f} GiB are allowed; lower the resolution or allow more memory"
        )


def _coarse_density(field: Field, grid: _Grid) -> np.ndarray:
    """Return densities at every `stride`-th node along each axis; -1 outside the cube."""
    nodes = np.arange(0, grid.cells + 1, grid.stride)
    inside = (nodes >= 1) & (nodes <= grid.resolution)
    density = np.full((len(nodes),) * 3, -1.0, np.float32)
    axis = torch.from_numpy(grid.world(nodes[inside])).float().to(device_of(field))
    density[np.ix_(inside, inside, inside)] = grid_density(field, axis).cpu().numpy()
    return density


def _threshold(density: np.ndarray, wanted: float | Literal["auto"]) -> float:
    """Return the surface density, given the densities (N) in the cube; some of them must be below and some above."""
    highest, lowest = float(density.max()), float(density.min())
    if not math.isfinite(highest):
        raise ValueError(
            "the field's density is not finite everywhere, so it has no surface; its weights may be damaged"
        )
    level = max(_otsu(density), INVISIBLE) if wanted == "auto" else float(wanted)
    if level <= 0:
        raise ValueError(f"a surface needs a threshold above 0, got {level}")
    if highest <= level:
        raise ValueError(
            f"the field is empty: nowhere in the cube is it denser than {highest:.3g} per world unit, and a "
            f"surface needs more than {level:.3g}"
        )
    if lowest > level:
        raise ValueError(
            f"the field is full: everywhere in the cube it is denser than {lowest:.3g} per world unit, above the "
            f"threshold of {level:.3g}, so it has no surface inside"
        )
    return level


def _otsu(density: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    opacity = -np.expm1(-density.astype(np.float64) * THICKNESS)
    if opacity.min() > opacity.max() / 2:
        return INVISIBLE  # there is only one class
    return -math.log1p(-min(float(threshold_otsu(opacity)), 1 - 1e-9)) / THICKNESS


def _height(density: np.ndarray, level: float) -> np.ndarray:
    """A bounded measure of density: 0 at the threshold (but never exactly, which would make triangles collapse)."""
    height = density / (density + level) - 0.5
    return np.where(height == 0, 1e-7, height).astype(np.float32)


def _on_the_whole_grid(field: Field, grid: _Grid, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heights at all nodes, crossings and triangles, computed where the field is: on a GPU as fast as a part."""
    axis = torch.from_numpy(grid.world(np.arange(1, grid.resolution + 1))).float().to(device_of(field))
    density = grid_density(field, axis)
    height = density / (density + level) - 0.5
    values = F.pad(torch.where(height == 0, 1e-7, height), (1,) * 6, value=OUTSIDE)
    crossings, faces = marching_cubes(values)
    return values.cpu().numpy(), crossings.cpu().numpy(), faces.cpu().numpy()


def _marching_cubes(values: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the surface's crossings of the edges of `cells`, in (fractional) nodes, and the triangles between them."""
    from skimage.measure import marching_cubes

    low, high = cells.min(0), cells.max(0) + 2
    part = values[tuple(map(slice, low, high))]
    mask = np.zeros(part.shape, bool)
    mask[tuple((cells - low + 1).T)] = True  # a cell is named by its highest corner there
    vertices, faces, _, _ = marching_cubes(part, 0.0, mask=mask, gradient_direction="ascent")
    return vertices + low.astype(np.float64), faces.astype(np.int64)


def _corrected(
    crossings: np.ndarray, values: np.ndarray, grid: _Grid, height: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Move crossings (V, 3) along their edges to where the field itself crosses: halvings, then a secant step.

    Unchanged: crossings at a node, those inside a cell (marching cubes adds some there), and those of edges that end
    outside the cube, where density is 0.
    """
    low = np.floor(crossings + 1e-4)
    along = np.abs(crossings - low) > 1e-4
    high = low + along
    ends = [values[tuple(end.astype(np.int64).T)].astype(np.float64) for end in (low, high)]
    free = np.flatnonzero((along.sum(1) == 1) & (ends[0] * ends[1] < 0) & grid.inside(low) & grid.inside(high))
    start, step = low[free], along[free].astype(np.float64)
    (a, at_a), (b, at_b) = (np.zeros(len(free)), ends[0][free]), (np.ones(len(free)), ends[1][free])
    for _ in range(HALVINGS):
        middle = (a + b) / 2
        found = height(start + middle[:, None] * step).astype(np.float64)
        beyond = found * at_a > 0
        a, at_a = np.where(beyond, middle, a), np.where(beyond, found, at_a)
        b, at_b = np.where(beyond, b, middle), np.where(beyond, at_b, found)
    moved = crossings.copy()
    moved[free] = start + (a + (b - a) * at_a / (at_a - at_b))[:, None] * step
    return moved
