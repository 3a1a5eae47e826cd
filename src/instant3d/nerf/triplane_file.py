"""Files of triplanes: the planes and the decoder that reads them, and the maps of the input views if it reads those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane
from instant3d.nerf.view_maps import ViewMaps
from instant3d.utils import tensor_files

FORMAT = "instant3d-triplane-1"
MAPS, WEIGHT, MATRIX, INTRINSICS = (f"views.{name}" for name in ("maps", "weight", "cam_to_world", "intrinsics"))


def write_triplane(triplane: Triplane, decoder: Decoder, path: Path) -> None:
    """Write planes, decoder and the maps of the views, if the decoder reads those, to a .safetensors file.

    Half precision, but the cameras of the maps in float32.

    Args:
        triplane: The triplane of one object.
        decoder: The MLP that reads it; its settings are stored in the file's metadata.
        path: The file, in an existing folder.
    """
    from safetensors.torch import save

    tensors = {"planes": triplane.planes, **{f"decoder.{key}": value for key, value in decoder.state_dict().items()}}
    maps = triplane.view_maps
    if maps is not None:
        tensors |= {MAPS: maps.maps, WEIGHT: maps.weight}
    stored = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in tensors.items()}
    if maps is not None:  # half precision would move what the views show by pixels
        stored[MATRIX] = maps.cameras.cam_to_world.to("cpu", torch.float32).contiguous()
        stored[INTRINSICS] = maps.cameras.intrinsics.to("cpu", torch.float32).contiguous()
    # not by `save_file`, which makes a file that only its owner can read
    path.write_bytes(save(stored, metadata={"format": FORMAT, "decoder": json.dumps(decoder.config.as_dict())}))


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
        config = DecoderConfig(**settings)
        first = tensors["decoder.first.weight"].shape
        planes, maps = tensors.pop("planes"), _view_maps(tensors, config)
        if first != (config.width, config.inputs) or len(tensors) != config.tensors:
            raise KeyError("decoder")
        decoder = Decoder(config)
        decoder.load_state_dict({key.removeprefix("decoder."): value for key, value in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} holds other tensors than its metadata describes; reconstruct the object again"
        ) from error
    if planes.dim() != 4 or planes.shape[1] != config.channels:
        raise ValueError(f"{path} holds planes of shape {tuple(planes.shape)}, not (3, {config.channels}, P, P)")
    return Triplane(planes, maps), decoder.eval().requires_grad_(False)


def _view_maps(tensors: dict[str, Tensor], config: DecoderConfig) -> ViewMaps | None:
    """Take the maps of the views, if the decoder reads some, out of a file's tensors; ValueError if they do not fit."""
    if not config.view_channels:
        return None
    maps, weight, matrix, intrinsics = (tensors.pop(key) for key in (MAPS, WEIGHT, MATRIX, INTRINSICS))
    if maps.shape[1:2] != (config.view_channels,) or maps.dim() != 4 or not len(maps):
        raise ValueError(f"view maps of shape {tuple(maps.shape)}")
    return ViewMaps(maps, weight, Cameras(matrix, intrinsics))
