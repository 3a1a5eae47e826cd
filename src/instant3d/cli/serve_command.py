"""Options of `instant3d serve`, which starts the server; heavy modules are imported when the command runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from instant3d.cli.system_options import add_system, settle
from instant3d.utils.arg_types import byte_size, nonempty, nonempty_path, nonnegative_int, positive_int

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
    limits.add_argument("--workers", type=positive_int, default=1, help="processes that generate (default 1)")
    limits.add_argument("--batch", type=positive_int, default=4, help="prompts denoised together (default 4)")
    limits.add_argument("--queue", type=positive_int, default=256, help="jobs that may wait (default 256)")
    limits.add_argument("--job-seconds", type=positive_int, default=600, help="longest time of a job (default 600)")
    limits.add_argument("--job-memory", type=byte_size, default=16 * 2**30, help="of a worker (default 16G)")
    limits.add_argument("--upload", type=byte_size, default=64 * 2**20, help="largest request (default 64M)")
    command.add_argument("--log-prompts", action="store_true", help="write prompts to the log")
    machine = command.add_argument_group("weights and machine")
    add_system(machine)
    machine.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted.

    Args:
        arguments: The parsed options.

    Raises:
        ValueError: An option is invalid, or the extra `serve` is not installed.
        OSError: The address is in use, or the folder of jobs cannot be written.
    """
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"the server needs {', '.join(missing)}; install them by pip install 'instant3d[serve]'")
    from instant3d.serve.server import serve
    from instant3d.serve.settings import ServeSettings

    settle(arguments)
    chosen = {name: getattr(arguments, name) for name in ("system", "stage1", "stage2", "direct", "device")}
    settings = ServeSettings(
        data=arguments.data.absolute(),
        host=arguments.host,
        port=arguments.port,
        token=arguments.token or os.environ.get(TOKEN_VARIABLE) or None,
        workers=arguments.workers,
        batch=arguments.batch,
        queue_limit=arguments.queue,
        job_seconds=arguments.job_seconds,
        job_memory=arguments.job_memory,
        upload_bytes=arguments.upload,
        log_prompts=arguments.log_prompts,
        weights=tuple(chosen.items()),
    )
    return serve(settings)
