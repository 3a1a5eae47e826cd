"""Unpacking of tars to scene folders; every file is compared with its hash.

Damaged scenes are reported and skipped, and the rest is restored. Names from a tar never lead out of the target.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from instant3d.scenes import scene_folder as scenes
from instant3d.scenes import shards
from instant3d.scenes.pack import INDEX, LONGEST_NAME, MAX_PACKED_BYTES, PACKED, VERSION, Shard, read_index
from instant3d.utils import atomic, file_listing
from instant3d.utils.errors import escape_control, shorten
from instant3d.utils.progress import OnStep

LONGEST_PATH = 1000  # characters
MISSING = "missing, or is a link or a sparse file in the tar"


@dataclass
class Unpacking:
    """Result of unpacking.

    Attributes:
        new: Number of restored scenes.
        there: Number of scenes that existed before.
        damage: One message for each scene or tar that could not be restored.
    """

    new: int = 0
    there: int = 0
    damage: list[str] = field(default_factory=list)


def unpack(source: str | Path, target: str | Path, on_step: OnStep = lambda *_: None) -> Unpacking:
    """Restore the scenes of a folder of tars, or of one tar, as `target/NAME`, each whole or not at all.

    Scenes that exist with the same files are left unchanged. Damaged tars are reported, and their intact scenes
    restored.

    Args:
        source: The folder or the tar.
        target: Folder for the scene folders.
        on_step: Called with the number of processed tars and their total.

    Raises:
        FileNotFoundError: There are no tars.
        ValueError: A folder in `target` holds other files than the scene, or leads out of it by a link.
    """
    source, target, result = Path(source), Path(target), Unpacking()
    expected = read_index(source if source.is_dir() else source.parent)
    if source.is_dir():
        names = sorted({path.name for path in file_listing.visible_files(source, "*.tar")} | set(expected))
        paths = [source / name for name in names]
    else:
        paths = [source]
    if not paths:
        raise FileNotFoundError(f"{source} has no .tar files; is it a folder of shards?")
    for k, path in enumerate(paths):
        if not path.is_file() and path.name not in expected:
            raise FileNotFoundError(f"{path} does not exist; name a .tar of scenes or a folder of such")
        _restore(path, expected.get(path.name), target, result)
        on_step(k + 1, len(paths))
    return result


def _restore(path: Path, expected: Shard | None, target: Path, result: Unpacking) -> None:
    if not path.is_file():
        result.damage.append(f"{path} is missing, but {INDEX} lists it; copy it again")
        return
    if expected is not None and not _is_as_packed(path, expected):
        result.damage.append(f"{path} is not the file that was packed; copy or pack it again")
    count, broken = 0, ""
    try:
        with tarfile.open(path, "r|") as tar:
            for key, group in groupby(shards.members(tar), key=lambda member: member[0]):
                files = {name: data for _, name, data in group}
                count += 1
                _restore_scene(f"{path}:{key}", files, target, result)
    except tarfile.TarError as error:
        broken = f" ({error})"
    if broken or (expected is not None and count != expected.scenes):
        of = "" if expected is None else f" of {expected.scenes}"
        result.damage.append(
            f"{path} is cut off or broken{broken}: {count}{of} scenes were found; copy or pack it again"
        )


def _is_as_packed(path: Path, expected: Shard) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256


def _restore_scene(where: str, files: dict[str, bytes], target: Path, result: Unpacking) -> None:
    try:
        name, contents = _checked(where, files)
    except ValueError as error:
        result.damage.append(shorten(str(error)))
        return
    folder = target / name
    if not folder.resolve().is_relative_to(target.resolve()):
        raise ValueError(f"{folder} leads out of {target} by a link; name another folder to unpack into")
    if folder.is_dir() and any(folder.iterdir()):
        if not _same(folder, contents):
            raise ValueError(f"{folder} holds other files than {where}; name another folder to unpack into")
        result.there += 1
        return
    with atomic.replaced(folder, sign=scenes.DOCUMENT) as partial:
        for file, data in contents.items():
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).write_bytes(data)
    result.new += 1


def _checked(where: str, files: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """Return a scene's name and its files by their names, after checking their hashes."""
    if PACKED not in files:
        raise ValueError(f"{where} has no {PACKED}, so its files' names are unknown; was it packed by this command?")
    name, hashes = _manifest(files[PACKED], where)
    contents = {}
    for file, digest in hashes.items():
        data = files.get(shards.flat(file))
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{where} is damaged ({file} is {MISSING if data is None else 'not as it was packed'})")
        contents[file] = data
    return name, contents


def _manifest(data: bytes, where: str) -> tuple[str, dict[str, str]]:
    try:
        content: Any = json.loads(data) if len(data) <= MAX_PACKED_BYTES else None
        name, hashes = content["name"], content["sha256"]
        if content["version"] != VERSION or not isinstance(name, str) or not isinstance(hashes, dict):
            raise ValueError(f"expected a name and hashes of version {VERSION}")
        for path in (name, *hashes):
            if PurePosixPath(path).is_absolute() or not _is_plain(path):
                raise ValueError(f"{path!r:.80} would lie outside the folder")
            if any(len(part.encode()) > LONGEST_NAME for part in path.split("/")) or len(path) > LONGEST_PATH:
                raise ValueError(f"{path!r:.80} is longer than a file's name can be")
            if file_listing.is_hidden(path) or escape_control(path) != path:
                raise ValueError(f"{path!r:.80} is a hidden name or holds control characters")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{PACKED} of {where} is damaged ({error}); copy or pack the tar again") from error
    return name, hashes


def _is_plain(path: str) -> bool:
    return all(part not in ("", ".", "..") for part in path.split("/")) and not {"\\", "\0"} & set(path)


def _same(folder: Path, contents: dict[str, bytes]) -> bool:
    found = {
        path.relative_to(folder).as_posix(): path
        for path in file_listing.visible_files(folder, "**/*")
        if path.is_file()
    }
    return found.keys() == contents.keys() and all(found[name].read_bytes() == contents[name] for name in found)
