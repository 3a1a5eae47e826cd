"""Texture coordinates for a mesh: charts by xatlas within a budget of time, or else one square for every two faces."""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instant3d.mesh.mesh import Mesh, face_areas

WORKER = Path(__file__).with_name("xatlas_worker.py")
SECONDS = 5  # of processor time for xatlas
PATIENCE = 12  # times as long by the clock, for other programs may keep the processor busy
MOST_FACES = 50_000  # for xatlas, whose time grows faster than their number
CHARTS_AT_LEAST = 100  # no chart has more than this share of the area: large ones take xatlas long
DISTORTION = 1.0  # at which xatlas ends a chart: its default of 2 makes fewer charts in three times the time
PADDING = 4  # pixels between charts
SMALLEST_CELL = 3.0  # pixels a side of a square that holds two triangles
INSET = 0.75  # pixels from the sides of a square to its triangles


@dataclass(frozen=True)
class Unwrapped:
    """A mesh with texture coordinates.

    Attributes:
        mesh: With `uv` in [0, 1]; vertices on seams occur once a side, and so do their other attributes.
        charts: Number of connected pieces in the texture.
        method: "xatlas", or "per face" where every triangle is a piece of its own.
    """

    mesh: Mesh
    charts: int
    method: str


def unwrap(mesh: Mesh, texture: int, *, seconds: int = SECONDS) -> Unwrapped:
    """Unwrap a mesh for a square texture, without overlaps.

    Args:
        mesh: Any mesh of at least one face.
        texture: Side of the texture in pixels, for which gaps between charts are chosen.
        seconds: Processor time that charts may take; 0 for squares at once.

    Returns:
        The mesh with texture coordinates. If xatlas takes too long, fails, or the mesh has too many faces for it,
        every two faces share a square of the texture, and a warning says so.

    Raises:
        ValueError: There are more faces than the texture has room for even so.
    """
    if not seconds:
        return _per_face(mesh, texture)
    if len(mesh.faces) > MOST_FACES:
        reason = f"{len(mesh.faces)} faces are too many for it"
    else:
        found = _by_xatlas(mesh, texture, seconds)
        if isinstance(found, Unwrapped):
            return found
        reason = found
    warnings.warn(
        f"the mesh is unwrapped triangle by triangle, not in charts ({reason}); it looks the same, but its texture is "
        "hard to paint on",
        stacklevel=2,
    )
    return _per_face(mesh, texture)


def _by_xatlas(mesh: Mesh, texture: int, seconds: int) -> Unwrapped | str:
    """The mesh in charts, or why there are none."""
    settings = np.array([texture, PADDING, face_areas(mesh).sum() / CHARTS_AT_LEAST, DISTORTION])
    given = _packed(mesh.vertices, mesh.faces.astype(np.uint32), settings)
    command = [sys.executable, str(WORKER), str(seconds)]
    try:
        run = subprocess.run(command, input=given, capture_output=True, timeout=seconds * PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"xatlas did not end in {seconds * PATIENCE} s"
    if run.returncode:
        lines = run.stderr.decode(errors="replace").strip().splitlines()
        return f"xatlas did not end well in {seconds} s of processor time{': ' + lines[-1] if lines else ''}"
    stream = io.BytesIO(run.stdout)
    source, faces, uv, charts = (np.load(stream) for _ in range(4))
    return Unwrapped(_seamed(mesh, source, faces, uv), int(charts[0]), "xatlas")


def _packed(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def _per_face(mesh: Mesh, texture: int) -> Unwrapped:
    """Faces 2 k and 2 k + 1 in the lower left and the upper right half of square k of a grid."""
    count = len(mesh.faces)
    columns = math.ceil(math.sqrt(-(-count // 2)))
    cell = texture / columns
    if cell < SMALLEST_CELL:
        side = math.ceil(SMALLEST_CELL * columns)
        raise ValueError(
            f"a texture of {texture} pixels has no room for {count} faces; choose a texture of at least {side} pixels, "
            "fewer faces, or no texture"
        )
    near, far, gap = INSET / texture, (cell - INSET) / texture, INSET * 1.5 / texture
    lower = np.array([(near, near), (near, far - gap), (far - gap, near)])
    upper = cell / texture - lower
    number = np.arange(count)
    corner = np.stack([number // 2 % columns, number // 2 // columns], 1) * (cell / texture)
    uv = corner[:, None] + np.where((number % 2 == 0)[:, None, None], lower, upper)
    faces = np.arange(3 * count).reshape(-1, 3)
    return Unwrapped(_seamed(mesh, mesh.faces.reshape(-1), faces, uv.reshape(-1, 2)), count, "per face")


def _seamed(mesh: Mesh, source: np.ndarray, faces: np.ndarray, uv: np.ndarray) -> Mesh:
    """The mesh with vertices `source` (N,) of the old ones, and texture coordinates for each."""
    kept = {
        name: None if getattr(mesh, name) is None else getattr(mesh, name)[source]
        for name in ("vertices", "normals", "colors")
    }
    return dataclasses.replace(mesh, faces=faces, uv=np.clip(uv, 0, 1), texture=None, **kept)  # type: ignore[arg-type]
