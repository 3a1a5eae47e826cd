"""Rendering views of an object's file with BlenderProc (Cycles).

Blender runs in its own process and environment: it needs its own versions of libraries, it is under the GPL, and an
untrusted file may crash it. Its conventions are converted here; the output is that of `rasterizer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from instant3d.cameras import Cameras
from instant3d.views import MAPS, Views

from . import sanitized_gltf
from .blender_process import Arrays, Process
from .pixels import to_views
from .render_plan import BLENDER_LIGHTINGS, DEVICES

TIMEOUT_S = 600.0  # for one object; 36 views of 512 px at 32 samples take about 90 s on one core
MAX_RESIDENT = 8 << 30  # bytes; 1.7 GB were measured for five million triangles, 2.5 GB for a texture of 16,384 px
RECYCLED_AFTER = 100  # objects, before whatever leaks becomes much
KEPT_MEMORY = 3 << 30  # bytes that an idle process may hold
TOLERANCE = 0.02  # of the unit sphere: how far Blender's object may reach beyond or short of ours
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


class EmptyRender(ValueError):
    """The images are empty."""

    kind = "blank"  # the word for it in lists of failures


class Blender:
    """A renderer that starts with the first object and restarts after crashes: `with Blender() as blender`.

    The process ends with the thread that started it, so use one thread.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self.threads = threads
        self._process: Process | None = None

    def __enter__(self) -> Blender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Id of the running process, if there is one."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def close(self) -> None:
        """End the process; the next object starts another."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def render(
        self,
        path: str | Path,
        cameras: Cameras,
        size: int,
        *,
        lighting: str = "uniform",
        samples: int = 16,
        maps: Sequence[str] = MAPS,
        device: str = "cpu",
        seed: int = 0,
        timeout_s: float = TIMEOUT_S,
        max_resident: int | None = MAX_RESIDENT,
        up: Literal["y", "z"] = "y",
    ) -> Views:
        """Square views (..., C, size, size) of the object in a file, as `normalized` places it, from cameras (...).

        Args:
            path: File of the object.
            cameras: Cameras (...).
            size: Pixels a side.
            lighting: "flat", "uniform" or "area".
            samples: Paths per pixel, for colour and alpha; depth and normals are those at its centre.
            maps: Which of depth and world normals to render too.
            device: "cpu", "cuda" or "optix".
            seed: Seed of the lamps of "area" light.
            timeout_s: Limit of the rendering without the start of a process.
            max_resident: Limit of Blender's resident memory, bytes (on Linux only).
            up: Up axis of an .obj or .ply.

        Raises:
            ValueError: If the object cannot be rendered (`Crashed` if it crashed Blender).
            TimeoutError: If it takes too long.
            MemoryError: If it takes too much memory.
        """
        _check(cameras, size, lighting, samples, device)
        process = self._ready()
        job = _job(cameras, size) | {"lighting": lighting, "samples": samples, "maps": list(maps), "device": device}
        job |= {"threads": self.threads, "object": str(process.folder / "object.glb")}
        job["lights"] = area_lights(seed) if lighting == "area" else []
        bounds = sanitized_gltf.write(Path(path), Path(job["object"]), up)
        try:
            header, arrays = process.request(job, _expected(job), timeout_s=timeout_s, max_resident=max_resident)
        except (ValueError, TimeoutError, MemoryError) as error:
            self.close()
            raise _worded(error, path, timeout_s) from error
        except BaseException:  # an interrupt, say
            self.close()  # half an answer is still on its way
            raise
        if "failure" in header:
            raise ValueError(f"{path} cannot be rendered: {header['failure']}")
        _check_bounds(path, bounds, header["bounds"])
        views = to_views(arrays[0], dict(zip(maps, arrays[1:], strict=True)), cameras)
        if not views.alpha.any():
            raise EmptyRender(f"{path} is invisible: Blender's images of it are empty")
        return views

    def start(self) -> None:
        """Start Blender now, so that its start does not count as the first object's time."""
        self._ready()

    def _ready(self) -> Process:
        process = self._process
        if process is None or not process.alive or process.used >= RECYCLED_AFTER or process.memory() > KEPT_MEMORY:
            self.close()
            self._process = process = Process(self.threads)
        return process


def area_lights(seed: int) -> list[dict[str, Any]]:
    """Three square lamps that look at the origin: a strong one, and two others to its sides and behind the object.

    They are fixed in the world, so that all views of an object are consistent.
    """
    generator = np.random.default_rng(seed)
    turn = generator.uniform(0, 360)
    lamps = []
    for offset_deg, elevation_deg, watts in ((0, (30, 60), 120.0), (110, (10, 45), 60.0), (230, (20, 60), 60.0)):
        azimuth = math.radians(turn + offset_deg + generator.uniform(-25, 25))
        elevation = math.radians(generator.uniform(*elevation_deg))
        toward = math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)
        distance = generator.uniform(3.0, 4.0)
        lamps.append({"position": [distance * part for part in toward], "watts": watts, "side": 2.0})
    return lamps


def _check(cameras: Cameras, size: int, lighting: str, samples: int, device: str) -> None:
    if lighting not in BLENDER_LIGHTINGS or device not in DEVICES:
        raise ValueError(
            f"Blender's lighting is one of {BLENDER_LIGHTINGS} and its device one of {DEVICES}, "
            f"got {lighting!r} and {device!r}"
        )
    if size < 1 or samples < 1 or not cameras.shape.numel():
        raise ValueError(
            f"Blender needs a camera, a size and samples from 1 on, got {cameras.shape.numel()}, {size}, {samples}"
        )
    matrices, intrinsics = cameras.cam_to_world.double(), cameras.intrinsics.double().reshape(-1, 4)
    if not (matrices.isfinite().all() and intrinsics.isfinite().all()):
        raise ValueError("a camera holds numbers that are not finite")
    turn = matrices[..., :3, :3]
    if (turn @ turn.mT - torch.eye(3)).abs().max() > 1e-3 or (turn.det() < 0).any():
        raise ValueError("Blender's cameras are turned and moved, never bent or mirrored; cam_to_world must be rigid")
    if (intrinsics[:, 0] - intrinsics[:, 1]).abs().max() > 1e-6 * intrinsics[:, 0].abs().max():
        raise ValueError("Blender's cameras have square pixels here: fx and fy must be equal")


def _job(cameras: Cameras, size: int) -> dict[str, Any]:
    matrices = cameras.cam_to_world.detach().cpu().double().reshape(-1, 4, 4).numpy() @ OPENGL_FROM_OPENCV
    intrinsics = cameras.intrinsics.detach().cpu().double().reshape(-1, 4)
    return {"cameras": matrices.tolist(), "intrinsics": intrinsics.tolist(), "size": size}


def _expected(job: dict[str, Any]) -> Arrays:
    """Images with alpha, then the maps."""
    shape = [len(job["cameras"]), job["size"], job["size"]]
    channels = {"depth": 1, "normals": 3}
    return [["uint8", [*shape, 4]], *(["float32", [*shape, channels[name]]] for name in job["maps"])]


def _worded(error: Exception, path: str | Path, timeout_s: float) -> Exception:
    """The same kind of error, with the object's name."""
    if isinstance(error, TimeoutError):
        return TimeoutError(f"{path} took Blender longer than {timeout_s:g} s")
    return type(error)(f"{path} cannot be rendered: {error}")


def _check_bounds(path: str | Path, ours: tuple[np.ndarray, np.ndarray], theirs: list[list[float]]) -> None:
    """Check that both readers agree on the extent of the object; else cameras and images would not fit."""
    apart = float(np.abs(np.stack(ours) - np.array(theirs)).max())
    if not apart <= TOLERANCE:
        raise ValueError(
            f"{path} cannot be rendered: Blender and our reader disagree on the object's extent ({apart:.2g} apart)"
        )
