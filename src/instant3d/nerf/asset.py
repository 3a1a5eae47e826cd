"""Reconstructed asset: a triplane with its decoder, which can be rendered, meshed, saved and loaded.

`triplane.safetensors` holds the triplane and its decoder, so that it can be rendered anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.mesh import FORMATS, SIZE_MM, Mesh, moved_to
from instant3d.nerf import mesh_extraction, occupancy_render
from instant3d.nerf.baked_field import bake
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.textured_mesh import MeshResult, build_mesh
from instant3d.nerf.triplane import Decoder, Triplane, TriplaneField
from instant3d.nerf.triplane_file import read_triplane, write_triplane
from instant3d.utils import atomic
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.mesh_options import DEFAULT, MeshOptions, Origin
from instant3d.utils.progress import Stopwatch
from instant3d.views import Views

FILE, VIEWS = "triplane.safetensors", "views"


class Asset:
    """Asset of one object: planes (3, C, P, P) with their decoder.

    Args:
        triplane: The planes of one object.
        decoder: MLP from plane features to density and colour.
        resolution: Nodes along each axis of the grid on which the surface is extracted; see `mesh_resolution`.
        max_memory: Bytes that rendering and meshing may take for themselves.
        exact: Render in float32 and at half the step, to compare; otherwise with differences too small to see.
        views: Posed images (V,) of the object, which fit its meshes' silhouettes and sharpen their colours.
        name: Name of its meshes in files.

    Raises:
        ValueError: The triplane holds several objects.
    """

    def __init__(
        self,
        triplane: Triplane,
        decoder: Decoder,
        *,
        resolution: int | None = None,
        max_memory: int = MemoryLimits.scratch,
        exact: bool = False,
        views: Views | None = None,
        name: str = "",
    ) -> None:
        if triplane.planes.dim() != 4:
            raise ValueError(f"an asset is one object, planes (3, C, P, P), got {tuple(triplane.planes.shape)}")
        self.triplane, self.decoder = triplane, decoder
        self.resolution = resolution or mesh_resolution(triplane.planes.shape[-1])
        self.max_memory, self.exact = max_memory, exact
        self.views, self.name = views, name

    @cached_property
    def field(self) -> TriplaneField:
        """The radiance field of the triplane."""
        with torch.no_grad():
            return TriplaneField(self.triplane, self.decoder)

    @cached_property
    def occupancy(self) -> Occupancy:
        """Occupancy grid of the field, for empty-space skipping."""
        return Occupancy.from_field(bake(self.field))

    @cached_property
    def surface(self) -> Mesh:
        """The surface at full resolution, without colours, in world axes; its threshold is chosen with the views."""
        surface = mesh_extraction.extract_surface(
            self.field, self.resolution, views=self.views, max_memory=self.max_memory
        )
        return replace(surface, name=self.name)

    def mesh(self, faces: int | None = None, *, origin: Origin = "world") -> Mesh:
        """Return the surface with vertex colours.

        Args:
            faces: Most triangles; None for the full surface, coloured by the field alone.
            origin: See `MeshOptions`.
        """
        if faces is None:
            colors = mesh_extraction.color_at(self.field, self.surface.vertices, max_memory=self.max_memory)
            return moved_to(replace(self.surface, colors=colors), origin)
        return self.build_mesh(MeshOptions(faces, None, origin)).mesh

    def textured(
        self, faces: int | None = 20_000, texture: int = 1024, *, origin: Origin = "ground", views: Views | None = None
    ) -> Mesh:
        """Return a light mesh with normals, texture coordinates and a base colour texture.

        Args:
            faces: Most triangles; None for the full surface.
            texture: Side of the texture in pixels.
            origin: See `MeshOptions`.
            views: Posed images (V,) that are blended in where they show the surface; by default the asset's own.

        Raises:
            ValueError: A number is out of its range, or the field has no surface.
        """
        return self.build_mesh(MeshOptions(faces, texture, origin), views).mesh

    def build_mesh(
        self,
        options: MeshOptions,
        views: Views | None = None,
        watch: Stopwatch | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> MeshResult:
        """Make a mesh of the asset's surface.

        Args:
            options: How the mesh is made.
            views: Posed images (V,) that are blended into its colours; by default the asset's own.
            watch: Gets the seconds of each part; None: they are not recorded.
            meanwhile: See `textured_mesh.build_mesh`.

        Returns:
            The mesh, and how it was unwrapped.

        Raises:
            ValueError: The field has no surface, or see `textured_mesh.build_mesh`.
        """
        watch = watch or Stopwatch()
        with watch("surface"):
            surface = self.surface
        return build_mesh(self.field, surface, options, self.views if views is None else views, watch, meanwhile)

    def render(self, cameras: Cameras, size: int, *, with_normals: bool = False, step: float | None = None) -> Views:
        """Render images of the asset.

        Args:
            cameras: (V,).
            size: Width and height of the images in pixels.
            with_normals: Also render normals.
            step: World length that one sample on a ray stands for; by default 1/64, or 1/128 if `exact`.

        Returns:
            Views (V,) with alpha, depth and, if requested, normals.
        """
        return occupancy_render.render(
            self.field,
            cameras.to(self.triplane.planes.device),
            size,
            size,
            occupancy=self.occupancy,
            step=step or (occupancy_render.STEP / 2 if self.exact else occupancy_render.STEP),
            exact=self.exact,
            max_memory=self.max_memory,
            with_normals=with_normals,
        )

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = ("glb",),
        options: MeshOptions = DEFAULT,
        *,
        size_mm: float = SIZE_MM,
    ) -> None:
        """Write `mesh.FORMAT` for each format and the triplane into `folder`, all of it or nothing.

        Args:
            folder: Its other files stay.
            formats: Of the mesh, among `FORMATS`.
            options: How the mesh is made.
            size_mm: Length of the largest side in an .stl or .3mf, in millimetres.
        """
        formats = check_formats(formats)
        mesh = self.build_mesh(options).mesh
        with atomic.merged(folder) as partial:
            for name in formats:
                mesh.save(partial / f"mesh.{name}", size_mm=size_mm)
            write_triplane(self.triplane, self.decoder, partial / FILE)

    @classmethod
    def load(cls, source: str | Path, device: str | torch.device = "cpu") -> Asset:
        """Read what `save` wrote, the folder or the triplane's file, and the views that lie beside it, if any."""
        path = Path(source)
        path = path / FILE if path.is_dir() else path
        triplane, decoder = read_triplane(path)
        views = scenes.read(path.parent / VIEWS, maps=()).views if (path.parent / VIEWS).is_dir() else None
        return cls(triplane.to(device), decoder.to(device), views=views)


def mesh_resolution(plane_side: int) -> int:
    """Return the default nodes along each axis of a mesh's grid: two for each texel of the planes, at most 256."""
    return min(256, 2 * plane_side)


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return the mesh formats without repetition.

    Raises:
        ValueError: A format cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"a mesh cannot be written as {name!r}; choose among {', '.join(FORMATS)}")
    return list(dict.fromkeys(formats))
