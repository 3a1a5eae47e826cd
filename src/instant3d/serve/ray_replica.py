"""A replica of the Ray Serve deployment of `instant3d serve --ray`: a worker process, and its line to the server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from instant3d.serve.worker_process import WorkerEnded, WorkerProcess

PAUSE_SECONDS = 1.0  # after the server could not be reached


class ServerLink:
    """Passes cancelled jobs from the server to all replicas: an actor that ends with the server."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.changed = asyncio.Condition()

    async def cancel(self, name: str) -> None:
        """Cancel a job."""
        async with self.changed:
            self.cancelled.append(name)
            self.changed.notify_all()

    async def cancelled_after(self, count: int) -> list[str]:
        """Wait until more than `count` jobs were cancelled; return those after them."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.cancelled) > count)
        return self.cancelled[count:]


class Replica:
    """One replica: a worker process, which runs a batch at a time.

    Args:
        app: Name of the application.
        link: The server's `ServerLink`.
        mark: File that holds the name where the folder of jobs is the server's.
        command: Of the worker process, without the Python that runs it.
        limits: `seconds` and `memory` of a `WorkerProcess`.
    """

    def __init__(self, app: str, link: Any, mark: Path, command: Sequence[str], limits: dict[str, Any]) -> None:
        self.app, self.link, self.mark = app, link, mark
        self.command, self.limits = command, limits

    async def reconfigure(self, options: dict[str, Any]) -> None:
        """Load the networks that a worker's options name; Ray Serve calls it before it sends batches."""
        self.worker = WorkerProcess((sys.executable, *self.command), options, **self.limits)
        self.follower = asyncio.create_task(self._follow())
        await self.load()

    async def load(self) -> dict[str, Any]:
        """Load the networks, unless they are; return what is `loaded`, or an `error`."""
        try:
            self._check_folder()
            await self.worker.start()
        except WorkerEnded as error:
            return {"error": str(error)}
        return {"loaded": self.worker.loaded}

    async def run(self, jobs: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Run a batch; yield its events, the last of which may be `ended`. Without a listener the work ends, too."""
        whole = False
        try:
            async for event in self.worker.run(jobs):
                yield event
            whole = True
        except WorkerEnded as error:
            yield {"event": "ended", "error": str(error)}
        finally:
            if not whole:
                await self.worker.end()

    def _check_folder(self) -> None:
        if not self.mark.is_file() or self.mark.read_text() != self.app:
            raise WorkerEnded(
                f"the folder of jobs {self.mark.parent} is not the same on all machines of the cluster; "
                "name one on a disk that they share by --data"
            )

    async def _follow(self) -> None:
        """Pass cancellations on until the server ends; then end its application."""
        from ray import serve
        from ray.exceptions import ActorUnavailableError, RayError

        count = 0
        while True:
            try:
                for name in await self.link.cancelled_after.remote(count):
                    count += 1
                    await self.worker.cancel(name)
            except ActorUnavailableError:  # for the moment
                await asyncio.sleep(PAUSE_SECONDS)
            except RayError:
                break
        await self.worker.end()
        await asyncio.to_thread(serve.delete, self.app)
