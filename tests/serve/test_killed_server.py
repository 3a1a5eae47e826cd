"""Servers that are ended by SIGKILL and started again, as whole processes."""

import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from server_process import running, started

from data_prep.execution import process_limits

pytestmark = pytest.mark.slow


def submit(url: str, *prompts: str) -> list[str]:
    return [httpx.post(f"{url}/api/v1/jobs", json={"prompt": prompt}).json()["id"] for prompt in prompts]


def states(url: str) -> Counter[str]:
    return Counter(job["state"] for job in httpx.get(f"{url}/api/v1/jobs", params={"limit": 200}).json()["jobs"])


def until_done(url: str, count: int, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while states(url)["done"] < count:
        assert time.monotonic() < end, states(url)
        time.sleep(0.05)


def made(data: Path) -> list[str]:
    return (data / "jobs" / "made.log").read_text().split()


def test_killed_server_goes_on_in_order_and_loses_no_job(tmp_path):
    first = started(tmp_path)
    names = submit(first.url, *(f"number {k}" for k in range(8)), "slow", *(f"number {k}" for k in range(9, 16)))
    until_done(first.url, 4)
    first.kill()
    second = started(tmp_path)
    until_done(second.url, 8)
    second.kill()  # while the slow one runs, or before
    with running(tmp_path) as third:
        until_done(third.url, len(names))
        jobs = httpx.get(f"{third.url}/api/v1/jobs").json()["jobs"]
        assert [job["id"] for job in jobs] == names[::-1]
        assert {job["result"]["prompt"] for job in jobs} == {f"number {k}" for k in range(16) if k != 8} | {"slow"}
    assert list(dict.fromkeys(made(tmp_path))) == names
    assert set(states_of_files(tmp_path)) == set(names)


def states_of_files(data: Path) -> list[str]:
    return [path.parent.name for path in (data / "jobs").glob("*/result.json")]


def test_killed_server_takes_its_workers_with_it(tmp_path):
    server = started(tmp_path)
    submit(server.url, "slow")
    while not states(server.url)["running"]:
        time.sleep(0.02)
    workers = process_limits.family(server.process.pid)[1:]
    assert workers
    server.kill()
    end = time.monotonic() + 5
    while any(map(process_limits.resident_bytes, workers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(process_limits.resident_bytes, workers))
    assert not (tmp_path / "jobs" / "made.log").exists()


def test_second_server_on_the_same_folder_is_refused(tmp_path):
    with running(tmp_path), pytest.raises(ChildProcessError, match="another server uses"):
        started(tmp_path)


def test_client_that_drops_its_connection_holds_no_worker(tmp_path):
    with running(tmp_path) as server:
        (slow,) = submit(server.url, "slow")
        for _ in range(3):
            with httpx.stream("GET", f"{server.url}/api/v1/jobs/{slow}/events") as events:
                assert next(events.iter_lines()) == "id: 1"  # and away
        httpx.delete(f"{server.url}/api/v1/jobs/{slow}")
        submit(server.url, "a hat")
        until_done(server.url, 1, seconds=10)
