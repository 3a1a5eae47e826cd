"""Download and conversion of released checkpoints in one go: the work of `instant3d fetch`.

The Hub's client resumes an interrupted download. `download.json` is written last, with the hashes of the downloaded and
of the converted files; a folder that has it is complete and is left as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from instant3d.pipelines import convert
from instant3d.pipelines.released_models import ReleasedModel
from instant3d.pipelines.results import sha256
from instant3d.utils import atomic, file_listing, tensor_files

RECORD = "download.json"
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pth", ".pt")


def fetch(model: ReleasedModel, folder: Path) -> str:
    """Download a checkpoint and write it as a folder in our format.

    Args:
        model: The checkpoint.
        folder: Where to write; other files there stay.

    Returns:
        A line about what was done.

    Raises:
        FileNotFoundError: It is not cached and the Hub cannot be reached.
        ValueError: It is another version than the one that can be converted, or the folder holds another model.
    """
    known = _read(folder)
    if known is not None:
        if known.get("name") != model.name:
            raise ValueError(f"{folder} holds {known.get('name')}, not {model.name}; name another folder")
        if _whole(folder, known):
            return f"{folder}: {model.name} is there already"
    origin = _convert(model, folder)
    record = {
        "name": model.name,
        "source": model.source,
        "downloaded": _hashes(origin),
        "converted": _hashes(folder),
    }
    atomic.write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return f"{folder}: {model.name} ({len(record['converted'])} files of weights), licence in {convert.LICENCE_FILE}"


def _convert(model: ReleasedModel, folder: Path) -> Path:
    """Download and convert; return the downloaded file or folder. Generators of views are stored in half precision."""
    if model.family in convert.VIEW_GENERATORS:
        conversion = convert.VIEW_GENERATORS[model.family](model.source)
        conversion.save(folder, model.source, torch.float16)
        return conversion.file
    return convert.convert(model.family, model.source, folder).file


def _hashes(place: Path) -> dict[str, str]:
    """SHA-256 of each file of weights in a folder, or of one file."""
    if place.is_file():
        return {place.name: sha256(place)}
    files = [file for file in file_listing.visible_files(place, "**/*") if file.suffix in WEIGHTS]
    return {file.relative_to(place).as_posix(): sha256(file) for file in files}


def _read(folder: Path) -> dict[str, Any] | None:
    file = folder / RECORD
    content = tensor_files.load_json(file) if file.is_file() else None
    return content if isinstance(content, dict) else None


def _whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the converted files are there with their hashes."""
    return bool(record.get("converted")) and _hashes(folder) == record["converted"]
