"""Settings of a server, checked when it starts."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant3d.utils.errors import shorten

WORKER = (sys.executable, "-m", "instant3d.serve.worker")


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        data: Folder of the jobs' database and results.
        host: Address to listen on.
        port: TCP port; 0: any free one.
        token: What clients must send; None: nothing, which is possible on this machine's own addresses alone.
        workers: Worker processes, each with its own copy of the networks.
        batch: Prompts that are denoised together at most.
        queue_limit: Jobs that may wait.
        job_seconds: Longest time of a job.
        job_memory: Most resident memory of a worker, in bytes.
        upload_bytes: Largest body of a request, in bytes.
        log_prompts: Whether prompts are written to the log.
        weights: Options of the worker: `system`, `stage1`, `stage2`, `direct`, `device`, and `lora`, a list.
        worker: Command of a worker process.

    Raises:
        ValueError: A number is out of its range, or the address can be reached from other machines without a token.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    workers: int = 1
    batch: int = 4
    queue_limit: int = 256
    job_seconds: float = 600.0
    job_memory: int = 16 * 2**30
    upload_bytes: int = 64 * 2**20
    log_prompts: bool = False
    weights: tuple[tuple[str, Any], ...] = ()
    worker: tuple[str, ...] = WORKER

    def __post_init__(self) -> None:
        for name in ("workers", "batch", "queue_limit", "job_seconds", "job_memory", "upload_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name.replace('_', '-')} must be above 0, got {getattr(self, name)}")
        if self.token is not None and len(self.token) < 8:
            raise ValueError(
                "a token has 8 characters or more; `python -c 'import secrets; print(secrets.token_urlsafe())'`"
            )
        if not self.is_loopback and self.token is None:
            raise ValueError(
                f"{shorten(self.host)} can be reached from other machines; give a --token that clients must send, "
                "or listen on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def system(self) -> str:
        """The system that makes the assets: two-stage or direct."""
        return dict(self.weights).get("system") or "two-stage"

    def worker_options(self) -> dict[str, Any]:
        """The options that a worker process reads first."""
        return {**dict(self.weights), "batch": self.batch}
