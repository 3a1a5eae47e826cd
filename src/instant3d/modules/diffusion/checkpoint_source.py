"""Finding the files of a diffusion model in a folder or on the Hub, and checking that they are complete.

Weights are read from safetensors files alone, which cannot run code. A weights file without a variant mark holds
full precision, one marked fp16 half precision.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from instant3d.utils import bundled
from instant3d.utils.hub import snapshot
from instant3d.utils.tensor_files import load_json_object, open_safetensors

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
# SDXL's own VAE overflows in float16; this one does not and gives nearly the same images
SAFE_VAE = "madebyollin/sdxl-vae-fp16-fix"
ALL = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
MARKED = ["*.fp16*"]  # files in half precision
SDXL_KIND = "StableDiffusionXL"  # how the names of its pipelines begin


def folders(source: str | Path, parts: Collection[str], dtype: torch.dtype, kind: str = SDXL_KIND) -> dict[str, Path]:
    """Folder of each component, in a folder in diffusers' layout or on the Hub, from which it is downloaded once.

    Args:
        source: Folder or Hub id.
        parts: Names of the components.
        dtype: Wanted precision of the networks.
        kind: What the name of the model's pipeline must begin with, if the model has a model_index.json.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a Hub id, or the Hub cannot be reached.
        ValueError: It is another kind of model.
    """
    root = bundled.look_up(source) or download(_hub_id(source), parts, dtype)
    _check_kind(root, kind)
    folder_of = {name: root / name for name in parts}
    if "vae" in folder_of and str(source) == SDXL and dtype == torch.float16:
        folder_of["vae"] = snapshot(SAFE_VAE, ["config.json", "diffusion_pytorch_model.safetensors"])
    return folder_of


def download(hub_id: str, parts: Collection[str], dtype: torch.dtype) -> Path:
    """Download components from the Hub, or find them in its cache.

    Args:
        hub_id: `owner/name`.
        parts: Names of the components.
        dtype: Wanted precision of the networks; a network that is not stored so is downloaded in the other one.

    Returns:
        The local folder of the model.

    Raises:
        FileNotFoundError: There is no such repository, or the Hub cannot be reached and the files are not cached.
    """
    settings = [
        "model_index.json",
        "views.json",
        "sampling.json",
        *(f"{name}/{kind}" for name in parts for kind in ("*.json", "*.txt")),
    ]
    networks = [name for name in NETWORKS if name in parts]
    half, full = ([f"{name}/{kind}" for name in networks] for kind in ("*.fp16*safetensors", "*model*.safetensors"))
    first, second = (half, full) if is_half(dtype) else (full, half)
    root = snapshot(hub_id, settings + first, MARKED if first is full else ())
    lacking = [pattern for name, pattern in zip(networks, second, strict=True) if not _weights(root / name, dtype)]
    return snapshot(hub_id, lacking, MARKED if second is full else ()) if lacking else root


def is_half(dtype: torch.dtype) -> bool:
    """Whether `dtype` has 16 bits."""
    return dtype in (torch.float16, torch.bfloat16)


def variant(folder: Path, dtype: torch.dtype) -> str | None:
    """Variant mark in the names of a component's weights, "fp16" or None, after checking that its files are complete.

    Raises:
        FileNotFoundError: The folder or its weights do not exist.
        ValueError: There are only weights in a format that can run code, or a file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist; a model in diffusers' layout has that folder: copy or download it again"
        )
    found = _weights(folder, dtype)
    if found is None:
        unsafe = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        if unsafe:
            raise ValueError(
                f"{folder} has weights only in {unsafe[0]}, a kind of file that can run code and is never opened; "
                "convert it to safetensors"
            )
        raise FileNotFoundError(f"{folder} has no weights (*.safetensors); its download stopped early, so resume it")
    mark, index = found
    for path in [index] if index.suffix == ".safetensors" else _shards(index):
        check_whole(path)
    return mark


def _weights(folder: Path, dtype: torch.dtype) -> tuple[str | None, Path] | None:
    """Variant mark and path of a component's weights file, or of the index of several; the wanted precision first."""
    for mark in ("fp16", None) if is_half(dtype) else (None, "fp16"):
        dotted = f".{mark}" if mark else ""
        for stem in ("model", "diffusion_pytorch_model"):
            for name in (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"):
                if (folder / name).is_file():
                    return mark, folder / name
    return None


def _shards(index: Path) -> Iterator[Path]:
    weight_map = read_json(index).get("weight_map", {})
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} names no files; copy or download it again")
    for name in sorted(set(weight_map.values())):
        yield index.parent / Path(name).name


def check_whole(path: Path) -> list[str]:
    """Check that a safetensors file has the length that its header declares.

    Returns:
        The names of its tensors.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is cut short or no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the download stopped early, so resume it")
    with open_safetensors(path, "copy or download it again") as file:
        return list(file.keys())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is no JSON, or holds something else than an object.
    """
    return load_json_object(path, f"is {path.parent} part of a model in diffusers' layout?")


def config_of(source: str | Path, part: str) -> dict[str, Any]:
    """Read the config.json of one network of a folder in diffusers' layout or of a Hub id."""
    return read_json(local_folder(source, [f"{part}/config.json"]) / part / "config.json")


def local_folder(source: str | Path, patterns: Sequence[str]) -> Path:
    """A folder itself, or one with some files of a Hub repository.

    Args:
        source: Folder or Hub id.
        patterns: Of the files to download from the Hub.

    Raises:
        FileNotFoundError: `source` is neither, or the Hub cannot be reached and the files are not cached.
    """
    return bundled.look_up(source) or snapshot(_hub_id(source), patterns)


def settings_of(file: Path) -> Path:
    """Folder with the settings and tokenizers of a single-file SDXL, which holds neither.

    The file's own folder if that has a model_index.json, else the Hub's SDXL without its weights (4 MB, cached).

    Raises:
        FileNotFoundError: There are no settings beside the file and the Hub cannot be reached.
        ValueError: The file is no .safetensors file.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is not a .safetensors file; other kinds can run code and are never opened")
    if (file.parent / "model_index.json").is_file():
        _check_kind(file.parent)
        return file.parent
    try:
        return snapshot(SDXL, ["model_index.json", "*/*.json", "*/*.txt"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{file.name} holds weights alone, and its settings cannot be downloaded ({error}); or lay the .json and "
            f".txt files of {SDXL} beside it"
        ) from None


def _check_kind(root: Path, wanted: str = SDXL_KIND) -> None:
    """Refuse a folder whose model_index.json names another kind of model; a folder of some components may have none."""
    if not (root / "model_index.json").is_file():
        if any((root / name).is_dir() for name in (*NETWORKS, "scheduler")):
            return
        raise FileNotFoundError(f"{root} has no model_index.json; is it a model in diffusers' layout?")
    kind = str(read_json(root / "model_index.json").get("_class_name"))
    if not kind.startswith(wanted):
        name = "an SDXL" if wanted == SDXL_KIND else "a Stable Diffusion"
        raise ValueError(f"{root} holds a {kind}, not {name} ({wanted}Pipeline); give another model")


def _hub_id(source: str | Path) -> str:
    name = str(source)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) or name.startswith("checkpoints/"):
        raise FileNotFoundError(
            f"{name} is neither a folder in diffusers' layout, nor a .safetensors file, nor a Hub id such as {SDXL}"
        )
    return name
