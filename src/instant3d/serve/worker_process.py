"""The server's side of a worker process: its start, its events, its limits and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from instant3d.serve.settings import ServeSettings

LONGEST_EVENT = 2**22  # bytes of a line
EVERY_SECONDS = 0.5  # between two looks at the limits
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class WorkerEnded(Exception):
    """A worker process ended, or was ended for the reason in the message."""


class BatchWorker(Protocol):
    """What the scheduler gives batches to: a process on this machine, or a replica on a cluster.

    Attributes:
        loaded: What it has loaded: names of the `weights`, and the `steps` and `guidance` that they are sampled with.
        ready: Whether it has loaded them.
    """

    loaded: dict[str, Any]
    ready: bool

    async def start(self) -> None:
        """Load the networks, unless they are loaded."""

    def run(self, jobs: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Run a batch; yield its events."""

    async def cancel(self, name: str) -> None:
        """Stop a job at its next step."""

    async def end(self) -> None:
        """Stop at once whatever runs."""


class WorkerProcess:
    """A worker process, which is started at its first use and again after its end.

    Args:
        command: Of the process.
        options: Its first line of input.
        seconds: Longest time of a batch for each of its jobs.
        memory: Most resident memory, in bytes.
    """

    def __init__(self, command: Sequence[str], options: dict[str, Any], seconds: float, memory: int) -> None:
        self.command, self.options, self.seconds, self.memory = command, options, seconds, memory
        self.loaded: dict[str, Any] = {}
        self.ready = False
        self._process: asyncio.subprocess.Process | None = None

    async def launch(self) -> None:
        """Start the process, unless it runs, without waiting until its networks are loaded."""
        if self._runs():
            return
        self.ready = False
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_EVENT,
            start_new_session=True,  # an interrupt of the server is not one of the worker: its input ends instead
        )
        await self._send(self.options)

    async def start(self) -> None:
        """Start the process, unless it runs, and wait until its networks are loaded.

        Raises:
            WorkerEnded: It could not load them.
        """
        if self.ready and self._runs():
            return
        await self.launch()
        event = await self._event()
        if event.get("event") != "ready":
            await self.end()
            raise WorkerEnded(event.get("error", "the worker gave no sign of life"))
        self.loaded, self.ready = event.get("loaded", {}), True

    async def run(self, jobs: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Run a batch; yield its events but the last.

        Raises:
            WorkerEnded: The process ended, or passed a limit and was ended.
        """
        await self.start()
        await self._send({"jobs": list(jobs)})
        deadline = time.monotonic() + self.seconds * len(jobs)
        waiting = asyncio.ensure_future(self._event())
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=EVERY_SECONDS)
                await self._check_limits(deadline)
                if not done:
                    continue
                event = waiting.result()
                if event["event"] == "idle":
                    return
                yield event
                waiting = asyncio.ensure_future(self._event())
        finally:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, WorkerEnded):
                await waiting

    async def cancel(self, name: str) -> None:
        """Send the process a message to stop a job at its next step."""
        with contextlib.suppress(WorkerEnded):
            await self._send({"cancel": name})

    async def end(self) -> None:
        """Kill the process."""
        self.ready = False
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def _runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _check_limits(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            await self.end()
            raise WorkerEnded(f"it took longer than {self.seconds:g} s; use fewer steps or faces")
        if self._process is not None and resident_bytes(self._process.pid) > self.memory:
            await self.end()
            raise WorkerEnded(
                f"it needed more than {self.memory / 2**30:.3g} GiB; use fewer faces or a smaller texture"
            )

    async def _send(self, message: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise WorkerEnded("the worker is not running")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise WorkerEnded("the worker ended") from error

    async def _event(self) -> dict[str, Any]:
        if self._process is None or self._process.stdout is None:
            raise WorkerEnded("the worker is not running")
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            self.ready = False
            raise WorkerEnded(f"the worker ended {f'by signal {-code}' if code < 0 else f'with exit code {code}'}")
        return json.loads(line)


def local_workers(settings: ServeSettings) -> list[WorkerProcess]:
    """Return the workers of a server on this machine, none of which runs yet."""
    options = settings.worker_options()
    return [
        WorkerProcess(settings.worker, options, settings.job_seconds, settings.job_memory)
        for _ in range(settings.workers)
    ]


def resident_bytes(process: int) -> int:
    """Return the resident memory of a process; 0 on systems without /proc, or if the process has ended."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
