"""Many scenes to draw from by number, wherever they lie: in folders, in tars on this disk, in tars behind URLs.

Knows nothing of the order in which they are asked for. Tars are opened, or fetched, when one of their scenes is.
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

OPENED = 32  # tars whose headers a process remembers: a few MB each

Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardSource:
    """Some of the scenes in a tar, those with `numbers`."""

    where: str
    numbers: Sequence[int]
    shard: Shard | None  # in the index, if there is one
    remote: shard_cache.RemoteShards | None = None  # None: it is on this disk

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self) -> Path:
        """The file on this disk, fetched if need be."""
        return Path(self.where) if self.remote is None or self.shard is None else self.remote.fetch(self.shard)

    def headers(self, path: Path) -> list[PackedScene]:
        """All its scenes, in the file that `path()` gave."""
        found = shards.index(path)
        if self.shard is not None and len(found) != self.shard.scenes:
            hint = f"copy or pack it again, and its {INDEX}"
            raise ValueError(f"{self.where} holds {len(found)} scenes, but {self.shard.scenes} were packed; {hint}")
        return found


@dataclass(frozen=True)
class FolderSource:
    """Scene folders."""

    folders: Sequence[Path]

    def __len__(self) -> int:
        return len(self.folders)


class SceneSources:
    """Scenes by number: those of each part in turn."""

    def __init__(self, parts: Sequence[ShardSource | FolderSource]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = list(accumulate(map(len, self.parts)))
        self._forget()

    def _forget(self) -> None:
        self._opened: OrderedDict[str, list[PackedScene]] = OrderedDict()  # headers by tar, those used last at the end
        self._coming: dict[str, threading.Thread] = {}

    @classmethod
    def find(cls, roots: Sequence[str | Path], cache: shard_cache.ShardCache | None = None) -> SceneSources:
        """The scene folders below each root, then its tars; a root is a path, a file:// URL, or another URL of tars."""
        return cls([part for root in roots for part in _parts(root, cache or shard_cache.ShardCache.in_folder())])

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @property
    def files(self) -> list[range]:
        """The numbers of the scenes in each tar."""
        begins = [0, *self.ends]
        return [
            range(begin, end)
            for part, begin, end in zip(self.parts, begins, self.ends, strict=False)
            if isinstance(part, ShardSource)
        ]

    def read(self, number: int, **how: Any) -> Scene:
        """Scene `number`; `how` as in `scenes.read`."""
        return self._use(number, lambda folder: scenes.read(folder, **how), lambda packed: packed.read(**how))

    def document(self, number: int) -> transforms.Document:
        """Its cameras, id and caption."""
        return self._use(number, scenes.document, PackedScene.document)

    def source(self, number: int) -> Path | PackedScene:
        """Its folder, or its place in a tar; what is behind a URL is fetched, and may go again when others are."""
        return self._use(number, _as_it_is, _as_it_is)

    def name(self, number: int) -> str:
        """What a file that is made of the scene may be called."""
        return self._use(number, lambda folder: folder.name, lambda packed: packed.name)

    def where(self, number: int) -> str:
        """Where it is: no two share it. What is behind a URL is not fetched for that."""
        part, place = self._find(number)
        if isinstance(part, ShardSource) and part.remote is not None:
            return f"{part.where}:{part.numbers[place]}"
        return self._use(number, str, lambda packed: f"{packed.path}:{packed.key}")

    def identity(self, number: int) -> str:
        """Its id."""
        document = self.document(number)
        return document.text("id") or self._use(number, lambda f: f.resolve().name, lambda packed: packed.key)

    def only(self, numbers: Sequence[int]) -> SceneSources:
        """Those of them, in order."""
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
        """Refuse a shelf that would fetch the same tars again and again.

        It has to hold two windows of `window` tars: those in use, and those to come.
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
        """Begin to fetch what scene `number` will need, beside other work; a failure is told when it is needed."""
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
                continue  # another process made room at this very moment: fetch it again

    def _headers(self, tar: ShardSource, path: Path) -> list[PackedScene]:
        """The scenes of a tar whose file is here; those of the tars used last are remembered."""
        found = self._opened.pop(tar.where, None) or tar.headers(path)
        self._opened[tar.where] = found
        while len(self._opened) > OPENED:
            self._opened.popitem(last=False)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "ends": self.ends}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


def _as_it_is(found: Path | PackedScene) -> Path | PackedScene:
    return found


def _fetch_silently(remote: shard_cache.RemoteShards, shard: Shard) -> None:
    try:
        remote.fetch(shard, wait=False)
    except (OSError, ValueError):
        return  # who needs the tar will meet the same fault, and tell of it


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
        raise ValueError(f"{path} {fault}, but {INDEX} tells of {shard.bytes} bytes; copy or pack it again")
    return ShardSource(str(path), range(shard.scenes), shard)
