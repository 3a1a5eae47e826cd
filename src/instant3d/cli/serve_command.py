"""Options of `instant3d serve`, which starts the server; heavy modules are imported when the command runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d.cli.system_options import absolute_loras, add_lora, add_system, settle
from instant3d.utils.arg_types import byte_size, nonempty, nonempty_path, nonnegative_int, positive_int

if TYPE_CHECKING:
    from instant3d.serve.ray_config import RayConfig

TOKEN_VARIABLE = "INSTANT3D_TOKEN"


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options of `serve`."""
    command.add_argument("--host", type=nonempty, default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=nonnegative_int, default=7860, help="(default 7860; 0: any free one)")
    command.add_argument(
        "--data", type=nonempty_path, default=Path("instant3d-data"), help="folder of jobs (default instant3d-data)"
    )
    command.add_argument(
        "--token", help=f"that clients must send; needed beyond this machine (default: {TOKEN_VARIABLE}, or none)"
    )
    limits = command.add_argument_group("limits")
    limits.add_argument("--workers", type=positive_int, help="processes that generate (default 1)")
    limits.add_argument(
        "--batch", type=positive_int, help="prompts denoised together (default 4; on Ray that of the config)"
    )
    limits.add_argument("--queue", type=positive_int, default=256, help="jobs that may wait (default 256)")
    limits.add_argument("--job-seconds", type=positive_int, default=600, help="longest time of a job (default 600)")
    limits.add_argument("--job-memory", type=byte_size, default=16 * 2**30, help="of a worker (default 16G)")
    limits.add_argument("--upload", type=byte_size, default=64 * 2**20, help="largest request (default 64M)")
    command.add_argument("--log-prompts", action="store_true", help="write prompts to the log")
    machine = command.add_argument_group("weights and machine")
    add_system(machine)
    add_lora(machine)
    machine.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    cluster = command.add_argument_group("cluster (pip install 'instant3d[ray]')")
    cluster.add_argument(
        "--ray", action="store_true", help="generate in replicas of Ray Serve; without an address here"
    )
    cluster.add_argument("--address", help="auto, or HOST:PORT, of a Ray cluster that shares the disk of --data")
    cluster.add_argument(
        "--ray-config",
        metavar="FILE",
        default="ray",
        help="YAML of replicas, GPU share, autoscaling (default ray)",
    )
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted.

    Args:
        arguments: The parsed options.

    Raises:
        ValueError: An option is invalid, an extra is not installed, or no Ray cluster answers.
        OSError: The address is in use, or the folder of jobs cannot be written.
    """
    _require("serve", ("fastapi", "uvicorn", "python_multipart"))
    ray = _ray_config(arguments)
    from instant3d.serve.server import serve
    from instant3d.serve.settings import ServeSettings

    settle(arguments)
    chosen = {name: getattr(arguments, name) for name in ("system", "stage1", "stage2", "direct", "device")}
    chosen["lora"] = absolute_loras(arguments.lora)
    settings = ServeSettings(
        data=arguments.data.absolute(),
        host=arguments.host,
        port=arguments.port,
        token=arguments.token or os.environ.get(TOKEN_VARIABLE) or None,
        workers=arguments.workers or 1,
        batch=arguments.batch or (ray.batch if ray else 4),
        queue_limit=arguments.queue,
        job_seconds=arguments.job_seconds,
        job_memory=arguments.job_memory,
        upload_bytes=arguments.upload,
        log_prompts=arguments.log_prompts,
        weights=tuple(chosen.items()),
    )
    return serve(settings, ray)


def _ray_config(arguments: argparse.Namespace) -> RayConfig | None:
    if not (arguments.ray or arguments.address):
        return None
    if arguments.workers:
        raise ValueError("--workers is for this machine; the YAML of --ray-config bounds the replicas of --ray")
    _require("ray", ("ray", "grpc_reflection"))  # the second one is of Ray Serve
    from instant3d.serve.ray_config import RayConfig

    return RayConfig.read(arguments.ray_config, arguments.address)


def _require(extra: str, modules: Sequence[str]) -> None:
    missing = [name for name in modules if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"this needs {', '.join(missing)}; install them by pip install 'instant3d[{extra}]'")
