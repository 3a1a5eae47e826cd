"""Workers on a Ray cluster: replicas of a Ray Serve deployment, each with a worker process of its own.

The server, its jobs and their order stay in one process. Each of its `RayWorker`s follows one batch, which Ray Serve
gives to a free replica; the limits of its `WorkerProcess` are those of one on this machine. Results come by the folder
of jobs, which all machines share. The replicas end with the server, also with one that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from instant3d.serve.ray_config import RayConfig
from instant3d.serve.ray_replica import Replica, ServerLink
from instant3d.serve.settings import ServeSettings
from instant3d.serve.worker_process import WorkerEnded
from instant3d.utils.errors import print_escaped
from instant3d.utils.ray_pool import connected, seats

MARK = "ray-server"  # file in the folder of jobs with the name of the application: replicas must find the same


class RayDeployment:
    """The application on the cluster.

    Args:
        ray: The module.
        settings: Of the server.
        config: Of the replicas.
    """

    def __init__(self, ray: Any, settings: ServeSettings, config: RayConfig) -> None:
        self.settings, self.config = settings, config
        self.name = f"instant3d-{secrets.token_hex(8)}"
        self.loaded: dict[str, Any] = {}
        self.handle: Any = None
        self.link = ray.remote(num_cpus=0)(ServerLink).remote()
        self.application = self._application()
        self._lock = asyncio.Lock()

    async def load(self) -> dict[str, Any]:
        """Deploy the application, and wait until a replica has loaded its networks; return what it loaded.

        Raises:
            WorkerEnded: It could not load them.
        """
        async with self._lock:
            if not self.loaded:
                self.handle = self.handle or await asyncio.to_thread(self._deploy)
                answer = await self.handle.load.remote()
                if "error" in answer:
                    raise WorkerEnded(answer["error"])
                self.loaded = answer["loaded"]
        return self.loaded

    def delete(self) -> None:
        """End the replicas."""
        from ray import serve

        if self.handle is not None:
            serve.delete(self.name)

    def _application(self) -> Any:
        from ray import serve

        settings = self.settings
        options = {"graceful_shutdown_timeout_s": settings.job_seconds * settings.batch, **self.config.deployment}
        try:
            deployment = serve.deployment(
                name="replica", max_ongoing_requests=1, user_config=settings.worker_options(), **options
            )(Replica)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`deployment` of the Ray config: {' '.join(str(error).split())}") from error
        limits = {"seconds": settings.job_seconds, "memory": settings.job_memory}
        return deployment.bind(self.name, self.link, settings.data / MARK, settings.worker[1:], limits)

    def _deploy(self) -> Any:
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        (self.settings.data / MARK).write_text(self.name)
        serve.start(proxy_location="Disabled")
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        target = serve.RunTarget(self.application, name=self.name, route_prefix=None, logging_config=quiet)
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        return handle


class RayWorker:
    """What `WorkerProcess` is on this machine: it follows one batch at a time on any replica.

    Args:
        deployment: The application on the cluster.
    """

    def __init__(self, deployment: RayDeployment) -> None:
        self.deployment = deployment
        self.loaded: dict[str, Any] = {}
        self.ready = False
        self._events: Any = None

    async def start(self) -> None:
        """Wait until the networks are loaded.

        Raises:
            WorkerEnded: No replica could load them.
        """
        with _ray_errors():
            self.loaded = await self.deployment.load()
        self.ready = True

    async def run(self, jobs: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """Run a batch; yield its events.

        Raises:
            WorkerEnded: The replica was lost, or its process ended or was ended.
        """
        await self.start()
        self._events = self.deployment.handle.options(stream=True).run.remote(list(jobs))
        try:
            with _ray_errors():
                async for event in self._events:
                    if event["event"] == "ended":
                        raise WorkerEnded(event["error"])
                    yield event
        finally:
            self._events.cancel()

    async def cancel(self, name: str) -> None:
        """Ask the replica to stop a job at its next step."""
        with contextlib.suppress(WorkerEnded), _ray_errors():
            await self.deployment.link.cancel.remote(name)

    async def end(self) -> None:
        """End the batch, and the process that runs it."""
        if self._events is not None:
            self._events.cancel()


@contextmanager
def _ray_errors() -> Iterator[None]:
    """Raise errors of Ray as WorkerEnded."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        yield
    except (RayError, RayServeException) as error:
        raise WorkerEnded(
            f"its replica was lost: {next(iter(str(error).splitlines()), type(error).__name__)}"
        ) from error


@contextmanager
def ray_workers(settings: ServeSettings, config: RayConfig) -> Iterator[list[RayWorker]]:
    """Connect to the cluster; yield the server's workers on it, one for each replica that there may be.

    Raises:
        ValueError: Ray is not installed, no cluster answers, or an option of the deployment is invalid.
    """
    with connected(config.address, None) as ray:
        if config.gpus_each and not ray.cluster_resources().get("GPU"):
            config = _without_gpus(config)
        count = config.most_replicas
        if config.address is None:
            count = seats(ray, None, count, config.gpus_each)
        deployment = RayDeployment(ray, settings, config)
        try:
            yield [RayWorker(deployment) for _ in range(count)]
        finally:
            deployment.delete()


def _without_gpus(config: RayConfig) -> RayConfig:
    """The config for a machine without a GPU; a cluster may start a machine that has one."""
    if config.address is not None:
        print_escaped("instant3d: the cluster has no GPU now; replicas wait until it has one", sys.stderr)
        return config
    actor = {**config.deployment["ray_actor_options"], "num_gpus": 0}
    return replace(config, deployment={**config.deployment, "ray_actor_options": actor})
