"""How long does a client of the server wait, and what is lost when it is killed? `python -m benchmarks.serve`.

Starts a server on a free port of this machine and gives it text jobs: 8 that wait at once, denoised one by one and four
together; from 1, 4 and 16 clients at a time, each of which waits for its job before it sends the next; and then 200 at
once while the server is killed twice with SIGKILL and started again. By default the weights are toys, so that what is
measured is the server and not the networks. What denoising together saves: `--demo-weights --clients --count 0`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.killed_runs import Rewrites
from benchmarks.load_test import SEAL
from benchmarks.server_process import ENDED, ServerProcess, server_command

TOYS = {"steps": 1, "resolution": 16, "texture": 64}  # options of jobs for weights that mean nothing
DEMO = {"steps": 10}
POLL_SECONDS = 0.05
PAGE = 200  # jobs that a request lists at most
# the worker, but with images of a few pixels, which would take nearly all of the time of toys
SMALL_WORKER = """
import sys
from instant3d.pipelines import results
from instant3d.serve.worker import main
results.SMALLEST = results.LARGEST = 16
results.FRAMES = 4
sys.exit(main())
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if nothing was lost, made twice or failed."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        fields, request = _settings(Path(folder), options)
        report: dict[str, Any] = {
            f"batch {batch}": _load(Path(folder) / f"batch{batch}", fields | {"batch": batch}, request, options)
            for batch in options.batch
        }
        if options.count:
            report["kills"] = _kills(Path(folder) / "kills", fields, request, options)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report.get("kills", {}).get("as it should be", True) else 1


def _load(data: Path, fields: dict[str, Any], request: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What is measured of a server after a first job that is not counted: waiting jobs, then each number of clients."""
    with _running(data, fields) as server:
        server.wait_for(server.submit("warm up", **request))
        waiting = {f"{options.waiting} waiting": _waiting(server, options.waiting, request)} if options.waiting else {}
        return waiting | {
            f"{clients} clients": _measure(server, clients, request, options.each) for clients in options.clients
        }


def _waiting(server: ServerProcess, count: int, request: dict[str, Any]) -> dict[str, float]:
    """Seconds an asset of jobs that all wait behind another one, and how many of them are denoising."""
    first = server.submit("ahead of all", **request)
    names = [server.submit(f"thing {number} that waits", **request) for number in range(count)]
    start = _time(server.wait_for(first))
    jobs = [server.wait_for(name) for name in names]
    if failed := [job["error"] for job in jobs if job["state"] != "done"]:
        raise ValueError(f"a job failed: {failed[0]}")
    whole = max(map(_time, jobs)) - start
    denoising = sum(job["result"]["seconds"]["denoise"] for job in jobs)
    return {"s an asset": round(whole / count, 2), "denoising s an asset": round(denoising / count, 2)}


def _time(job: dict[str, Any]) -> float:
    """When a job ended, in seconds."""
    return datetime.fromisoformat(job["finished"]).timestamp()


def _measure(server: ServerProcess, clients: int, request: dict[str, Any], each: int) -> dict[str, float]:
    """Let every client make that many assets, one after another; the seconds that each asset took."""

    def work(client: int) -> list[float]:
        seconds = []
        for number in range(each):
            start = time.perf_counter()
            job = server.wait_for(server.submit(f"thing {number} of client {client}", **request))
            if job["state"] != "done":
                raise ValueError(f"a job ended as {job['state']}: {job['error']}")
            seconds.append(time.perf_counter() - start)
        return seconds

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        taken = np.concatenate(list(pool.map(work, range(clients))))
    whole = time.perf_counter() - start
    p50, p95 = (round(float(np.quantile(taken, share)), 3) for share in (0.5, 0.95))
    return {"assets": len(taken), "p50 s": p50, "p95 s": p95, "assets a minute": round(60 * len(taken) / whole, 1)}


def _kills(data: Path, fields: dict[str, Any], request: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Queue all jobs, kill the server after equal shares of them, and compare what is there with what should be."""
    results, seconds, names = Rewrites(data / "jobs", SEAL), [], list[str]()
    for leg in range(options.kills + 1):
        start = time.monotonic()
        with _running(data, fields, killed=leg < options.kills) as server:
            names = names or [server.submit(f"thing number {k}", **request) for k in range(options.count)]
            share = options.count * (leg + 1) // (options.kills + 1)
            while sum(job["state"] in ENDED for job in server.jobs()) < share:
                time.sleep(POLL_SECONDS)
            jobs = server.jobs()
        results.after_a_run()
        seconds.append(round(time.monotonic() - start, 1))
    facts = {
        "jobs": len(names),
        "states": dict(Counter(job["state"] for job in jobs)),
        "results": len(results.before),
        "lost": sorted(set(names) - set(results.before)),
        "made twice": results.count + len(jobs) - len({job["id"] for job in jobs}),
        "out of order": [job["id"] for job in jobs[::-1]] != names,
        "left behind": sorted(path.name for path in (data / "jobs").rglob(".*")),
        "seconds of legs": seconds,
    }
    sound = facts["states"] == {"done": options.count} and len(results.before) == options.count
    wrong = facts["lost"] or facts["made twice"] or facts["out of order"] or facts["left behind"]
    return facts | {"as it should be": bool(sound and not wrong)}


@contextmanager
def _running(data: Path, fields: dict[str, Any], killed: bool = False) -> Iterator[ServerProcess]:
    server = ServerProcess(server_command(data, **fields), data / "server.log")
    try:
        server.wait_for_workers()
        yield server
    finally:
        server.kill() if killed else server.end()


def _settings(work: Path, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the server and the options of the jobs, for toys or for the bundled weights."""
    machine = [("system", "two-stage"), ("device", "cpu")]
    if options.demo_weights:
        return {"weights": machine, "worker": [sys.executable, "-m", "instant3d.serve.worker"]}, DEMO
    from benchmarks.load_test import toys

    stage1, stage2 = toys(work)
    weights = [*machine, ("stage1", str(stage1)), ("stage2", str(stage2))]
    return {"weights": weights, "worker": [sys.executable, "-c", SMALL_WORKER]}, TOYS


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 4, 16], help="at a time (default 1 4 16)")
    parser.add_argument("--each", type=int, default=3, help="assets of each client (default 3)")
    parser.add_argument("--waiting", type=int, default=8, help="jobs that wait at once (default 8; 0: none)")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4], help="prompts denoised together (default 1 4)")
    parser.add_argument("--count", type=int, default=200, help=f"jobs to be killed, at most {PAGE} (default {PAGE})")
    parser.add_argument("--kills", type=int, default=2, help="so often (default 2)")
    parser.add_argument("--demo-weights", action="store_true", help="the bundled weights instead of toys, ten steps")
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
