"""Reading and writing of many scenes in a few tar files, in WebDataset's layout.

Each file of a scene is one member `KEY.NAME`, its folders written as dots (`0007.images.0003.png`), all members of a
scene together and its `KEY.transforms.json` first. WebDataset reads such a tar as samples by the same rule.
`write` encodes scenes again; `instant3d.scenes.pack` copies the files of scene folders exactly into the same layout.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from instant3d.scenes import scene_files, transforms
from instant3d.scenes import scene_folder as scenes
from instant3d.scenes.scene_folder import Scene
from instant3d.utils import atomic, file_listing

MAX_SCENE_BYTES = 2**31
PACKED = "packed.json"  # beside a scene's files: names and hashes from `instant3d.scenes.pack`
MAX_PACKED_BYTES = 2**24
MAPS = scenes.MAPS

Choice = Sequence[int] | Callable[[int], Sequence[int]]


def write(items: Iterable[Scene | str | Path], folder: str | Path, per_shard: int = 256) -> list[Path]:
    """Encode scenes into `folder/00000.tar` and so on, whole or not at all.

    Scenes keep their ids; the key of each is its number and its id, so that keys are unique.

    Args:
        items: Scenes or scene folders.
        folder: Folder for the tars; earlier tars are replaced.
        per_shard: Scenes per tar.

    Returns:
        The tars.

    Raises:
        ValueError: There are no scenes, or `folder` holds other files.
    """
    if per_shard < 1:
        raise ValueError(f"a shard holds at least one scene, but per_shard is {per_shard}")
    count = 0
    with atomic.replaced(folder, sign="00000.tar") as partial:
        for number, group in groupby(enumerate(items), key=lambda item: item[0] // per_shard):
            with tarfile.open(partial / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for k, item in group:
                    _add(tar, k, item if isinstance(item, Scene) else scenes.read(item))
            count = number + 1
        if not count:
            raise ValueError("there are no scenes to pack; name at least one")
    return [Path(folder) / f"{number:05d}.tar" for number in range(count)]


def paths(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the tars in a folder in order, or the named ones."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        found = file_listing.visible_files(source, "*.tar")
        if not found:
            raise FileNotFoundError(f"{source} has no .tar files; is it a folder of shards?")
        return found
    return [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]


def read(
    source: str | Path | Sequence[str | Path], *, frames: Choice | None = None, size: int | None = None
) -> Iterator[Scene]:
    """Iterate over the scenes of a folder of tars, of one tar or of several.

    Args:
        source: The folder or the tars.
        frames: Frame indices to decode, or a function from a scene's number of frames to them (for random sampling).
        size: As in `scenes.read`.

    Raises:
        FileNotFoundError: There are no tars.
        ValueError: A tar or a scene is damaged.
    """
    for path in paths(source):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; name a .tar of scenes or a folder of such")
        for key, files in _samples(path):
            yield _scene(path, key, files, frames, size)


@dataclass(frozen=True)
class PackedScene:
    """One scene in a tar.

    Files are compared with the SHA-256 that `instant3d pack` wrote beside them, if it is there.

    Attributes:
        path: The tar.
        key: The scene's key.
        where: Offset and length in bytes of each file, by flat name.
    """

    path: Path
    key: str
    where: Mapping[str, tuple[int, int]]

    @property
    def name(self) -> str:
        """The key as a file name."""
        return _plain(self.key)

    def read(
        self,
        *,
        frames: Choice | None = None,
        size: int | None = None,
        maps: Collection[str] = MAPS,
        widest: int | None = None,
    ) -> Scene:
        """Read the scene; only the files of `frames` and `maps` are read from disk.

        Args:
            frames: Frame indices to decode, or a function from the number of frames to them; all by default.
            size: As in `scenes.read`.
            maps: As in `scenes.read`.
            widest: As in `scenes.read`.

        Raises:
            ValueError: A file is damaged or invalid.
        """
        with self._opened() as files:
            return _scene(self.path, self.key, files, frames, size, maps, widest)

    def document(self) -> transforms.Document:
        """Read only the scene's cameras, id and caption."""
        with self._opened() as files:
            return _parsed(self.path, self.key, files)

    @contextmanager
    def _opened(self) -> Iterator[Mapping[str, bytes]]:
        with self.path.open("rb") as file:
            yield _Files(file, self)


class _Files(Mapping[str, bytes]):
    """A packed scene's files, each read on access."""

    def __init__(self, file: BinaryIO, packed: PackedScene) -> None:
        self.file, self.packed = file, packed
        self.sums: dict[str, str] = {}
        if PACKED in packed.where:
            self.sums = _sums(self._bytes(PACKED), f"{packed.path}:{packed.key}")

    def __getitem__(self, name: str) -> bytes:
        data = self._bytes(name)
        if name in self.sums and hashlib.sha256(data).hexdigest() != self.sums[name]:
            where = f"{self.packed.path}:{self.packed.key}"
            raise ValueError(f"{where} is damaged ({name} is not as it was packed); copy or pack the tar again")
        return data

    def __contains__(self, name: object) -> bool:
        return name in self.packed.where

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed.where)

    def __len__(self) -> int:
        return len(self.packed.where)

    def _bytes(self, name: str) -> bytes:
        begin, length = self.packed.where[name]
        self.file.seek(begin)
        return self.file.read(length)


def _sums(data: bytes, where: str) -> dict[str, str]:
    """Return the SHA-256 of a scene's files by their flat names."""
    try:
        found = json.loads(data)["sha256"]
        return {flat(name): str(digest) for name, digest in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{PACKED} of {where} is damaged ({error}); copy or pack the tar again") from error


def index(source: str | Path | Sequence[str | Path]) -> list[PackedScene]:
    """List all scenes of some tars, to be read in any order; reads only the headers, nothing is decoded.

    Raises:
        FileNotFoundError: There are no tars.
        ValueError: A tar is damaged, or a scene is too large.
    """
    found = []
    for path in paths(source):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; name a .tar of scenes or a folder of such")
        try:
            with tarfile.open(path, "r:") as tar:
                files = [(*_named(member), member.offset_data, member.size) for member in tar if is_whole(member)]
        except tarfile.TarError as error:
            raise ValueError(f"{path} is not a whole tar file ({error}); copy or pack it again") from error
        for key, group in groupby(files, key=lambda file: file[0]):
            where = {name: (begin, size) for _, name, begin, size in group}
            if sum(size for _, size in where.values()) > MAX_SCENE_BYTES:
                raise ValueError(f"scene {key} of {path} is larger than {MAX_SCENE_BYTES} bytes; leave it out")
            found.append(PackedScene(path, key, where))
    return found


def _add(tar: tarfile.TarFile, number: int, scene: Scene) -> None:
    key = key_of(number, scene.id)
    files = scenes.encode(scene.views, caption=scene.caption, object_id=scene.id, extra=scene.credit)
    for name, data in files.items():
        member = tarfile.TarInfo(f"{key}.{flat(name)}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def key_of(number: int, name: str) -> str:
    """Return the unique prefix of a scene's members, without dots and slashes."""
    return f"{number:07d}-{_plain(name)[:48]}"


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the keys and files of a tar's scenes, read in one pass; nothing is unpacked to disk."""
    try:
        with tarfile.open(path, "r|") as tar:
            for key, group in groupby(members(tar), key=lambda member: member[0]):
                yield key, {name: data for _, name, data in group}
    except tarfile.TarError as error:
        raise ValueError(f"{path} is not a whole tar file ({error}); copy or pack it again") from error


def members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, name and content of each regular file of an open tar.

    Raises:
        tarfile.TarError: A scene is larger than `MAX_SCENE_BYTES`.
    """
    taken, last = 0, None
    for member in tar:
        key, name = _named(member)
        if not is_whole(member):
            continue
        taken = taken + member.size if key == last else member.size
        last = key
        if taken > MAX_SCENE_BYTES:
            raise tarfile.TarError(f"scene {key} is larger than {MAX_SCENE_BYTES} bytes")
        content = tar.extractfile(member)
        if content is not None:
            yield key, name, content.read()


def is_whole(member: tarfile.TarInfo) -> bool:
    """Whether a member is a visible file that holds all its bytes.

    Links, devices and sparse files, which could grow from a few bytes to any size, are not.
    """
    return member.isreg() and not member.issparse() and not file_listing.is_hidden(member.name)


def _named(member: tarfile.TarInfo) -> tuple[str, str]:
    """Split a member's name into scene key and flat file name: the key ends at the first dot of the file name."""
    folder, _, file = member.name.rpartition("/")
    stem, _, name = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, name


def _parsed(path: Path, key: str, files: Mapping[str, bytes]) -> transforms.Document:
    where = f"{path}:{key}"
    if scenes.DOCUMENT not in files:
        raise FileNotFoundError(f"{where} has no {scenes.DOCUMENT}; were these shards packed by another tool?")
    return transforms.parse(files[scenes.DOCUMENT], f"{where}.{scenes.DOCUMENT}")


def _scene(
    path: Path,
    key: str,
    files: Mapping[str, bytes],
    frames: Choice | None,
    size: int | None,
    maps: Collection[str] = MAPS,
    widest: int | None = None,
) -> Scene:
    document = _parsed(path, key, files)

    def load(name: str) -> bytes:
        for extension in scene_files.EXTENSIONS:
            if flat(name + extension) in files:
                return files[flat(name + extension)]
        raise FileNotFoundError(f"{path}:{key} lacks {name}, which its {scenes.DOCUMENT} names; pack it again")

    chosen = frames(document.count) if callable(frames) else frames
    return scenes.decode(document, load, path / key, frames=chosen, size=size, maps=maps, widest=widest)


def flat(name: str) -> str:
    """Return the name of a scene's file inside a tar."""
    return name.removeprefix("./").replace("/", ".")
