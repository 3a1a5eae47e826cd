"""Download of scene tars from URLs, and their cache on this disk.

Any URL that fsspec reads is supported: https://, s3://, gs://, memory:// and so on. A tar is downloaded whole, in one
long read, which suits object stores; it is compared with the SHA-256 in the folder's `index.json`, and kept under that
hash until others need the space. All processes of a machine share the cache: each tar is downloaded once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from instant3d.scenes.pack import INDEX, MAX_INDEX_BYTES, Shard, parse_index

PAUSES = (1.0, 4.0, 16.0)  # seconds before each retry
STALE = 3600.0  # seconds after which a partial download counts as abandoned by a killed process
SILENCE = 60.0  # seconds without data after which a download fails
# The errors of fsspec's backends, which share no base class; a backend that was not imported raised none.
FOREIGN = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
    ("fsspec.exceptions", "FSTimeoutError"),
)


def is_url(root: str | Path) -> bool:
    """Whether `root` is a URL that is not on this disk."""
    return "://" in str(root) and urlsplit(str(root)).scheme != "file"


def local(root: str | Path) -> Path:
    """Return the path of a file:// URL or of a plain path."""
    return Path(url2pathname(urlsplit(str(root)).path)) if str(root).startswith("file://") else Path(root)


def default_folder() -> Path:
    """Return the default folder of the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "instant3d" / "shards"


@dataclass(frozen=True)
class ShardCache:
    """Cache of downloaded tars on this disk; the least recently used are evicted.

    Attributes:
        folder: The folder.
        limit: Largest total size in bytes.
    """

    folder: Path
    limit: int

    @classmethod
    def in_folder(cls, folder: str | Path | None = None, gib: float = 64.0) -> ShardCache:
        """Create a cache of `gib` GiB in a folder, by default in the user's cache."""
        return cls(default_folder() if folder is None else Path(folder).expanduser(), int(gib * 2**30))

    def path(self, shard: Shard) -> Path:
        """Return the path of a tar; it is named by its hash, so that a repacked tar is another file."""
        return self.folder / f"{shard.sha256}.tar"

    def holds(self, shard: Shard) -> bool:
        """Whether a tar is cached; marks it as just used."""
        try:
            os.utime(self.path(shard))
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def new(self, shard: Shard, wait: bool) -> Iterator[Path | None]:
        """Yield a file to download a tar into; it is kept if the block ends without an error.

        Args:
            shard: The tar.
            wait: Whether to wait for another process that is downloading the same tar.

        Yields:
            The file; None if the tar is already here or is being downloaded.

        Raises:
            OSError: The disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{shard.sha256}.partial"
        try:
            with FileLock(self.folder / f".{shard.sha256}.lock", timeout=-1 if wait else 0):
                if self.holds(shard):
                    yield None
                    return
                try:
                    with FileLock(self.folder / ".room.lock"):
                        self._make_room(shard.bytes)
                        with partial.open("wb") as file:
                            file.truncate(shard.bytes)  # so that other processes count it when they evict
                    yield partial
                    os.replace(partial, self.path(shard))
                finally:
                    partial.unlink(missing_ok=True)
        except Timeout:
            yield None

    def _make_room(self, needed: int) -> None:
        """Evict the least recently used tars, and the remains of killed processes."""
        held = []
        for path in [*self.folder.glob("*.tar"), *self.folder.glob(".*.partial")]:
            try:
                held.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:  # it was completed or removed meanwhile
                continue
        total = sum(size for _, size, _ in held) + needed
        for used, size, path in sorted(held):
            if total > self.limit and (path.suffix == ".tar" or time.time() - used > STALE):
                path.unlink(missing_ok=True)
                total -= size
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            hint = "free some, or name another folder by --data.cache"
            raise OSError(f"{self.folder} has room for {free} bytes, but a tar needs {needed}; {hint}")


@dataclass(frozen=True)
class RemoteShards:
    """A folder of shards behind a URL, or one of its tars, with its cache.

    Attributes:
        url: URL of the folder or of one tar.
        cache: Where downloaded tars are kept.
    """

    url: str
    cache: ShardCache

    def shards(self) -> list[Shard]:
        """Return the shards that the folder's index lists.

        Raises:
            FileNotFoundError: There is no index, or it does not list the tar.
            OSError: The server cannot be reached.
            ValueError: The index is invalid.
        """
        url, only = self._parts()
        where = f"{url}/{INDEX}"
        with tempfile.TemporaryDirectory() as folder, _one_sentence(where):
            _get(where, Path(folder) / INDEX, MAX_INDEX_BYTES)
            data = (Path(folder) / INDEX).read_bytes()
        found = parse_index(data, where)
        if only is not None and only not in found:
            raise FileNotFoundError(f"{where} lists no {only}; name one of its tars, or their folder")
        return list(found.values()) if only is None else [found[only]]

    def where(self, shard: Shard) -> str:
        """Return the URL of a tar."""
        return f"{self._parts()[0]}/{shard.name}"

    def fetch(self, shard: Shard, wait: bool = True) -> Path:
        """Return the path of a tar on this disk, downloaded and verified if it is not cached.

        Args:
            shard: The tar.
            wait: Whether to wait for another process that is downloading it; if not, it may not exist yet.

        Raises:
            OSError: The server cannot be reached.
            ValueError: The file differs from the one that was packed.
        """
        if not self.cache.holds(shard):
            with self.cache.new(shard, wait) as place:
                if place is not None:
                    self._download(shard, place)
        return self.cache.path(shard)

    def _download(self, shard: Shard, place: Path) -> None:
        where = self.where(shard)
        with _one_sentence(where):
            for pause in (*PAUSES, None):
                try:
                    _get(where, place, shard.bytes)
                    break
                except FileNotFoundError:
                    raise
                except _failures():
                    if pause is None:
                        raise
                    time.sleep(pause)
        size = place.stat().st_size
        with place.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (size, digest) != (shard.bytes, shard.sha256):
            detail = f"{size} bytes, expected {shard.bytes}" if size != shard.bytes else "another SHA-256"
            raise ValueError(f"{where} is damaged or was packed anew ({detail}); copy it there and its {INDEX} again")

    def _parts(self) -> tuple[str, str | None]:
        """Return the URL of the folder, and the name of the only tar to use, if the URL names one."""
        url = self.url.rstrip("/")
        folder, _, name = url.rpartition("/")
        return (folder, name) if name.endswith(".tar") else (url, None)


def _get(url: str, place: Path, limit: int) -> None:
    """Copy a file to this disk; stops if it is larger than `limit` bytes."""
    import fsspec
    from fsspec.callbacks import Callback

    class Bound(Callback):
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if self.value > limit:
                raise ValueError(f"it is larger than {limit} bytes")

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options["client_kwargs"] = {"timeout": silence}  # its own limit of five minutes is for small files
    system, path = fsspec.core.url_to_fs(url, **options)
    system.get_file(path, str(place), callback=Bound())


def _failures() -> tuple[type[BaseException], ...]:
    """Return the error classes of fsspec's imported backends for failures outside this machine."""
    loaded = [getattr(sys.modules[module], name, OSError) for module, name in FOREIGN if module in sys.modules]
    return (OSError, TimeoutError, *loaded)


@contextmanager
def _one_sentence(where: str) -> Iterator[None]:
    """Convert errors of the backends to one-sentence messages."""
    try:
        yield
    except FileNotFoundError:
        hint = "name a folder of shards as `instant3d pack` writes them, and check the address and your access"
        raise FileNotFoundError(f"{where} does not exist; {hint}") from None
    except ImportError as error:
        raise ValueError(f"{where} cannot be read here ({_line(error)}); install the missing package") from None
    except _failures() as error:
        hint = "check the address, the network and your access"
        raise OSError(f"{where} cannot be reached ({_line(error)}); {hint}") from None
    except ValueError as error:
        raise ValueError(f"{where} cannot be read ({_line(error)}); check the address") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
