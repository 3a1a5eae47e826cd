"""Rendering one object to one scene folder, the work of a process."""

from __future__ import annotations

import atexit
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.scenes import ViewPixels

from ..execution.process_limits import JobLimits
from ..manifests.object_manifest import Item
from .render_plan import Plan

if TYPE_CHECKING:
    from .blender import Blender

FAINTEST = 2e-4  # mean alpha of the structured views below which an object counts as not visible
LIMITS = JobLimits(timeout_s=300.0)
OURS = 0.8  # Blender's share of an object's time, so that it can report a failure before it is killed


class BlankRender(ValueError):
    """The images are almost empty."""

    kind = "blank"


@dataclass(frozen=True)
class Job:
    """One object to render into one folder.

    Attributes:
        item: The object.
        folder: Folder of the scene.
        plan: The render plan.
        backend: Backend of the fast renderer.
        limits: Limits of the whole job.
    """

    item: Item
    folder: Path
    plan: Plan
    backend: str
    limits: JobLimits = LIMITS


def render_object(job: Job) -> int:
    """Write the scene of one object; returns the number of its views."""
    cameras = job.plan.cameras(job.item.id)
    pixels = _by_blender(job, cameras) if job.plan.chosen_renderer == "blender" else _fast(job, cameras)
    if pixels.rgba[:4, ..., 3].mean() / 255 < FAINTEST:
        raise BlankRender(f"{job.item.path} is almost invisible: a few far vertices make the rest of it too small")
    facts = job.item.facts | {"lighting": job.plan.lighting, "renderer": job.plan.chosen_renderer}
    scenes.write(job.folder, pixels, caption=job.item.caption, object_id=job.item.id, extra=facts)
    return len(pixels.rgba)


def prepare(what: Plan, backend: str) -> None:
    """Limit this process to one thread, since there is a process per core, and check that it can render."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software driver then draws in the calling thread
    import torch

    torch.set_num_threads(1)
    if what.chosen_renderer == "blender":
        _blender().start()
    else:
        import instant3d.mesh  # noqa: F401  (its seconds are no object's)

        from .rasterizer import chosen

        chosen(backend)


def _fast(job: Job, cameras: Cameras) -> ViewPixels:
    from instant3d.mesh import load, normalized

    from .rasterizer import render_pixels

    meshes = normalized(load(job.item.path, job.item.up))
    return render_pixels(
        meshes,
        cameras,
        job.plan.size,
        lighting=job.plan.lighting,
        supersample=job.plan.supersample,
        backend=job.backend,
        maps=job.plan.maps,
    )


def _by_blender(job: Job, cameras: Cameras) -> ViewPixels:
    views = _blender().render(
        job.item.path,
        cameras,
        job.plan.size,
        lighting=job.plan.lighting,
        samples=job.plan.samples,
        maps=job.plan.maps,
        device=job.plan.device,
        seed=job.plan.object_seed(job.item.id),
        timeout_s=OURS * job.limits.timeout_s,
        max_resident=job.limits.max_resident,
        up=job.item.up,
    )
    return ViewPixels.of(views)


@functools.cache
def _blender() -> Blender:
    """The Blender of this process, which renders one object after the other."""
    from .blender import Blender

    blender = Blender()
    atexit.register(blender.close)
    return blender
