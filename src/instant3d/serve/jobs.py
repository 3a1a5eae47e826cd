"""Jobs as the API shows them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from instant3d.serve.scheduler import Scheduler
from instant3d.serve.schemas import (
    FileEntry,
    ImageOptions,
    Job,
    Kind,
    Options,
    ProgressReport,
    State,
    shell_command,
)
from instant3d.serve.store import StoredJob

MEDIA_TYPES = {
    ".glb": "model/gltf-binary",
    ".obj": "model/obj",
    ".mtl": "model/mtl",
    ".stl": "model/stl",
    ".3mf": "model/3mf",
    ".ply": "application/octet-stream",
    ".usdz": "model/vnd.usdz+zip",
    ".png": "image/png",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".safetensors": "application/octet-stream",
}


def describe(job: StoredJob, scheduler: Scheduler) -> Job:
    """Return a stored job with its progress and files."""
    options = (Options if job.kind == "text" else ImageOptions)(**job.options)
    folder = scheduler.folder_of(job.id)
    kind = cast(Kind, job.kind)
    moving = scheduler.progress.get(job.id) if job.state == "running" else None
    return Job(
        id=job.id,
        state=cast(State, job.state),
        kind=kind,
        prompt=job.prompt,
        options=options,
        created=job.created,
        started=job.started,
        finished=job.finished,
        position=scheduler.store.position(job.number) if job.state == "queued" else None,
        progress=ProgressReport(**moving) if moving else None,
        error=job.error,
        command=shell_command(kind, job.prompt, options, scheduler.settings.system),
        result=job.result,
        files=[
            FileEntry(name=name, bytes=size, media_type=media_type(name), url=f"/api/v1/jobs/{job.id}/files/{name}")
            for name, size in files_of(folder).items()
        ],
    )


def files_of(folder: Path) -> dict[str, int]:
    """Names and sizes of the files in a job's folder that clients may read."""
    if not folder.is_dir():
        return {}
    found = [path for path in folder.iterdir() if path.suffix in MEDIA_TYPES and not path.name.startswith(".")]
    return {path.name: path.stat().st_size for path in sorted(found) if path.is_file() and not path.is_symlink()}


def media_type(name: str) -> str:
    """Return the media type of a result's file name."""
    return MEDIA_TYPES[Path(name).suffix]
