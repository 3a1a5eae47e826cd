"""The sampling settings that weights are meant for: `sampling.json` in their folder, with any fields of `Sampling`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instant3d.modules.diffusion.checkpoint_source import local_folder, read_json
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils.safetensors_folder import architecture_of, check_ranges

if TYPE_CHECKING:
    from instant3d.modules.diffusion.lora import Lora

FILE = "sampling.json"
RANGES = {"steps": (1, 1000), "guidance": (0, 100), "guidance_stop": (0, 1), "rescale": (0, 1), "sigma": (0.001, 10)}


def recommended_sampling(stage1: str | Path, loras: Sequence[Lora] = (), **given: Any) -> Sampling:
    """Return the settings of a stage 1's folder; the defaults of `Sampling` if it states none.

    Args:
        stage1: Folder in diffusers' layout, Hub id, or a single file, which states none.
        loras: LoRA weights that are fused into it. The settings of the last one whose folder states some take the place
            of stage 1's altogether.
        **given: Fields of `Sampling` that take the place of the folder's; None leaves the folder's.

    Raises:
        ValueError: The folder's settings are invalid.
        FileNotFoundError: There is no such stage 1, or the Hub cannot be reached.
    """
    alone = Path(stage1).is_file()
    path = Path(stage1) if alone else local_folder(stage1, [FILE]) / FILE
    for folder in [lora.folder for lora in loras]:
        if folder is not None and (folder / FILE).is_file():
            path, alone = folder / FILE, False
    sampling = Sampling() if alone or not path.is_file() else _read(path)
    return replace(sampling, **{name: value for name, value in given.items() if value is not None})


def _read(path: Path) -> Sampling:
    sampling = architecture_of(Sampling, read_json(path), path)
    try:
        check_ranges(sampling, RANGES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return sampling


def write_sampling(sampling: Sampling, folder: Path) -> None:
    """Write the settings that differ from the defaults into an existing folder."""
    default = Sampling()
    names = [field.name for field in fields(Sampling)]
    changed = {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(default, name)}
    (folder / FILE).write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")
