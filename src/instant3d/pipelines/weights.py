"""Resolution of weights, named or bundled, with a check of their kind before any is loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from instant3d.direct.architecture import read_architecture as read_direct
from instant3d.modules.diffusion import checkpoint_source
from instant3d.modules.diffusion.prompt_tokens import PARTS
from instant3d.stage2.architecture import read_architecture as read_stage2
from instant3d.stage2.network import resolve as resolve_stage2
from instant3d.utils import bundled, file_listing
from instant3d.utils.safetensors_folder import CONFIG, WEIGHTS, resolve
from instant3d.utils.tensor_files import load_json

NAMES = {"stage1": "a stage 1 (a diffusers model)", "stage2": "a stage 2", "direct": "the direct system"}
USES = {"stage1": "--stage1", "stage2": "--stage2", "direct": "--direct"}
TEXT_FILES = [f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt", "safetensors")]


def kind_of(source: str | Path) -> str | None:
    """Detect which model a folder of weights holds.

    Args:
        source: A folder, or a Hub id, which is not downloaded.

    Returns:
        "stage1", "stage2" or "direct"; None if `source` is no local folder or does not declare its model.
    """
    folder = Path(source)
    if (folder / "model_index.json").is_file():
        return "stage1"
    try:
        kind = load_json(folder / CONFIG).get("model")
    except (OSError, ValueError, AttributeError):
        return None  # loading it will raise the precise error
    return kind if isinstance(kind, str) and kind in NAMES else None


def check_stages(stage1: str | Path, stage2: str | Path) -> None:
    """Check that two sources of weights are a stage 1 and a stage 2 that fit each other.

    Args:
        stage1: Folder or Hub id of stage 1; only local folders are checked.
        stage2: Folder or Hub id of stage 2.

    Raises:
        ValueError: A folder holds another model, or stage 2 takes one image instead of four posed views.
    """
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
            f"{stage2} makes an object of one image, but stage 1 generates four views; give a --stage2 that takes "
            "posed views, such as a converted InstantMesh"
        )


def find_stages(stage1: str | Path | None = None, stage2: str | Path | None = None) -> tuple[str | Path, str | Path]:
    """Find the weights of the two stages: those named, else the bundled ones.

    Args:
        stage1: Folder or Hub id of stage 1; None: the bundled weights.
        stage2: Folder or Hub id of stage 2; None: the bundled weights.

    Returns:
        Folders or Hub ids of stage 1 and stage 2, as checked by `check_stages`.

    Raises:
        FileNotFoundError: The bundled weights are not installed.
        ValueError: A folder holds another model, or stage 2 takes one image instead of four posed views.
    """
    stage1 = bundled.weights_folder(bundled.STAGE1, stage1, option="--stage1")
    stage2 = find_stage2(stage2)
    check_stages(stage1, stage2)
    return stage1, stage2


def find_stage2(named: str | Path | None = None, *, option: str = "--stage2") -> str | Path:
    """Find the weights of stage 2 alone: those named, else the bundled ones.

    Args:
        named: Folder or Hub id; None: the bundled weights.
        option: The command line option that names them, for the error message.

    Raises:
        FileNotFoundError: The bundled weights are not installed.
    """
    return bundled.weights_folder(bundled.STAGE2, named, option=option)


def find_direct(named: str | Path | None = None) -> str | Path:
    """Find the weights of the direct system: those named, else the bundled ones; `direct_folder` resolves them.

    Raises:
        FileNotFoundError: The bundled weights are not installed.
    """
    return bundled.weights_folder(bundled.DIRECT, named, option="--direct")


def find_judge(named: str | Path | None = None) -> str | Path:
    """Find the weights of the attribute classifier: those named, else the bundled ones.

    Raises:
        FileNotFoundError: The bundled weights are not installed.
    """
    return bundled.weights_folder(bundled.JUDGE, named, option="--judge")


def direct_folder(source: str | Path) -> Path:
    """Resolve the direct system's weights to a local folder with the network and its text encoder.

    Args:
        source: A folder, or a Hugging Face Hub id, which is downloaded.

    Raises:
        ValueError: The folder holds another model, or its configuration is invalid.
        FileNotFoundError: The text encoder or the tokenizer is missing.
    """
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


def stage1_files(source: str | Path, dtype: torch.dtype) -> dict[str, Path]:
    """List the files with stage 1's weights.

    Args:
        source: A folder in diffusers' layout, a Hub id or a single file.
        dtype: The precision in which they will be loaded, which decides between variants of files.

    Returns:
        The files by their POSIX paths in the folder.
    """
    if Path(source).is_file():
        return {Path(source).name: Path(source)}
    parts = checkpoint_source.folders(source, checkpoint_source.NETWORKS, dtype)
    return {
        f"{part}/{file.name}": file
        for part, folder in parts.items()
        for file in file_listing.visible_files(folder, "*.safetensors")
    }


def stage2_files(source: str | Path) -> dict[str, Path]:
    """Return the file with stage 2's weights by its name, or an empty dictionary if it is missing."""
    file = resolve_stage2(source) / WEIGHTS
    return {WEIGHTS: file} if file.is_file() else {}


def direct_files(folder: Path) -> dict[str, Path]:
    """List the files with the direct system's weights, by their POSIX paths in its folder."""
    files = [file for part in sorted(PARTS) for file in file_listing.visible_files(folder / part, "*.safetensors")]
    files += [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []
    return {file.relative_to(folder).as_posix(): file for file in files}


def _check_kind(source: str | Path, wanted: str) -> None:
    found = kind_of(source)
    if found not in (None, wanted):
        raise ValueError(
            f"{source} holds {NAMES[found]}, but was given as {NAMES[wanted].split(' (')[0]}; use it as {USES[found]}"
        )
