"""The scheduler: hands queued jobs to worker processes in their order, and follows them until they end."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from instant3d.serve.schemas import ENDED
from instant3d.serve.settings import ServeSettings
from instant3d.serve.store import ID, JobStore, StoredJob, new_id
from instant3d.serve.worker_process import BatchWorker, WorkerEnded, local_workers
from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

MOST_ATTEMPTS = 2  # of a job whose worker ends unexpectedly
SECONDS_TO_CANCEL = 10.0  # until a worker that does not stop a job is killed
LOOK_SECONDS = 5.0  # between two looks at a job without news
PAUSE_SECONDS = 5.0  # after a worker could not load its networks


class QueueFull(Exception):
    """No more jobs may wait."""


class Scheduler:
    """The queue, its workers and all who wait for news of a job.

    Args:
        settings: Of the server.
        store: The jobs.
        workers: Where batches run; None: in processes of this machine.
    """

    def __init__(self, settings: ServeSettings, store: JobStore, workers: Sequence[BatchWorker] | None = None) -> None:
        self.settings, self.store = settings, store
        self.workers = workers or local_workers(settings)
        self.progress: dict[str, dict[str, Any]] = {}
        self.fault: str | None = None  # why the networks could not be loaded
        self._running: dict[str, BatchWorker] = {}
        self._cancelled: set[str] = set()
        self._changed = asyncio.Condition()
        self._version = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Queue again what a killed server was doing, and start the workers."""
        self.folder_of("").mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(self.folder_of(""))
        self._remove_orphans()
        self.store.requeue()
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self.workers]

    async def stop(self) -> None:
        """End the workers; their jobs stay queued."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self.workers))
        self.store.requeue()

    def folder_of(self, name: str) -> Path:
        """Return the folder of a job's results."""
        return self.settings.data / "jobs" / name

    def upload_of(self, name: str) -> Path:
        """Return the folder of a job's images."""
        return self.settings.data / "uploads" / name

    def check_room(self) -> None:
        """Raise if no more jobs may wait.

        Raises:
            QueueFull: There is no room.
        """
        if self.store.count("queued") >= self.settings.queue_limit:
            raise QueueFull("the queue is full; try again later")

    async def submit(
        self, kind: str, prompt: str | None, options: dict[str, Any], name: str | None = None
    ) -> StoredJob:
        """Append a job to the queue.

        Args:
            kind: "text" or "images".
            prompt: The prompt, if any.
            options: Of the asset, as JSON values.
            name: Its id; by default a new random one.

        Raises:
            QueueFull: There is no room.
        """
        self.check_room()
        job = self.store.add(kind, prompt, options, name)
        if self.settings.log_prompts and prompt is not None:
            print_escaped(f"instant3d: job {job.id}: {prompt}", sys.stderr)
        await self._notify()
        return job

    async def submit_images(self, options: dict[str, Any], store: Callable[[Path], None]) -> StoredJob:
        """Append a job of images to the queue.

        Args:
            options: Of the asset.
            store: Writes the images into the folder that it is given; runs in a thread.

        Raises:
            QueueFull: There is no room.
            ValueError: What `store` raises; no file is left.
        """
        self.check_room()
        name = new_id()
        try:
            await asyncio.to_thread(store, self.upload_of(name))
            return await self.submit("images", None, options, name)
        except BaseException:  # also if the client is gone
            self._remove_files(name)
            raise

    async def cancel(self, name: str) -> None:
        """Cancel a queued or running job; a finished one is deleted with its files."""
        job = self.store.get(name)
        if job.state == "queued":
            self.store.cancel(name)
        elif job.state == "running":
            self._cancelled.add(name)
            self.store.cancel(name)
            worker = self._running.get(name)
            if worker is not None:
                await worker.cancel(name)
                self._tasks.append(asyncio.create_task(self._kill_later(name, worker)))
        else:
            self.store.delete(name)
            self._remove_files(name)
        await self._notify()

    async def changes(self, seconds: float) -> AsyncIterator[bool]:
        """Yield at each change of any job, or False after that many seconds without one."""
        version = self._version
        while True:
            try:
                async with asyncio.timeout(seconds), self._changed:
                    await self._changed.wait_for(lambda: self._version != version)  # noqa: B023 version is reassigned
                version = self._version
                yield True
            except TimeoutError:
                yield False

    async def until_ended(self, name: str) -> StoredJob | None:
        """Wait until a job has ended; None if it was deleted."""
        changes = self.changes(LOOK_SECONDS)
        while True:
            try:
                job = self.store.get(name)
            except KeyError:
                return None
            if job.state in ENDED:
                return job
            await anext(changes)

    async def _notify(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def _serve(self, worker: BatchWorker) -> None:
        """Give one worker batch after batch."""
        await self._load(worker)
        while True:
            batch = self._next_batch()
            if not batch:
                await anext(self.changes(1.0))
                continue
            self.store.start(job.id for job in batch)
            self._running.update({job.id: worker for job in batch})
            await self._notify()
            try:
                await self._follow(worker, batch)
                self._requeue(batch, "the worker left the job unfinished")
            except WorkerEnded as error:
                self._requeue(batch, str(error))
                await self._load(worker)
            finally:
                for job in batch:
                    self._running.pop(job.id, None)
                    self.progress.pop(job.id, None)
                    self._forget(job.id)
                await self._notify()

    async def _load(self, worker: BatchWorker) -> None:
        while True:
            try:
                await worker.start()
                self.fault = None
                await self._notify()
                return
            except WorkerEnded as error:
                self.fault = str(error)
                await self._notify()
                await asyncio.sleep(PAUSE_SECONDS)

    def _next_batch(self) -> list[StoredJob]:
        """The next job, with waiting text jobs of the same options, which are denoised together.

        A job whose worker ended runs alone, so that it cannot take others with it again.
        """
        waiting = self.store.waiting()
        if not waiting or not _may_share(waiting[0]):
            return waiting[:1]
        alike = [job for job in waiting if _may_share(job) and _shared(job) == _shared(waiting[0])]
        return alike[: self.settings.batch]

    async def _follow(self, worker: BatchWorker, batch: list[StoredJob]) -> None:
        """Take a worker's events until the batch has ended."""
        async for event in worker.run([self._message(job) for job in batch]):
            name = event["id"]
            if event["event"] == "progress":
                self.progress[name] = {part: event[part] for part in ("part", "done", "total")}
            elif event["event"] == "done":
                self.store.finish(name, event["result"])
            else:
                self.store.fail(name, event["error"])
            await self._notify()

    def _message(self, job: StoredJob) -> dict[str, Any]:
        fields = {"id": job.id, "prompt": job.prompt, "options": job.options, "folder": str(self.folder_of(job.id))}
        if job.kind == "images":
            fields["source"] = str(next(self.upload_of(job.id).iterdir()))
        return fields

    def _requeue(self, batch: list[StoredJob], reason: str) -> None:
        """Queue again the jobs that are still marked as running, but each only once."""
        for job in batch:
            if job.attempts + 1 >= MOST_ATTEMPTS:
                self.store.fail(job.id, reason)
        self.store.requeue(job.id for job in batch)

    async def _kill_later(self, name: str, worker: BatchWorker) -> None:
        await asyncio.sleep(SECONDS_TO_CANCEL)
        if self._running.get(name) is worker and name in self._cancelled:
            await worker.end()

    def _remove_orphans(self) -> None:
        """Remove uploads whose jobs a killed server had not begun to queue."""
        for folder in self.upload_of("").glob("*"):
            if ID.fullmatch(folder.name) and not self.store.has(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _forget(self, name: str) -> None:
        """Remove the files of a job that was cancelled while it ran."""
        if name in self._cancelled:
            self._cancelled.discard(name)
            self._remove_files(name)

    def _remove_files(self, name: str) -> None:
        for folder in (self.folder_of(name), self.upload_of(name)):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)


def _may_share(job: StoredJob) -> bool:
    return job.kind == "text" and job.attempts == 0


def _shared(job: StoredJob) -> dict[str, Any]:
    """The options in which the jobs of a batch are equal."""
    return {name: value for name, value in job.options.items() if name != "seed"}
