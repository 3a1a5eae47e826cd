"""Objects on this machine: folders, other manifests, and procedural objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from instant3d.utils.progress import OnStep

from ..manifests import object_manifest
from ..manifests.licences import Allowed, spdx
from ..manifests.object_manifest import Row
from .manifest import Manifest, digest, inside

Found = tuple[Row, Path]


def gather(
    manifest: Manifest,
    source: Path,
    *,
    allowed: Allowed,
    licence: str | None = None,
    prefix: str = "",
    up: str | None = None,
    on_step: OnStep,
) -> dict[str, int]:
    """Add the objects of a folder or of another manifest.

    Args:
        manifest: The manifest to extend.
        source: Folder or manifest.
        allowed: Which licences to take.
        licence: Licence of objects without one in their manifest.
        prefix: Prefix of every id.
        up: Up axis of .obj and .ply files without one in their manifest; y by default.
        on_step: Called with the progress.

    Returns:
        How many objects were new, existing, and left out by kind.
    """
    root = source if source.is_dir() else source.parent
    found = list(_listed(source, prefix, manifest.path))
    counts = {"new": 0, "there": 0}
    for done, (row, file) in enumerate(found):
        on_step(done, len(found))
        row = row | {"license": spdx(row.get("license") or licence)}
        row |= {"up": row.get("up") or up} if row.get("up") or up else {}
        if not allowed(row["license"]):
            kind = f"under {row['license'] or 'no known licence'}"
        else:
            kind = _add(manifest, row, file, root)
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def make(manifest: Manifest, seeds: range, *, workers: int, on_step: OnStep) -> dict[str, int]:
    """Make procedural objects in the folder `procedural` beside the manifest, and add them to it.

    Args:
        manifest: The manifest to extend.
        seeds: Seeds of the objects.
        workers: Number of processes.
        on_step: Called with the progress.

    Returns:
        How many objects were new, existing, and duplicates.
    """
    folder = manifest.folder / "procedural"
    folder.mkdir(parents=True, exist_ok=True)
    counts = {"new": 0, "there": 0}
    missing = [seed for seed in seeds if not manifest.has(*_made(seed, folder))]
    counts["there"] = len(seeds) - len(missing)
    for done, row in enumerate(_written(missing, folder, workers)):
        on_step(done, len(missing))
        _, file = _made(int(str(row["seed"])), folder)
        kind = "new" if manifest.add({**row, "captions": [row["name"]]}, file) else "duplicate"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _listed(source: Path, prefix: str, ours: Path) -> Iterator[Found]:
    """Rows without `file`, and their files; a folder's objects.jsonl or manifest.jsonl lists them, if not `ours`."""
    manifests = [source / name for name in object_manifest.MANIFESTS if (source / name).resolve() != ours.resolve()]
    theirs = next((path for path in manifests if path.is_file()), source)
    if theirs.is_file():
        for where, row in object_manifest.read_rows(theirs):
            if not row.get("file"):
                raise ValueError(f"{where}: {row['id']!r} has no file; download it where that manifest was made")
            known: Row = object_manifest.facts(row) | {
                key: row[key] for key in ("name", "category", "uid", "up") if row.get(key)
            }
            known |= {
                "id": prefix + row["id"],
                "captions": object_manifest.words(row),
                "source": row.get("source", "folder"),
            }
            yield known | {"expected": row.get("sha256")}, theirs.parent / row["file"]
        return
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder or manifest {source}")
    files = object_manifest.files(source)
    if not files:
        raise ValueError(
            f"{source} holds no objects; expected {', '.join(object_manifest.SUFFIXES)} files or a manifest"
        )
    for file in files:
        yield {"id": prefix + object_manifest.id_from(file.relative_to(source)), "source": "folder"}, file


def _add(manifest: Manifest, row: Row, file: Path, root: Path) -> str:
    """Add one object; in one word what became of it."""
    expected = row.pop("expected", None)
    if not file.is_file():
        return _left_out(manifest, row, "missing", f"{file} does not exist")
    if not inside(file, root):
        return _left_out(manifest, row, "unsafe", f"{file} is a link that leads out of {root}")
    file = manifest.bring_in(file, root)
    if manifest.holder(file) not in (None, row["id"]) or manifest.has(row, file):
        return "there"  # under another id: another source of this manifest keeps its objects in this folder
    if expected and expected != digest(file):
        return _left_out(manifest, row, "changed", f"{file} has another SHA-256 than in its manifest")
    return "new" if manifest.add(row, file) else "duplicate"


def _left_out(manifest: Manifest, row: Row, kind: str, reason: str) -> str:
    manifest.leave_out(row, kind, reason)
    return kind


def _made(seed: int, folder: Path) -> tuple[dict[str, Any], Path]:
    name = f"procedural_{seed:06d}"
    return {"id": name, "source": "instant3d procedural"}, folder / f"{name}.glb"


def _written(seeds: Sequence[int], folder: Path, workers: int) -> Iterator[dict[str, object]]:
    from ..procedural import generate

    if workers <= 1:
        yield from (generate.write_object(seed, folder) for seed in seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(generate.write_object, seeds, [folder] * len(seeds), chunksize=8)
