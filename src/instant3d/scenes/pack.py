"""Packing of scene folders into tars, byte for byte.

The tars are those of `instant3d.scenes.shards`. One further member in each scene, `KEY.packed.json`, holds what flat
names lose: the scene's name, and the name and SHA-256 of each file. So every tar can be unpacked and checked alone.
Beside them an `index.json` holds each tar's size, SHA-256, number of scenes and a stamp of its source files. It is
rewritten after each tar, so interrupted packing resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from instant3d.scenes import scene_folder as scenes
from instant3d.scenes import shards
from instant3d.utils import atomic, file_listing
from instant3d.utils.errors import escape_control
from instant3d.utils.progress import OnStep

INDEX, VERSION = "index.json", 1
LONGEST_NAME = 200  # bytes of a file's name: what any file system takes
PACKED = shards.PACKED
MAX_INDEX_BYTES = 2**28
MAX_PACKED_BYTES = shards.MAX_PACKED_BYTES

Files = Mapping[str, Path]  # files by their names in the scene


@dataclass(frozen=True)
class Shard:
    """A tar in the index.

    Attributes:
        name: File name.
        bytes: Size.
        sha256: Hash of the file.
        scenes: Number of scenes.
        stamp: Hash of the names, sizes and dates of the source files.
    """

    name: str
    bytes: int
    sha256: str
    scenes: int
    stamp: str


@dataclass(frozen=True)
class Packing:
    """Result of packing.

    Attributes:
        shards: All tars.
        kept: Number of them that existed before.
    """

    shards: tuple[Shard, ...]
    kept: int


def pack(
    roots: Sequence[str | Path],
    target: str | Path,
    per_shard: int = 256,
    on_step: OnStep = lambda *_: None,
    keep: Collection[str] | None = None,
) -> Packing:
    """Copy scene folders into tars.

    Args:
        roots: Scene folders, or folders of them.
        target: Folder for the tars and their index; tars that are up to date are kept.
        per_shard: Scenes per tar.
        on_step: Called with the number of packed scenes and their total.
        keep: Ids of the scenes to pack; all by default.

    Raises:
        FileNotFoundError: A root is not a folder.
        ValueError: There are no scenes, two have the same name, one cannot be packed, or the target holds other files.
    """
    if per_shard < 1:
        raise ValueError(f"a shard holds at least one scene, but per_shard is {per_shard}")
    found, target = sorted(_found(roots).items()), Path(target)
    if keep is not None:
        found = [(name, folder) for name, folder in found if _id(folder) in keep]
        if not found:
            raise ValueError(f"no scene to pack has one of the {len(keep)} ids to keep")
    earlier = _earlier(target)
    target.mkdir(parents=True, exist_ok=True)
    done: list[Shard] = []
    kept = 0
    for first in range(0, len(found), per_shard):
        group = [(first + k, name, _files(folder)) for k, (name, folder) in enumerate(found[first : first + per_shard])]
        shard_name, stamp = f"{first // per_shard:05d}.tar", _stamp(group)
        old = earlier.get(shard_name)
        whole = old is not None and old.stamp == stamp and _size(target / shard_name) == old.bytes
        kept += whole
        done.append(old if whole and old else _write(target / shard_name, group, stamp))
        still = [shard for name, shard in earlier.items() if name > shard_name]
        atomic.write_bytes(target / INDEX, _index([*done, *still]))
        on_step(first + len(group), len(found))
    _drop(target, {name for name in earlier if name >= f"{len(done):05d}.tar"}, done)
    return Packing(tuple(done), kept)


def read_index(folder: Path) -> dict[str, Shard]:
    """Read a folder's `index.json`: its shards by name; empty if there is no such file."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return parse_index(file.read(MAX_INDEX_BYTES + 1), str(path))


def parse_index(data: bytes, where: str) -> dict[str, Shard]:
    """Parse an `index.json` into its shards by name.

    Args:
        data: Its content.
        where: Its path or URL for error messages.

    Raises:
        ValueError: It is not a valid index, or names a file outside its folder.
    """
    if len(data) > MAX_INDEX_BYTES:
        raise ValueError(f"{where} is larger than {MAX_INDEX_BYTES} bytes; is it an index of shards?")
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']!r:.20}, but only {VERSION} is known")
        listed = [Shard(**entry) for entry in content["shards"]]
        for shard in listed:
            _check(shard)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{where} is not an index of shards ({error}); remove it, or name the folder of shards"
        ) from error
    return {shard.name: shard for shard in listed}


def _check(shard: Shard) -> None:
    if PurePosixPath(shard.name).name != shard.name or not shard.name.endswith(".tar"):
        raise ValueError("it names a shard that is not a .tar file beside it")
    if len(shard.name.encode(errors="replace")) > LONGEST_NAME:
        raise ValueError(f"the name {shard.name:.40}... is longer than {LONGEST_NAME} bytes")
    if not re.fullmatch("[0-9a-f]{64}", shard.sha256):
        raise ValueError(f"the SHA-256 of {shard.name} is {shard.sha256!r:.80}")
    if not all(isinstance(number, int) and number >= 0 for number in (shard.bytes, shard.scenes)):
        raise ValueError(f"{shard.name} has no valid size or number of scenes")


def _found(roots: Sequence[str | Path]) -> dict[str, Path]:
    """Return scene folders by name: their path below the root, or the root's own name if it is a scene itself."""
    found: dict[str, Path] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; name scene folders or folders of such")
        for folder in scenes.below(root):
            name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
            if name in found:
                raise ValueError(f"{found[name]} and {folder} would both be packed as {name!r}; rename one")
            found[name] = folder
    if not found:
        raise ValueError("there are no scenes to pack; name folders with a transforms.json in them")
    for name in found:
        if file_listing.is_hidden(name) or escape_control(name) != name:
            raise ValueError(f"the scene {found[name]} has a hidden name or one with control characters; rename it")
        outer = next((str(path) for path in PurePosixPath(name).parents if str(path) in found), None)
        if outer is not None:
            raise ValueError(f"the scene {found[name]} lies inside the scene {found[outer]}; move it out")
    return found


def _id(folder: Path) -> str:
    return scenes.document(folder).text("id") or folder.resolve().name


def _files(folder: Path) -> Files:
    """Return all visible files of a scene; refuse files from outside it and flat names that collide."""
    files: dict[str, Path] = {}
    for path in file_listing.visible_files(folder, "**/*"):
        if path.is_dir():
            continue
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is not a file of its scene (a link to elsewhere?); put the file itself there")
        files[path.relative_to(folder).as_posix()] = path
    for name in files:
        if escape_control(name) != name:
            raise ValueError(f"{folder / name} holds control characters in its name; rename it")
    taken = {shards.flat(name): name for name in files}
    for name in files:
        if taken[shards.flat(name)] != name or shards.flat(name) == PACKED:
            raise ValueError(f"{folder / name} would be mistaken for another file in a tar; rename it")
    total = sum(path.stat().st_size for path in files.values())
    if total > shards.MAX_SCENE_BYTES - MAX_PACKED_BYTES:
        raise ValueError(f"{folder} takes {total} bytes; a scene in a tar takes less than {shards.MAX_SCENE_BYTES}")
    scenes.document(folder)  # a broken document is found now and not during training
    return {scenes.DOCUMENT: files[scenes.DOCUMENT], **files}


Group = Sequence[tuple[int, str, Files]]


def _stamp(group: Group) -> str:
    stats = [
        (number, name, file, (stat := path.stat()).st_size, stat.st_mtime_ns)
        for number, name, files in group
        for file, path in files.items()
    ]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _write(path: Path, group: Group, stamp: str) -> Shard:
    """Write one tar, whole or not at all; equal scenes give equal bytes."""
    with atomic.partial_file(path, one_writer=True) as partial, partial.open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, name, files in group:
                _add(tar, shards.key_of(number, name), name, files)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        digest, size = hashlib.file_digest(file, "sha256").hexdigest(), partial.stat().st_size
    return Shard(path.name, size, digest, len(group), stamp)


def _add(tar: tarfile.TarFile, key: str, name: str, files: Files) -> None:
    hashes = {}
    for file, path in files.items():
        data = path.read_bytes()
        hashes[file] = hashlib.sha256(data).hexdigest()
        _add_member(tar, f"{key}.{shards.flat(file)}", data)
    packed = json.dumps({"version": VERSION, "name": name, "sha256": hashes}).encode()
    if len(packed) > MAX_PACKED_BYTES:
        raise ValueError(f"the scene {name} has too many files ({len(files)}) to be packed")
    _add_member(tar, f"{key}.{PACKED}", packed)


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _earlier(target: Path) -> dict[str, Shard]:
    """Read the index of an earlier call; a folder with other files is refused."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, but a folder will be written there; name another path")
    held = [path.name for path in file_listing.visible_files(target, "*")] if target.is_dir() else []
    if INDEX not in held and any(not name.endswith(".partial") for name in held):
        raise ValueError(f"{target} holds files but no {INDEX}; name an empty or a new folder")
    return read_index(target)


def _index(listed: Sequence[Shard]) -> bytes:
    total = sum(shard.scenes for shard in listed)
    content = {"version": VERSION, "scenes": total, "shards": [asdict(shard) for shard in listed]}
    return (json.dumps(content, indent=1) + "\n").encode()


def _drop(target: Path, surplus: set[str], done: Sequence[Shard]) -> None:
    """Remove surplus tars of an earlier call that packed more scenes."""
    for name in surplus:
        (target / name).unlink(missing_ok=True)
    if surplus:
        atomic.write_bytes(target / INDEX, _index(done))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
