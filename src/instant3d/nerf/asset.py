"""Reconstructed asset: a triplane with its decoder, which can be rendered, meshed, saved and loaded.

`triplane.safetensors` holds the planes and the decoder that reads them, so that it can be rendered anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.mesh import FORMATS, SIZE_MM, Mesh
from instant3d.nerf import mesh_extraction, occupancy_render
from instant3d.nerf.baked_field import bake
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.triplane import Decoder, Triplane, TriplaneField
from instant3d.utils import atomic, tensor_files
from instant3d.views import Views

FILE = "triplane.safetensors"
FORMAT = "instant3d-triplane-1"


class Asset:
    """One object: planes (3, C, P, P) with their decoder.

    resolution   nodes along each axis of the grid on which `mesh` is extracted
    max_memory   bytes that rendering and meshing may take for themselves
    exact        render in float32 and at half the step, to compare; else where the eye sees no difference
    """

    def __init__(
        self,
        triplane: Triplane,
        decoder: Decoder,
        *,
        resolution: int = 256,
        max_memory: int = 2**30,
        exact: bool = False,
    ) -> None:
        if triplane.planes.dim() != 4:
            raise ValueError(f"an asset is one object, planes (3, C, P, P), got {tuple(triplane.planes.shape)}")
        self.triplane, self.decoder = triplane, decoder
        self.resolution, self.max_memory, self.exact = resolution, max_memory, exact

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
    def mesh(self) -> Mesh:
        """The surface with vertex colours, in world axes."""
        return mesh_extraction.extract_mesh(self.field, self.resolution, max_memory=self.max_memory)

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

    def save(self, folder: str | Path, formats: Sequence[str] = ("glb",), *, size_mm: float = SIZE_MM) -> None:
        """Write `mesh.FORMAT` for each format and the triplane into `folder`, all of it or nothing.

        size_mm  length of the largest side in an .stl or .3mf, in millimetres
        """
        with atomic.merged(folder) as partial:
            self.write_files(partial, formats, size_mm=size_mm)

    def write_files(self, folder: Path, formats: Sequence[str], *, size_mm: float = SIZE_MM) -> None:
        """As `save`, into a folder that the caller makes appear as a whole."""
        for name in check_formats(formats):
            self.mesh.save(folder / f"mesh.{name}", size_mm=size_mm)
        write_triplane(self.triplane, self.decoder, folder / FILE)

    @classmethod
    def load(cls, source: str | Path, device: str | torch.device = "cpu") -> Asset:
        """Read what `save` wrote: the folder, or the triplane's file."""
        path = Path(source)
        path = path / FILE if path.is_dir() else path
        triplane, decoder = read_triplane(path)
        return cls(triplane.to(device), decoder.to(device))


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return the mesh formats without repetition.

    Raises:
        ValueError: A format cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"a mesh cannot be written as {name!r}; choose among {', '.join(FORMATS)}")
    return list(dict.fromkeys(formats))


def write_triplane(triplane: Triplane, decoder: Decoder, path: Path) -> None:
    """Write planes and decoder in half precision."""
    from safetensors.torch import save

    tensors = {"planes": triplane.planes, **{f"decoder.{key}": value for key, value in decoder.state_dict().items()}}
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in tensors.items()}
    # not by `save_file`, which makes a file that only its owner can read
    path.write_bytes(save(half, metadata={"format": FORMAT, "decoder": json.dumps(decoder_settings(decoder))}))


def read_triplane(path: Path) -> tuple[Triplane, Decoder]:
    """Read planes and decoder written by `write_triplane`, as float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or of another version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `instant3d reconstruct` writes it")
    with tensor_files.open_safetensors(path) as file:
        settings = _settings(file.metadata() or {}, path)
        tensors = {key: tensor_files.to_float32(key, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    return _triplane(tensors, settings, path)


def decoder_settings(decoder: Decoder) -> dict[str, Any]:
    """Return the arguments that rebuild a decoder; rarely changed ones only where they differ from their default."""
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
        # the numbers must match the stored tensors before anything is built with them
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
        raise ValueError(
            f"{path} holds other tensors than its metadata describes; reconstruct the object again"
        ) from error
    if planes.dim() != 4 or planes.shape[1] != decoder.channels:
        raise ValueError(f"{path} holds planes of shape {tuple(planes.shape)}, not (3, {decoder.channels}, P, P)")
    return Triplane(planes), decoder.eval().requires_grad_(False)
