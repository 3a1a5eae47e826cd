"""One object to one scene folder, in a process of its own. Knows nothing of the others, nor of what may go wrong."""

from __future__ import annotations

import atexit
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.views import Views

from ..manifests.object_manifest import Item
from .render_plan import Plan

if TYPE_CHECKING:
    from .blender import Blender

FAINTEST = 2e-4  # mean alpha of the structured views below which an object counts as not visible
OURS = 0.8  # of an object's time: what Blender gets, so that it can tell why it failed before it is killed


class BlankRender(ValueError):
    """Pictures with next to nothing on them."""

    kind = "blank"


@dataclass(frozen=True)
class Job:
    """One object to be rendered into one folder.

    backend     of the fast renderer
    timeout_s   and max_memory (bytes) are for all of it
    """

    item: Item
    folder: Path
    plan: Plan
    backend: str
    timeout_s: float = 300.0
    max_memory: int | None = None


def render_object(job: Job) -> int:
    """Write the scene of one object; the number of its views."""
    cameras = job.plan.cameras(job.item.id)
    views = _by_blender(job, cameras) if job.plan.chosen_renderer == "blender" else _fast(job, cameras)
    if views.alpha[:4].mean() < FAINTEST:
        raise BlankRender(f"{job.item.path} shows almost nothing: a few far vertices make the rest of it too small")
    facts = job.item.facts | {"lighting": job.plan.lighting, "renderer": job.plan.chosen_renderer}
    scenes.write(job.folder, views, caption=job.item.caption, object_id=job.item.id, extra=facts)
    return len(views.rgb)


def prepare(what: Plan, backend: str) -> None:
    """Make this process keep to one core, for there are as many as cores, and see that it can render at all."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software driver then draws in the calling thread
    import torch

    torch.set_num_threads(1)
    if what.chosen_renderer == "blender":
        _blender().start()
    else:
        import instant3d.mesh  # noqa: F401  (its seconds are no object's)

        from .rasterizer import chosen

        chosen(backend)


def _fast(job: Job, cameras: Cameras) -> Views:
    from instant3d.mesh import load, normalized

    from .rasterizer import render_views

    meshes = normalized(load(job.item.path, job.item.up))
    return render_views(
        meshes,
        cameras,
        job.plan.size,
        lighting=job.plan.lighting,
        supersample=job.plan.supersample,
        backend=job.backend,
        maps=job.plan.maps,
    )


def _by_blender(job: Job, cameras: Cameras) -> Views:
    return _blender().render(
        job.item.path,
        cameras,
        job.plan.size,
        lighting=job.plan.lighting,
        samples=job.plan.samples,
        maps=job.plan.maps,
        device=job.plan.device,
        seed=job.plan.draw(job.item.id),
        timeout_s=OURS * job.timeout_s,
        max_memory=job.max_memory,
        up=job.item.up,
    )


@functools.cache
def _blender() -> Blender:
    """This process's own, which goes on from object to object."""
    from .blender import Blender

    blender = Blender()
    atexit.register(blender.close)
    return blender
