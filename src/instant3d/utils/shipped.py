"""Locate the files that come with the package: configs, rendering plans and lists of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CONFIGS = "configs"
HOMES = (Path(__file__).parents[1], Path(__file__).parents[3])  # of an installed package, of a checkout


def configs_folder() -> Path:
    """Return the folder of the shipped configs; `configs` in the working folder if there is no other."""
    return next((home / CONFIGS for home in HOMES if (home / CONFIGS).is_dir()), Path(CONFIGS))


def look_up(name: str | Path, folders: Sequence[str], suffix: str) -> Path | None:
    """Find a file by its path, or a shipped one by its name.

    Args:
        name: A path; or, with or without the suffix, the name of a file in one of the folders or its path below
            `configs`, such as `demo`, `stage2/demo` or `configs/stage2/demo.yaml`.
        folders: Folders below `configs` to search for a name, in this order; "" is `configs` itself.
        suffix: File suffix, such as ".yaml".

    Returns:
        The path, or None if there is no such file.
    """
    path, root = Path(name), configs_folder()
    if path.exists() or path.is_absolute():
        return path if path.exists() else None
    inside = Path(*path.parts[1:]) if path.parts[:1] == (CONFIGS,) else path
    candidates = [root / folder / f"{inside}{end}" for folder in (*folders, "") for end in (suffix, "")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def find(name: str | Path, folders: Sequence[str], suffix: str = ".yaml") -> Path:
    """Find a file by its path, or a shipped one by its name.

    Args:
        name: As in `look_up`.
        folders: As in `look_up`.
        suffix: As in `look_up`.

    Raises:
        FileNotFoundError: There is no such file; the message lists the shipped ones.
    """
    found = look_up(name, folders, suffix)
    if found is None:
        names = ", ".join(name for folder in folders for name in names_in(folder, suffix)) or "none"
        raise FileNotFoundError(f"there is no file {name}, and none is shipped under that name; there are {names}")
    return found


def names_in(folder: str, suffix: str = ".yaml") -> list[str]:
    """Return the names of the shipped files in a folder below `configs`, without their suffix."""
    return sorted(path.stem for path in (configs_folder() / folder).glob(f"*{suffix}"))
