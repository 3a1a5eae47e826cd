"""Objaverse and Objaverse-XL through the `objaverse` package; the only module that imports it.

The package determines the URLs and the layout on disk. This module adds what a long run needs: a choice of cache
folder, a mirror (`HF_ENDPOINT`), timeouts, repeated downloads of incomplete files, and errors with a remedy:
FileNotFoundError for objects that no longer exist, ConnectionError if a retry may help, ValueError for a broken file.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.client
import io
import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

HUB = "https://huggingface.co"
LAYOUT = "hf-objaverse-v1"  # the package's folder for Objaverse 1.0 in a cache
UID = re.compile(r"[0-9a-f]{32}")
OBJECT_PATH = re.compile(r"glbs/[0-9]{3}-[0-9]{3}/[0-9a-f]{32}\.glb")
XL_SOURCES = ("sketchfab", "github", "smithsonian")  # its fourth, Thingiverse, holds STL files only: no colours in them
GONE = (401, 403, 404, 410)  # answers that another try will not change
SILENCE_S = 60.0  # on a connection, after which it counts as lost

Result = TypeVar("Result")


class ObjaverseStore:
    """The package with one cache folder; made by `open_store`."""

    def __init__(self, package: Any, cache: Path) -> None:
        self._package, self.cache = package, cache

    def paths(self) -> dict[str, str]:
        """Paths of the objects of Objaverse 1.0 below the cache's LAYOUT, by uid."""
        return self._read(f"{LAYOUT}/object-paths.json.gz", self._package._load_object_paths)

    def lvis(self) -> dict[str, list[str]]:
        """The uids of each LVIS category."""
        return self._read(f"{LAYOUT}/lvis-annotations.json.gz", self._package.load_lvis_annotations)

    def annotations(self, shard: str, uids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Sketchfab's metadata of objects in one shard, such as `000-023`, by uid."""
        return self._read(f"{LAYOUT}/metadata/{shard}.json.gz", lambda: self._package.load_annotations(list(uids)))

    def fetch(self, uid: str) -> Path:
        """The file of an object of Objaverse 1.0, downloaded unless a complete one is in the cache."""
        path = self.path(uid)
        if path.is_file() and not download_error(path):
            return path
        path.unlink(missing_ok=True)
        try:
            _summarized_errors(f"object {uid}", lambda: self._package.load_objects([uid]))
        finally:
            path.with_name(path.name + ".tmp").unlink(missing_ok=True)
        refuse_faulty(path)
        return path

    def path(self, uid: str) -> Path:
        """Path at which the package keeps an object of Objaverse 1.0, whether it is there or not."""
        below = self.paths().get(uid)
        if below is None:
            raise FileNotFoundError(f"Objaverse lists no object {uid}; is it an object of another version?")
        if not OBJECT_PATH.fullmatch(below):
            raise ValueError(f"Objaverse's list of paths names {below!r}; expected such as glbs/000-023/{uid}.glb")
        return self.cache / LAYOUT / below

    def xl_annotations(self, source: str) -> Any:
        """Objaverse-XL's table of a source: a data frame of fileIdentifier, license, fileType, sha256, metadata."""
        downloader = _imported("objaverse.xl").downloaders[source]
        return self._read(
            f"{source}/{source}.parquet", lambda: downloader.get_annotations(download_dir=str(self.cache))
        )

    def xl_fetch(self, source: str, expected: Mapping[str, str], processes: int) -> None:
        """Download files by their identifiers, whole repositories for `github`; they then lie at `xl_path`.

        One of them may make the package fail for all others: then call it again with fewer.

        Args:
            source: Source of Objaverse-XL.
            expected: SHA-256 by identifier.
            processes: Number of parallel downloads.
        """
        import pandas

        columns = {"fileIdentifier": list(expected), "sha256": list(expected.values()), "source": source}

        def work() -> None:
            with contextlib.redirect_stderr(io.StringIO()):  # its bars; the caller reports progress
                _imported("objaverse.xl").download_objects(
                    pandas.DataFrame(columns),
                    download_dir=str(self.cache),
                    processes=processes,
                    save_repo_format="files",
                )

        _summarized_errors(f"{len(expected)} objects of Objaverse-XL", work)

    def xl_path(self, source: str, identifier: str) -> Path:
        """Path at which the package keeps a file of GitHub or of the Smithsonian, whether it is there or not."""
        if source == "smithsonian":
            name = _imported("objaverse.utils").get_uid_from_str(identifier)
            return self.cache / source / "objects" / f"{name}.glb"
        return self.xl_repository(identifier) / "/".join(identifier.split("/")[7:])

    def xl_repository(self, identifier: str) -> Path:
        """Path at which the package keeps the repository of a file of GitHub."""
        parts = identifier.split("/")
        if len(parts) < 8 or {"", ".", ".."} & set(parts[3:]) or "\0" in identifier:
            raise ValueError(
                f"Objaverse-XL names {identifier!r}; expected https://github.com/NAME/NAME/blob/COMMIT/FILE"
            )
        return self.cache / "github" / "repos" / parts[3] / parts[4]

    def _read(self, name: str, read: Callable[[], Result]) -> Result:
        """Content of a file of the data set, read by the package; a half-written one is fetched again."""
        file = self.cache / name
        for tries_left in (1, 0):
            was_there = file.is_file()
            try:
                return _summarized_errors(f"{name} of Objaverse", read)
            except ConnectionError:
                if not was_there:  # the package writes such files in place
                    file.unlink(missing_ok=True)
                raise
            except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
                file.unlink(missing_ok=True)
                if not tries_left:
                    raise ValueError(f"{name} of Objaverse cannot be read, even when fetched anew: {error}") from error
        raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def open_store(cache: Path) -> Iterator[ObjaverseStore]:
    """The package, working in a cache folder of its own layout (its default is ~/.objaverse) for as long as this lasts.

    Standard output is silent meanwhile: the package prints a line for every object.
    """
    package, cache = _imported("objaverse"), cache.expanduser().resolve()
    if not (hasattr(package, "_VERSIONED_PATH") and hasattr(package, "_load_object_paths")):
        raise ValueError(f"objaverse {package.__version__} is not known here; `pip install 'objaverse>=0.1.7,<0.2'`")
    quick = functools.cache(package._load_object_paths)  # or 20 MB are parsed again for every object
    with contextlib.ExitStack() as stack:
        stack.enter_context(_swapped(package, "BASE_PATH", str(cache)))
        stack.enter_context(_swapped(package, "_VERSIONED_PATH", str(cache / LAYOUT)))
        stack.enter_context(_swapped(package, "_load_object_paths", quick))
        stack.enter_context(_swapped(package, "glob", _NothingListed))
        stack.enter_context(_mirrored(os.environ.get("HF_ENDPOINT", HUB).rstrip("/")))
        stack.enter_context(_without_prompts())
        stack.enter_context(contextlib.redirect_stdout(io.TextIOWrapper(open(os.devnull, "wb"))))  # noqa: SIM115
        yield ObjaverseStore(package, cache)


def download_error(path: Path) -> str | None:
    """Fault of a GLB file as a download (cut short, a page of HTML), or None; other formats are not checked."""
    if path.suffix.lower() != ".glb":
        return None
    with path.open("rb") as file:
        header = file.read(12)
    size = path.stat().st_size
    if header[:4] != b"glTF" or len(header) < 12:
        return f"is no GLB file: it begins with {header[:4]!r}"
    claimed = int.from_bytes(header[8:], "little")
    return f"is cut short: {size} of {claimed} bytes" if size < claimed else None


def is_whole(repository: Path) -> bool:
    """Whether the package copied all of a repository to the cache: every file that its list of hashes names."""
    notes = repository / ".objaverse-file-hashes.json"
    try:
        named = [note["fileIdentifier"].split("/")[7:] for note in json.loads(notes.read_text())]
    except (FileNotFoundError, ValueError):
        return False
    return all((repository / "/".join(parts)).is_file() for parts in named)


def refuse_faulty(path: Path) -> None:
    """Remove a download that is not whole, and raise an error."""
    reason = download_error(path)
    if reason:
        path.unlink()
        raise ValueError(f"what was downloaded as {path.name} {reason}")


class _NothingListed:
    """In place of `glob` in the package, which lists the whole cache twice for every object, to print a number."""

    @staticmethod
    def glob(*_: str) -> list[str]:
        return []


def _imported(name: str) -> Any:
    try:
        import objaverse
        import objaverse.utils
        import objaverse.xl
    except ImportError as error:
        raise ValueError(f"the package `objaverse` is needed ({error}); `pip install 'instant3d[data]'`") from error
    from loguru import logger

    logger.disable("objaverse")
    return {"objaverse": objaverse, "objaverse.xl": objaverse.xl, "objaverse.utils": objaverse.utils}[name]


def _summarized_errors(what: str, work: Callable[[], Result]) -> Result:
    """Run `work`, and convert the errors of three libraries to one: ConnectionError if another try may help."""
    import requests

    try:
        return work()
    except (urllib.error.HTTPError, requests.HTTPError) as error:
        code = error.code if isinstance(error, urllib.error.HTTPError) else getattr(error.response, "status_code", 0)
        answer = f"{what} is answered with HTTP {code}"
        raise (FileNotFoundError(answer) if code in GONE else ConnectionError(answer)) from None
    except urllib.error.ContentTooShortError:
        raise ConnectionError(f"{what}: the connection ended before the file") from None
    except (urllib.error.URLError, requests.RequestException, TimeoutError, http.client.HTTPException) as error:
        reason: BaseException = error
        while reason.__context__ is not None:  # `requests` and `urllib` wrap what happened several times
            reason = reason.__context__
        raise ConnectionError(
            f"{what} cannot be fetched ({reason}); connect to the network, name a cache that holds it, or a mirror of "
            f"{HUB} as HF_ENDPOINT"
        ) from None
    except subprocess.SubprocessError as error:
        raise ConnectionError(f"{what}: {error}") from None


@contextlib.contextmanager
def _swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _mirrored(endpoint: str) -> Iterator[None]:
    """Addresses of the Hub, which the package has in its code, lead to `endpoint`; silent connections end."""
    import requests

    class Mirror(urllib.request.BaseHandler):
        handler_order = 100  # before the handler that opens connections

        def https_open(self, request: urllib.request.Request) -> Any:
            if endpoint == HUB or not request.full_url.startswith(HUB + "/"):
                return None
            return self.parent.open(endpoint + request.full_url.removeprefix(HUB), timeout=SILENCE_S)

    def get(url: str, **options: Any) -> requests.Response:
        url = endpoint + url.removeprefix(HUB) if url.startswith(HUB + "/") else url
        return requests.request("get", url, **{"timeout": SILENCE_S, **options})

    opener, silence = getattr(urllib.request, "_opener", None), socket.getdefaulttimeout()
    urllib.request.install_opener(urllib.request.build_opener(Mirror))
    socket.setdefaulttimeout(SILENCE_S)
    try:
        with _swapped(requests, "get", get):
            yield
    finally:
        socket.setdefaulttimeout(silence)
        urllib.request._opener = opener  # type: ignore[attr-defined]


@contextlib.contextmanager
def _without_prompts() -> Iterator[None]:
    """Make git fail, instead of prompting for a password, for a repository that no longer exists."""
    before = os.environ.get("GIT_TERMINAL_PROMPT")
    os.environ["GIT_TERMINAL_PROMPT"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["GIT_TERMINAL_PROMPT"]
        else:
            os.environ["GIT_TERMINAL_PROMPT"] = before
