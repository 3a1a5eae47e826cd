"""The files of a folder of images and cameras: no file outside it is opened, and none of any size."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

DOCUMENT = "transforms.json"
EXTENSIONS = ("", ".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")
MAX_FILE_BYTES = 2**29


def file_content(root: Path, name: str, folder: Path | None = None, named_by: str | None = None) -> bytes:
    """Read a file of the scene.

    Args:
        root: The scene folder, resolved; no file outside it is opened.
        name: File name relative to `folder`, or an absolute path inside `root`, with or without extension.
        folder: Folder inside `root`; by default `root` itself.
        named_by: What names the file, for error messages; by default the scene's document.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It lies outside `root` or is too large.
    """
    folder, named_by = folder or root, named_by or str(root / DOCUMENT)
    if "\0" in name:
        raise ValueError(_outside(root, folder, name, named_by))
    for spelling in spellings(name):
        file = folder / spelling
        if not Path(os.path.realpath(file)).is_relative_to(root):
            raise ValueError(_outside(root, folder, name, named_by))
        if os.path.isfile(file):  # false for a name that no file can have
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"{file} is larger than {MAX_FILE_BYTES} bytes; make it smaller")
            return file.read_bytes()
    raise FileNotFoundError(f"{folder / name} does not exist, but {named_by} names it; put it there or drop its frame")


def spellings(name: str) -> list[str]:
    """Return the names that a file may have on disk: with an extension, with accents composed or, by macOS, apart."""
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    return [f"{form}{extension}" for form in forms for extension in EXTENSIONS]


def _outside(root: Path, folder: Path, name: str, named_by: str) -> str:
    """Describe why a name leads outside the scene folder: by a link, as an absolute path, or by its `..`."""
    begin = f"{named_by} names {name!r}, which"
    if "\0" not in name and Path(os.path.normpath(folder / name)).is_relative_to(root):
        target = Path(os.path.realpath(folder / name))
        return f"{begin} is, or lies behind, a link to {target} outside the scene folder; copy the files into it"
    if Path(name).is_absolute():
        return f"{begin} is an absolute path and lies outside the scene folder; move it inside, and name it from there"
    return f"{begin} lies outside the scene folder; move it inside"
