"""What a reconstruction is to its user: a triplane to render, mesh, save and load. Knows nothing of how it came about.

`triplane.safetensors` holds the planes and the decoder that reads them, so that it can be rendered anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.mesh import FORMATS, SIZE_MM, Mesh, moved_to
from instant3d.mesh.options import MeshOptions, Origin
from instant3d.nerf import mesh_extraction, occupancy_render
from instant3d.nerf.baked_field import bake
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.textured_mesh import MeshResult, build_mesh
from instant3d.nerf.triplane import Decoder, Triplane, TriplaneField
from instant3d.utils import atomic, tensor_files
from instant3d.utils.progress import Stopwatch
from instant3d.views import Views

FILE, VIEWS = "triplane.safetensors", "views"
FORMAT = "instant3d-triplane-1"


class Asset:
    """One object: planes (3, C, P, P) with their decoder.

    resolution   nodes along each axis of the grid on which the surface is extracted
    max_memory   bytes that rendering and meshing may take for themselves
    exact        render in float32 and at half the step, to compare; else where the eye sees no difference
    views        posed images (V,) that it was made of, which sharpen the colours of its meshes
    name         what its meshes are called in files
    """

    def __init__(
        self,
        triplane: Triplane,
        decoder: Decoder,
        *,
        resolution: int = 256,
        max_memory: int = 2**30,
        exact: bool = False,
        views: Views | None = None,
        name: str = "",
    ) -> None:
        if triplane.planes.dim() != 4:
            raise ValueError(f"an asset is one object, planes (3, C, P, P), got {tuple(triplane.planes.shape)}")
        self.triplane, self.decoder = triplane, decoder
        self.resolution, self.max_memory, self.exact = resolution, max_memory, exact
        self.views, self.name = views, name

    @cached_property
    def field(self) -> TriplaneField:
        with torch.no_grad():
            return TriplaneField(self.triplane, self.decoder)

    @cached_property
    def occupancy(self) -> Occupancy:
        """Where there is anything at all, so that rays leap over the rest."""
        return Occupancy.from_field(bake(self.field))

    @cached_property
    def surface(self) -> Mesh:
        """The surface at full resolution, without colours, in world axes."""
        surface = mesh_extraction.extract_surface(self.field, self.resolution, max_memory=self.max_memory)
        return replace(surface, name=self.name)

    def mesh(self, faces: int | None = None, *, origin: Origin = "world") -> Mesh:
        """The surface with vertex colours.

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
        """A light mesh with normals, texture coordinates and a base colour texture.

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
        self, options: MeshOptions, views: Views | None = None, watch: Stopwatch | None = None
    ) -> MeshResult:
        """A mesh by options; see `textured_mesh.build_mesh`. `watch` gets the seconds of each part, surface first."""
        watch = watch or Stopwatch()
        with watch("surface"):
            surface = self.surface
        return build_mesh(self.field, surface, options, self.views if views is None else views, watch)

    def render(self, cameras: Cameras, size: int, *, with_normals: bool = False, step: float | None = None) -> Views:
        """Pictures `size` x `size` with alpha, depth and, if asked, normals, by cameras (V,).

        step  world length that one sample on a ray stands for, 1/64 by default and 1/128 if exact
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
        options: MeshOptions = MeshOptions(),
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


def check_formats(formats: Sequence[str]) -> list[str]:
    """The mesh formats without repetition; each must be one that can be written."""
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"a mesh cannot be written as {name!r}; choose among {', '.join(FORMATS)}")
    return list(dict.fromkeys(formats))


def write_triplane(triplane: Triplane, decoder: Decoder, path: Path) -> None:
    """Planes and decoder in half precision."""
    from safetensors.torch import save

    tensors = {"planes": triplane.planes, **{f"decoder.{key}": value for key, value in decoder.state_dict().items()}}
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in tensors.items()}
    # not by `save_file`, which makes a file that only its owner may read
    path.write_bytes(save(half, metadata={"format": FORMAT, "decoder": json.dumps(decoder_settings(decoder))}))


def read_triplane(path: Path) -> tuple[Triplane, Decoder]:
    """The inverse of `write_triplane`, in float32."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `instant3d reconstruct` writes it")
    with tensor_files.open_safetensors(path) as file:
        settings = _settings(file.metadata() or {}, path)
        tensors = {key: tensor_files.to_float32(key, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    return _triplane(tensors, settings, path)


def decoder_settings(decoder: Decoder) -> dict[str, Any]:
    """The arguments that build a decoder of the same shape and activations, the rarer ones where they are in use."""
    rare = {"aggregate": "concat", "blob": 0.0, "blob_radius": 1.0, "rgb": "sigmoid"}
    return {
        "channels": decoder.channels,
        "width": decoder.first.out_features,
        "layers": len(decoder.hidden) + 2,
        "activation": decoder.activation.__name__,
        "density": decoder.density_activation.__name__,
        "density_bias": decoder.density_bias,
        "rgb_margin": decoder.rgb_margin,
        **{name: getattr(decoder, name) for name, usual in rare.items() if getattr(decoder, name) != usual},
    }


def _settings(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a triplane of this version ({FORMAT}); reconstruct the object again")
    try:
        settings = json.loads(metadata.get("decoder", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has damaged metadata ({error}); reconstruct the object again") from error
    return settings


def _triplane(tensors: dict[str, Tensor], settings: dict[str, Any], path: Path) -> tuple[Triplane, Decoder]:
    try:
        # before anything is built by these numbers, they must be those of the tensors that are there
        first = tensors["decoder.first.weight"].shape
        width, channels, layers = (settings[key] for key in ("width", "channels", "layers"))
        samples = 1 if settings.get("aggregate") == "mean" else 3
        alphas = 1 if settings.get("rgb") == "scaled" else 0
        if first != (width, samples * channels) or len(tensors) != 2 * layers + alphas + 1:
            raise KeyError("decoder")
        decoder = Decoder(**settings)
        planes = tensors.pop("planes")
        decoder.load_state_dict({key.removeprefix("decoder."): value for key, value in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} holds other tensors than its metadata tells; reconstruct the object again") from error
    if planes.dim() != 4 or planes.shape[1] != decoder.channels:
        raise ValueError(f"{path} holds planes of shape {tuple(planes.shape)}, not (3, {decoder.channels}, P, P)")
    return Triplane(planes), decoder.eval().requires_grad_(False)
