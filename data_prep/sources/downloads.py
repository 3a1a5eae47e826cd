"""Downloads of Objaverse's objects: in parallel, with retries, continuing after failures."""

from __future__ import annotations

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from instant3d.utils.progress import OnStep

from ..manifests.object_manifest import Row
from .manifest import Manifest, digest
from .objaverse import ObjaverseStore, download_error, is_whole, refuse_faulty

LOST_IN_A_ROW = 25  # objects that the network keeps from us, after which it counts as down
Failure = tuple[str, str]  # kind and reason


@dataclass(frozen=True)
class RetryPolicy:
    """Number of parallel downloads and of retries."""

    jobs: int = 8
    retries: int = 4
    wait_s: float = 1.0  # before the second try; twice as long before each further one


def fetch(
    manifest: Manifest, store: ObjaverseStore, rows: Sequence[Row], policy: RetryPolicy, on_step: OnStep
) -> dict[str, int]:
    """Download the objects that the manifest does not have, and add them to it.

    Args:
        manifest: The manifest to extend; objects that cannot be had are listed in it as left out.
        store: Objaverse's package and its cache.
        rows: Rows of the objects; those of Objaverse-XL have `expected`, their SHA-256.
        policy: Number of parallel downloads and of retries.
        on_step: Called with the progress.

    Returns:
        How many objects were new, existing, and left out by kind of failure.

    Raises:
        ConnectionError: `LOST_IN_A_ROW` objects in a row failed by the network.
    """
    missing = [row for row in rows if not manifest.has(row)]
    counts = {"new": 0, "there": len(rows) - len(missing)}
    single = [row for row in missing if row["source"] == "objaverse"]
    bulk = [row for row in missing if row["source"] != "objaverse"]
    lost = 0
    arrivals = itertools.chain(_one_by_one(store, single, policy), _by_groups(store, bulk, policy))
    for done, (row, got) in enumerate(arrivals):
        on_step(done, len(missing))
        kind = _taken(manifest, store, row, got)
        counts[kind] = counts.get(kind, 0) + 1
        lost = lost + 1 if kind == "network" else 0
        if lost == LOST_IN_A_ROW:
            last = got if isinstance(got, Path) else got[1]
            raise ConnectionError(f"{lost} objects in a row did not come ({last}); the same command goes on from here")
    return counts


def _taken(manifest: Manifest, store: ObjaverseStore, row: Row, got: Path | Failure) -> str:
    expected = row.get("expected")
    row = {name: value for name, value in row.items() if name != "expected"}
    if not isinstance(got, Path):
        manifest.leave_out(row, *got)
        return got[0]
    if not got.resolve().is_relative_to(store.cache):
        manifest.leave_out(row, "unsafe", f"{got} is a link that leads out of {store.cache}")
        return "unsafe"
    if expected and digest(got) != expected:
        manifest.leave_out(row, "changed", f"{got} is not the file that Objaverse-XL lists: its SHA-256 is another")
        return "changed"
    return "new" if manifest.add(row, manifest.bring_in(got, store.cache)) else "duplicate"


def _one_by_one(
    store: ObjaverseStore, rows: Sequence[Row], policy: RetryPolicy
) -> Iterator[tuple[Row, Path | Failure]]:
    """Objects of Objaverse 1.0, in order, some ahead of the one that is waited for."""
    waiting: deque[tuple[Row, Future[Path | Failure]]] = deque()
    pool = ThreadPoolExecutor(policy.jobs)
    try:
        for row in rows:
            waiting.append((row, pool.submit(with_retries, partial(store.fetch, row["uid"]), policy)))
            if len(waiting) >= 4 * policy.jobs:
                row, future = waiting.popleft()
                yield row, future.result()
        for row, future in waiting:
            yield row, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def with_retries(work: Callable[[], Path], policy: RetryPolicy) -> Path | Failure:
    """Run `work` with retries; returns its result or the last error. Missing objects are not retried."""
    failure = ("network", "no try was made")
    for attempt in range(1 + policy.retries):
        time.sleep(policy.wait_s * 2 ** (attempt - 1) if attempt else 0)
        try:
            return work()
        except FileNotFoundError as error:
            return "missing", str(error)
        except ConnectionError as error:
            failure = ("network", str(error))
        except ValueError as error:
            failure = ("broken", str(error))
    return failure


def _by_groups(store: ObjaverseStore, rows: Sequence[Row], policy: RetryPolicy) -> Iterator[tuple[Row, Path | Failure]]:
    """Objects of Objaverse-XL: several groups at once, and if the package stumbles over one of them, each alone."""
    groups = [list(group) for _, group in itertools.groupby(sorted(rows, key=_group), key=_group)]
    places = [_group(group[0])[:2] for group in groups]
    for number, group in enumerate(groups):  # the package keeps one commit of a repository
        if number and places[number] == places[number - 1]:
            yield from (
                (row, ("missing", "another commit of its repository is taken; only one can be")) for row in group
            )
    firsts = [group for number, group in enumerate(groups) if not number or places[number] != places[number - 1]]
    for start in range(0, len(firsts), policy.jobs):
        some = firsts[start : start + policy.jobs]
        once = RetryPolicy(retries=0)
        together = with_retries(partial(_come, store, list(itertools.chain(*some)), policy.jobs), once)
        for group in some:
            got = together
            if not isinstance(together, Path):
                got = with_retries(partial(_come, store, group, 1), policy)
            for row in group:
                yield row, _arrived(store, row, got)


def _group(row: Row) -> tuple[str, str, str]:
    """Key of what is downloaded together: a commit of a repository, or a file."""
    parts = row["uid"].split("/")  # https://github.com/ORGANISATION/REPOSITORY/blob/COMMIT/FILE
    if row["source"] == "objaverse-xl/github":
        return row["source"], "/".join(parts[3:5]), "/".join(parts[6:7])
    return row["source"], row["uid"], ""


def _come(store: ObjaverseStore, rows: Sequence[Row], processes: int) -> Path:
    """Have the package download what is not in the cache yet, and whole."""
    sources = {row["source"].removeprefix("objaverse-xl/") for row in rows}
    for source in sorted(sources):
        some = [row for row in rows if row["source"].endswith(source)]
        absent = [row for row in some if not _is_there(store, source, row["uid"])]
        if absent:
            store.xl_fetch(source, {row["uid"]: row["expected"] for row in absent}, processes)
        for row in absent:
            path = store.xl_path(source, row["uid"])
            if path.is_file() and source == "smithsonian":
                refuse_faulty(path)
    return store.cache


def _is_there(store: ObjaverseStore, source: str, identifier: str) -> bool:
    """Whether the cache holds a file; what a kill left of its repository is removed, or the package would keep it."""
    path = store.xl_path(source, identifier)
    if source == "github":
        repository = store.xl_repository(identifier)
        if repository.is_dir() and not is_whole(repository):
            shutil.rmtree(repository)
    elif path.is_file() and download_error(path):
        path.unlink()
    return path.is_file()


def _arrived(store: ObjaverseStore, row: Row, got: Path | Failure) -> Path | Failure:
    path = store.xl_path(row["source"].removeprefix("objaverse-xl/"), row["uid"])
    if path.is_file():
        return path
    return ("missing", f"{row['uid']} could not be had: gone or moved") if isinstance(got, Path) else got
