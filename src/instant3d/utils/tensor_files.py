"""Safe reading of untrusted tensor and settings files: nothing stored in them is executed.

Libraries' own messages are not passed on: for a broken file PyTorch advises a way of loading that executes its content.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.utils.errors import LIBRARY_ERRORS, first_line

HEAD = 512  # bytes from which the kind of a file is recognised
MAX_SETTINGS = 2**24  # bytes of settings that are read


def describe_non_tensor_file(path: Path) -> str | None:
    """Describe a file that cannot hold tensors and what to do about it; None if it may hold tensors."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer of {path.stat().st_size} bytes, not the file itself; fetch it by `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")):
        return "is a web page, not weights; the download failed, so repeat it"
    if start.startswith((b"{", b"[")):
        return "is a JSON text, not weights; give the file of weights"
    if not start:
        return "is empty; download or copy it again"
    return None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a .safetensors file by name.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    with open_safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def open_safetensors(path: Path, remedy: str = "copy it again") -> Any:
    """Open a .safetensors file lazily, as `safetensors.safe_open` does.

    Args:
        path: The file.
        remedy: Advice at the end of the error about a damaged file.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, *LIBRARY_ERRORS) as error:
        _refuse(path)
        raise ValueError(f"{path} is not a whole safetensors file ({first_line(error)}); {remedy}") from None


def load_weights_only(path: Path, map_location: Any = "cpu") -> Any:
    """Load a PyTorch checkpoint that holds only tensors, numbers and text; nothing in it is executed.

    Args:
        path: The file.
        map_location: As in `torch.load`.

    Raises:
        ValueError: The file is damaged, or holds other objects.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except LIBRARY_ERRORS as error:
        _refuse(path)
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted or (isinstance(error, pickle.UnpicklingError) and _is_pickle(path)):
            name = f" ({wanted[1]})" if wanted else ""
            raise ValueError(
                f"{path} holds more than tensors and numbers{name} and is not opened, because that could execute "
                "code from the file; give a safetensors file"
            ) from None
        raise ValueError(f"{path} is not a whole checkpoint of PyTorch; copy or download it again") from None


def to_float32(name: str, value: Tensor) -> Tensor:
    """Convert a tensor of any number format, such as float8, to float32.

    Args:
        name: Name of the tensor for the error message.
        value: The tensor.

    Raises:
        ValueError: The format cannot be converted.
    """
    try:
        return value.to(torch.float32)
    except (RuntimeError, TypeError):
        raise ValueError(f"{name} is stored as {value.dtype}, which cannot be read; convert it to float16") from None


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is not valid JSON, too large, or nested too deeply.
    """
    if path.stat().st_size > MAX_SETTINGS:
        raise ValueError(f"{path} is {path.stat().st_size} bytes long; at most {MAX_SETTINGS} of settings are read")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for settings; copy or download it again") from None
    except ValueError as error:
        _refuse(path, "settings", json_too=False)
        raise ValueError(f"{path} is not valid JSON ({first_line(error)}); copy or download it again") from None


def load_json_object(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        hint: What the user may check if there is no such file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is no JSON, or holds something else than an object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {hint}")
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object but a {type(content).__name__}; copy or download it again")
    return content


def _refuse(path: Path, wanted: str = "weights", *, json_too: bool = True) -> None:
    """Raise a description of the file if it is not a tensor file at all."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; check its path")
    found = describe_non_tensor_file(path)
    if found is not None and (json_too or "JSON" not in found):
        raise ValueError(f"{path} {found.replace('weights', wanted)}")


def _is_pickle(path: Path) -> bool:
    """Whether the file begins like a pickle of protocol 2 or later; a broken archive (PK) does not."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"
