"""Files of tensors and of settings that others wrote: opened without running what is in them, or refused.

Libraries' own words are not passed on: on a broken file PyTorch advises to load it in a way that runs what is in it.
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

HEAD = 512  # bytes that tell what a file is
MAX_SETTINGS = 2**24  # bytes of settings that are read


def describe_non_tensor_file(path: Path) -> str | None:
    """What a file without tensors is, and what to do about it; None if it may hold tensors."""
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
    """All tensors of a .safetensors file by name.

    Raises:
        ValueError: It is not a whole one.
    """
    with open_safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def open_safetensors(path: Path, remedy: str = "copy it again") -> Any:
    """A .safetensors file as the library opens it; `remedy` ends the complaint about one that is not whole.

    Raises:
        ValueError: It is not a whole one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, *LIBRARY_ERRORS) as error:
        _refuse(path)
        raise ValueError(f"{path} is not a whole safetensors file ({first_line(error)}); {remedy}") from None


def load_weights_only(path: Path, map_location: Any = "cpu") -> Any:
    """The content of a PyTorch checkpoint that holds tensors, numbers and words alone; nothing in it is run.

    Raises:
        ValueError: It is not a whole one, or asks for more.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except LIBRARY_ERRORS as error:
        _refuse(path)
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted or (isinstance(error, pickle.UnpicklingError) and _is_pickle(path)):
            name = f" ({wanted[1]})" if wanted else ""
            raise ValueError(
                f"{path} holds more than tensors and numbers{name} and is not opened, for that may run a stranger's "
                "program; give a safetensors file"
            ) from None
        raise ValueError(f"{path} is not a whole checkpoint of PyTorch; copy or download it again") from None


def to_float32(name: str, value: Tensor) -> Tensor:
    """A tensor of any kind of number, such as float8, as float32.

    Raises:
        ValueError: Its kind of number cannot be computed with.
    """
    try:
        return value.to(torch.float32)
    except (RuntimeError, TypeError):
        raise ValueError(f"{name} is stored as {value.dtype}, which cannot be read; convert it to float16") from None


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: It is none, or is too long or nested too deeply.
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


def _refuse(path: Path, wanted: str = "weights", *, json_too: bool = True) -> None:
    """Raise what a file is, if it is no file of tensors at all."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    found = describe_non_tensor_file(path)
    if found is not None and (json_too or "JSON" not in found):
        raise ValueError(f"{path} {found.replace('weights', wanted)}")


def _is_pickle(path: Path) -> bool:
    """By how pickles begin since protocol 2; a broken archive (PK) is none."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"
