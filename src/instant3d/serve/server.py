"""The HTTP server: an open socket, the application, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from instant3d.serve.ray_config import RayConfig
from instant3d.serve.ray_workers import ray_workers
from instant3d.serve.settings import ServeSettings
from instant3d.serve.worker_process import BatchWorker, WorkerEnded, local_workers
from instant3d.utils.errors import print_escaped

BODY_SECONDS = 15  # that a kept-open connection may be silent
GRACE_SECONDS = 3  # for requests that run when the server ends
LOCK = "server.lock"


def serve(settings: ServeSettings, ray: RayConfig | None = None) -> int:
    """Serve until a signal ends it.

    Args:
        settings: Of the server.
        ray: Of the replicas on a Ray cluster; None: batches run in processes of this machine.

    Raises:
        ValueError: Another server uses the folder of jobs, or no Ray cluster answers.
        OSError: The address cannot be listened on, or the folder cannot be written.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    with _only_server(settings.data), _listening(settings) as listener, _workers(settings, ray) as workers:
        asyncio.run(_run(settings, listener, workers))
    return 0


async def _run(settings: ServeSettings, listener: socket.socket, workers: Sequence[BatchWorker] | None) -> None:
    """Serve on a socket; local workers load their networks while the application is still being imported."""
    if workers is None:
        workers = local = local_workers(settings)
        for worker in local:
            with contextlib.suppress(WorkerEnded):  # the scheduler starts it again, and reports why it ended
                await worker.launch()
    import uvicorn

    from instant3d.serve.app import create_app

    config = uvicorn.Config(
        create_app(settings, workers),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=BODY_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=1000,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    print_escaped(f"instant3d: http://{_shown(listener)} (jobs in {settings.data}); Ctrl+C ends it", sys.stderr)
    await uvicorn.Server(config).serve(sockets=[listener])


def _workers(settings: ServeSettings, ray: RayConfig | None) -> AbstractContextManager[Sequence[BatchWorker] | None]:
    return nullcontext() if ray is None else ray_workers(settings, ray)


@contextmanager
def _only_server(data: Path) -> Iterator[None]:
    """Hold the folder's lock, which ends with the process: two servers would do every job twice."""
    descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another server uses {data}; name another folder by --data") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _listening(settings: ServeSettings) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); use another --port or --host"
        ) from error
    with listener:
        listener.listen(128)
        yield listener


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
