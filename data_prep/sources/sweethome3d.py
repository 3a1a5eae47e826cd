"""Furniture of Sweet Home 3D's libraries as GLB files: rotated and sized as in that program, in metres."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instant3d.mesh import Mesh, bounds, load, save
from instant3d.mesh.mesh import WORLD_FROM_Y_UP
from instant3d.mesh.untrusted import TooLarge, UnsafePath
from instant3d.utils import file_listing
from instant3d.utils.progress import OnStep

from ..execution import process_pool
from ..execution.process_limits import JobLimits
from ..manifests.licences import Allowed
from .furniture import Library, Piece
from .manifest import Manifest

CUT_OUT = 0.5  # alpha cut-off of a texture with holes, such as a leaf's
LIMITS = JobLimits(120.0, 4_000_000_000)  # of one model; the slowest of Debian's libraries takes 5 seconds
METRES = 0.01  # in a centimetre


@dataclass(frozen=True)
class Job:
    """One model to be written as a GLB file."""

    piece: Piece
    target: Path


def libraries(paths: Sequence[Path]) -> list[Path]:
    """The .sh3f files named, and those in folders named."""
    found = [
        file for path in paths for file in (file_listing.visible_files(path, "*.sh3f") if path.is_dir() else [path])
    ]
    if not found:
        raise FileNotFoundError(f"there is no .sh3f file in {', '.join(map(str, paths))}; name furniture libraries")
    return found


def gather(
    manifest: Manifest, paths: Sequence[Path], *, allowed: Allowed, workers: int, on_step: OnStep
) -> dict[str, int]:
    """Add the models of libraries, as `sweethome3d/LIBRARY/ID.glb` beside the manifest.

    Args:
        manifest: The manifest to extend.
        paths: Libraries (.sh3f), or folders of them.
        allowed: Which licences to take.
        workers: Number of processes.
        on_step: Called with the progress.

    Returns:
        How many objects were new, there already, and left out, by reason.

    Raises:
        FileNotFoundError: There is no library.
    """
    counts = {"new": 0, "there": 0}
    jobs: list[Job] = []
    for piece in _listed(paths):
        target = manifest.folder / piece.row["source"] / f"{piece.row['id']}.glb"
        kind = "there" if manifest.has(piece.row, target) else ""
        if not allowed(piece.row["license"]):
            kind = f"under {piece.row['license'] or 'no known licence'}"
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
        else:
            jobs.append(Job(piece, target))
    for outcome in _in_order(jobs, workers, on_step):
        row, kind = outcome.job.piece.row, outcome.kind
        if outcome.failure is None:
            kind = "new" if manifest.add(row, outcome.job.target) else "duplicate"
        else:
            manifest.leave_out(row, kind, outcome.failure)
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def convert(job: Job) -> None:
    """Write one model as GLB: a process's work."""
    with tempfile.TemporaryDirectory() as folder:
        with Library(job.piece.library) as library:
            file = library.unpack(job.piece.model, Path(folder))
        meshes = [_cut_out(mesh) for mesh in _loaded(file, job.piece.model)]
    save(placed(meshes, _rotation(job.piece.rotation), _size(job.piece.size)), job.target)


def _loaded(file: Path, model: str) -> list[Mesh]:
    """The model's parts; error messages name it as its library does."""
    try:
        return load(file)
    except ValueError as error:
        kind = type(error) if isinstance(error, TooLarge | UnsafePath) else ValueError
        raise kind(str(error).replace(str(file), model)) from error


def placed(meshes: Sequence[Mesh], rotation: np.ndarray, size: np.ndarray) -> list[Mesh]:
    """The same parts, turned by `rotation` (3, 3) in a file's axes (+y up), then stretched to `size`.

    Args:
        meshes: Parts in world axes.
        rotation: Of the vertices as columns.
        size: Width, depth and height (3,), along the world's x, y and z.
    """
    turn = (WORLD_FROM_Y_UP @ rotation @ WORLD_FROM_Y_UP.T).T
    turned = [
        replace(mesh, vertices=mesh.vertices @ turn, normals=None if mesh.normals is None else mesh.normals @ turn)
        for mesh in meshes
    ]
    low, high = bounds(turned)
    scale = np.where(high > low, size / np.maximum(high - low, 1e-30), 1.0)
    return [
        replace(
            mesh,
            vertices=mesh.vertices * scale,
            normals=None if mesh.normals is None else _unit(mesh.normals / scale),
        )
        for mesh in turned
    ]


def _listed(paths: Sequence[Path]) -> list[Piece]:
    """The pieces that all libraries list; of two pieces of one name in one library the first."""
    found: dict[tuple[str, str], Piece] = {}
    for path in libraries(paths):
        with Library(path) as library:
            for piece in library.pieces():
                found.setdefault((piece.row["source"], piece.row["id"]), piece)
    return list(found.values())


def _in_order(jobs: Sequence[Job], workers: int, on_step: OnStep) -> Iterator[process_pool.JobResult[Job]]:
    """Outcomes in the order of the jobs: which of two equal models is kept is no matter of chance."""
    outcomes = {}
    terms = process_pool.run(convert, jobs, workers=workers, limits=LIMITS)
    with closing(terms) as arriving:
        for outcome in arriving:
            outcomes[outcome.job.target] = outcome
            on_step(len(outcomes), len(jobs))
    yield from (outcomes[job.target] for job in jobs)


def _cut_out(mesh: Mesh) -> Mesh:
    """The part with holes where its texture is transparent."""
    has_holes = mesh.texture is not None and mesh.texture[..., 3].min() < 255 * CUT_OUT
    return replace(mesh, alpha_cutoff=CUT_OUT) if has_holes else mesh


def _rotation(text: str) -> np.ndarray:
    matrix = _numbers(text, 9, "modelRotation").reshape(3, 3)
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-2) or np.linalg.det(matrix) < 0:
        raise ValueError(f"its modelRotation {text!r:.80} is no rotation")
    return matrix


def _size(texts: Sequence[str]) -> np.ndarray:
    """Width, depth and height (3,) in metres."""
    size = _numbers(" ".join(texts), 3, "size")
    if (size <= 0).any():
        raise ValueError(f"its size {' x '.join(texts)} should be three numbers above 0")
    return size * METRES


def _numbers(text: str, count: int, what: str) -> np.ndarray:
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise ValueError(f"its {what} {text!r:.80} should be {count} finite numbers")
    return values


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
