"""Whose weights a folder holds, so that what was given for something else is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from instant3d.direct.architecture import read_architecture as read_direct
from instant3d.modules.diffusion.prompt_tokens import PARTS
from instant3d.stage2.architecture import read_architecture as read_stage2
from instant3d.utils.safetensors_folder import CONFIG, resolve
from instant3d.utils.tensor_files import load_json

NAMES = {"stage1": "a stage 1 (a diffusers model)", "stage2": "a stage 2", "direct": "the direct system"}
USES = {"stage1": "--stage1", "stage2": "--stage2", "direct": "--direct"}
TEXT_FILES = [f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt", "safetensors")]


def kind_of(source: str | Path) -> str | None:
    """stage1, stage2 or direct, if `source` is a folder that says so."""
    folder = Path(source)
    if (folder / "model_index.json").is_file():
        return "stage1"
    try:
        told = load_json(folder / CONFIG).get("model")
    except (OSError, ValueError, AttributeError):
        return None  # whoever reads it will say what is wrong
    return told if isinstance(told, str) and told in NAMES else None


def check_stages(stage1: str | Path, stage2: str | Path) -> None:
    """Refuse folders that were given for each other, and a stage 2 that cannot take what stage 1 draws."""
    _check_kind(stage1, "stage1")
    _check_kind(stage2, "stage2")
    if (Path(stage1) / CONFIG).is_file() and not (Path(stage1) / "model_index.json").is_file():
        raise ValueError(
            f"{stage1} holds a single network, but was given as stage 1, which is a folder in diffusers' layout; "
            "give another"
        )
    config = Path(stage2) / CONFIG
    if config.is_file() and read_stage2(config).assumed_camera is not None:
        raise ValueError(
            f"{stage2} makes an object of one picture, but stage 1 draws four views; give a --stage2 that takes posed "
            "views, such as a converted InstantMesh"
        )


def direct_folder(source: str | Path) -> Path:
    """The direct system's folder, or its download by a Hub id: a network, and what it reads prompts with."""
    _check_kind(source, "direct")
    folder = resolve(source, TEXT_FILES)
    read_direct(folder / CONFIG)
    for part in PARTS:
        if not (folder / part).is_dir():
            raise FileNotFoundError(
                f"{folder} has no {part}/, without which its network cannot read prompts; copy the whole folder, or "
                "export its checkpoint again"
            )
    return folder


def _check_kind(source: str | Path, wanted: str) -> None:
    found = kind_of(source)
    if found not in (None, wanted):
        raise ValueError(
            f"{source} holds {NAMES[found]}, but was given as {NAMES[wanted].split(' (')[0]}; use it as {USES[found]}"
        )
