"""A server in a process of its own, which benchmarks and tests start, ask and kill."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120.0
POLL_SECONDS = 0.02
ENDED = ("done", "failed", "cancelled")
PROGRAM = """
import json, sys
from pathlib import Path
from instant3d.serve.server import serve
from instant3d.serve.settings import ServeSettings
fields = json.loads(sys.argv[1])
for name in {"weights", "worker"} & fields.keys():
    fields[name] = tuple(tuple(part) if isinstance(part, list) else part for part in fields[name])
sys.exit(serve(ServeSettings(Path(fields.pop("data")), port=0, **fields)))
"""


def server_command(data: Path, **settings: Any) -> list[str]:
    """Return a command that serves on a free port, with settings of `ServeSettings` that no shell option has."""
    return [sys.executable, "-c", PROGRAM, json.dumps({"data": str(data), **settings})]


class ServerProcess:
    """A server that runs, its address, and its end.

    Args:
        command: That starts it and prints its address.
        log: File for all that it prints.

    Raises:
        ChildProcessError: It does not start; the message holds its log.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        self.url = self._wait_for_url()
        self.client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=60)

    def _wait_for_url(self) -> str:
        until = time.monotonic() + START_SECONDS
        while not (found := re.search(r"http://[^\s/]+", self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise ChildProcessError(f"the server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(POLL_SECONDS)
        return found[0]

    def submit(self, prompt: str, **options: Any) -> str:
        """Queue a job; return its id."""
        return self.client.post("/jobs", json={"prompt": prompt, **options}).raise_for_status().json()["id"]

    def wait_for(self, name: str, seconds: float = 600.0) -> dict[str, Any]:
        """Return a job once it has ended.

        Raises:
            TimeoutError: It has not ended after that many seconds.
        """
        until = time.monotonic() + seconds
        while (job := self.client.get(f"/jobs/{name}").raise_for_status().json())["state"] not in ENDED:
            if time.monotonic() > until:
                raise TimeoutError(f"job {name} has not ended after {seconds:g} s")
            time.sleep(POLL_SECONDS)
        return job

    def jobs(self, limit: int = 200) -> list[dict[str, Any]]:
        """Return the newest jobs."""
        return self.client.get("/jobs", params={"limit": limit}).raise_for_status().json()["jobs"]

    def wait_for_workers(self) -> None:
        """Return when a worker has loaded its networks."""
        while self.client.get("/health").json()["ready"] == 0:
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End the server by SIGKILL, as a machine that fails does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """End the server if it still runs."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()
