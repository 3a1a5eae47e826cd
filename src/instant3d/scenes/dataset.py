"""Random access to many scenes in folders, in tars on this disk, or in tars behind URLs.

Tars are opened, or downloaded, when one of their scenes is read.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from instant3d.scenes import scene_folder as scenes
from instant3d.scenes import shard_cache, shards, transforms
from instant3d.scenes.pack import INDEX, Shard, read_index
from instant3d.scenes.scene_folder import Scene
from instant3d.scenes.shards import PackedScene
from instant3d.utils import file_listing

OPENED = 32  # tars whose headers a process caches: a few MB each

Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardSource:
    """Some of the scenes in a tar.

    Attributes:
        where: Path or URL of the tar.
        numbers: Indices of its scenes that are used.
        shard: Its entry in the index, if there is one.
        remote: Where it is downloaded from; None if it is on this disk.
    """

    where: str
    numbers: Sequence[int]
    shard: Shard | None
    remote: shard_cache.RemoteShards | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self) -> Path:
        """Return the file on this disk, downloaded if necessary."""
        return Path(self.where) if self.remote is None or self.shard is None else self.remote.fetch(self.shard)

    def headers(self, path: Path) -> list[PackedScene]:
        """Return the headers of all its scenes in the file that `path()` returned.

        Raises:
            ValueError: Their number is not that of the index.
        """
        found = shards.index(path)
        if self.shard is not None and len(found) != self.shard.scenes:
            hint = f"copy or pack it again, and its {INDEX}"
            raise ValueError(f"{self.where} holds {len(found)} scenes, but {self.shard.scenes} were packed; {hint}")
        return found


@dataclass(frozen=True)
class FolderSource:
    """Scenes in folders of their own."""

    folders: Sequence[Path]

    def __len__(self) -> int:
        return len(self.folders)


class SceneSources:
    """All scenes of several sources, numbered one source after the other."""

    def __init__(self, parts: Sequence[ShardSource | FolderSource]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = list(accumulate(map(len, self.parts)))
        self._clear_caches()

    def _clear_caches(self) -> None:
        self._opened: OrderedDict[str, list[PackedScene]] = OrderedDict()  # headers by tar, the most recently used last
        self._coming: dict[str, threading.Thread] = {}

    @classmethod
    def find(cls, roots: Sequence[str | Path], cache: shard_cache.ShardCache | None = None) -> SceneSources:
        """Collect the scene folders below each root, then its tars.

        Args:
            roots: Paths, file:// URLs, or other URLs of folders of tars or of single tars.
            cache: Where downloaded tars are kept; by default the user's cache.

        Raises:
            FileNotFoundError: A root does not exist.
        """
        return cls([part for root in roots for part in _parts(root, cache or shard_cache.ShardCache.in_folder())])

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def files(self) -> list[range]:
        """The range of scene numbers of each tar."""
        begins = [0, *self.ends]
        return [
            range(begin, end)
            for part, begin, end in zip(self.parts, begins, self.ends, strict=False)
            if isinstance(part, ShardSource)
        ]

    def read(self, number: int, **how: Any) -> Scene:
        """Read scene `number`; keyword arguments as in `scenes.read`."""
        return self._use(number, lambda folder: scenes.read(folder, **how), lambda packed: packed.read(**how))

    def document(self, number: int) -> transforms.Document:
        """Read only the cameras, id and caption of scene `number`."""
        return self._use(number, scenes.document, PackedScene.document)

    def source(self, number: int) -> Path | PackedScene:
        """Return the folder of scene `number`, or its place in a tar, which is downloaded if it is behind a URL."""
        return self._use(number, _as_it_is, _as_it_is)

    def name(self, number: int) -> str:
        """Return a file name for data derived from scene `number`."""
        return self._use(number, lambda folder: folder.name, lambda packed: packed.name)

    def where(self, number: int) -> str:
        """Return the unique location of scene `number`, without downloading it."""
        part, place = self._find(number)
        if isinstance(part, ShardSource) and part.remote is not None:
            return f"{part.where}:{part.numbers[place]}"
        return self._use(number, str, lambda packed: f"{packed.path}:{packed.key}")

    def identity(self, number: int) -> str:
        """Return the object id of scene `number`."""
        document = self.document(number)
        return document.text("id") or self._use(number, lambda f: f.resolve().name, lambda packed: packed.key)

    def only(self, numbers: Sequence[int]) -> SceneSources:
        """Return the selection of these scene numbers, in increasing order."""
        parts: list[ShardSource | FolderSource] = []
        wanted = sorted(numbers)
        for part, end in zip(self.parts, self.ends, strict=True):
            begin = end - len(part)
            places = [k - begin for k in wanted[bisect.bisect_left(wanted, begin) : bisect.bisect_left(wanted, end)]]
            if isinstance(part, ShardSource):
                parts.append(replace(part, numbers=[part.numbers[place] for place in places]))
            else:
                parts.append(FolderSource([part.folders[place] for place in places]))
        return SceneSources(parts)

    def check_room(self, cache: shard_cache.ShardCache, window: int) -> None:
        """Refuse a cache so small that the same tars would be downloaded again and again.

        It must hold two windows of tars: those in use, and those to come.

        Args:
            cache: The cache.
            window: Number of tars in use at a time.

        Raises:
            ValueError: The cache is too small; names the size needed.
        """
        sizes = [
            part.shard.bytes for part in self.parts if isinstance(part, ShardSource) and part.remote and part.shard
        ]
        needed = sum(sorted(sizes)[-2 * window :])
        if needed > cache.limit:
            raise ValueError(
                f"{2 * window} of the tars to be fetched take {needed / 2**30:.2f} GiB, but {cache.folder} may hold "
                f"{cache.limit / 2**30:.2f}; raise --data.cache_gib to that, or lower --data.window"
            )

    def fetch_ahead(self, number: int) -> None:
        """Start to download the tar of scene `number` in the background; an error is raised when the scene is read."""
        part, _ = self._find(number)
        if not (isinstance(part, ShardSource) and part.remote and part.shard) or part.remote.cache.holds(part.shard):
            return
        coming = self._coming.get(part.where)
        if coming is None or not coming.is_alive():
            arguments = (part.remote, part.shard)
            self._coming[part.where] = threading.Thread(target=_fetch_silently, args=arguments, daemon=True)
            self._coming[part.where].start()

    def _find(self, number: int) -> tuple[ShardSource | FolderSource, int]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        which = bisect.bisect_right(self.ends, number)
        part = self.parts[which]
        return part, number - self.ends[which] + len(part)

    def _use(
        self, number: int, on_folder: Callable[[Path], Result], on_packed: Callable[[PackedScene], Result]
    ) -> Result:
        part, place = self._find(number)
        if isinstance(part, FolderSource):
            return on_folder(part.folders[place])
        while True:
            path = part.path()
            try:
                return on_packed(self._headers(part, path)[part.numbers[place]])
            except FileNotFoundError:
                if part.remote is None or path.exists():
                    raise
                continue  # another process has just evicted the tar: download it again

    def _headers(self, tar: ShardSource, path: Path) -> list[PackedScene]:
        """Return the scene headers of a tar on this disk; those of the most recently used tars are cached."""
        found = self._opened.pop(tar.where, None) or tar.headers(path)
        self._opened[tar.where] = found
        while len(self._opened) > OPENED:
            self._opened.popitem(last=False)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "ends": self.ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear_caches()


def _as_it_is(found: Path | PackedScene) -> Path | PackedScene:
    return found


def _fetch_silently(remote: shard_cache.RemoteShards, shard: Shard) -> None:
    try:
        remote.fetch(shard, wait=False)
    except (OSError, ValueError):
        return  # reading a scene of the tar will raise the same error


def _parts(root: str | Path, cache: shard_cache.ShardCache) -> list[ShardSource | FolderSource]:
    if shard_cache.is_url(root):
        remote = shard_cache.RemoteShards(str(root), cache)
        return [ShardSource(remote.where(shard), range(shard.scenes), shard, remote) for shard in remote.shards()]
    path = shard_cache.local(root)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a folder of scene folders or of shards")
    if path.is_file():
        listed = read_index(path.parent)
        return [_tar(path, listed.get(path.name))]
    tars = {file.name for file in file_listing.visible_files(path, "*.tar")}
    if tars:
        listed = read_index(path)
        names = sorted(tars | set(listed))
        return [FolderSource(scenes.below(path)), *(_tar(path / name, listed.get(name)) for name in names)]
    return [FolderSource(scenes.below(path))]


def _tar(path: Path, shard: Shard | None) -> ShardSource:
    if shard is None:
        return ShardSource(str(path), range(len(shards.index(path))), None)
    size = path.stat().st_size if path.is_file() else None
    if size != shard.bytes:
        fault = "is missing" if size is None else f"has {size} bytes"
        raise ValueError(f"{path} {fault}, but {INDEX} lists {shard.bytes} bytes; copy or pack it again")
    return ShardSource(str(path), range(shard.scenes), shard)
