"""Variants of objects, rotated about the vertical, stretched and mirrored: `instant3d data variants OBJECTS... -o OUT`.

A variant is its object's GLB with one more node above the default scene. That node mirrors and stretches the object
along its own axes and then rotates it, so that right angles are kept. Geometry and images are copied.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instant3d.mesh.gltf_document import GltfDocument, Json
from instant3d.mesh.gltf_writer import container
from instant3d.utils.atomic import prepare_output, write_bytes
from instant3d.utils.errors import print_escaped
from instant3d.utils.progress import Progress

from ..execution import process_pool
from ..execution.process_limits import JobLimits
from ..manifests import object_manifest
from ..manifests.object_manifest import SAFE_ID, Item, Row, write_rows
from ..rendering import sanitized_gltf
from .portable_rng import PortableRandom

NARROWEST, WIDEST = 0.75, 1.3  # factors along each axis
MANIFEST, FAILURES = "objects.jsonl", "objects.failures.jsonl"
OWN = ("file", "uid", "sha256", "bytes")  # fields of a row about the original's file
LIMITS = JobLimits(120.0)  # of one object
# Objects that must not be mirrored. Other writing cannot be found by names: use --no-mirror for sets with much of it.
ONE_SIDED = re.compile(
    r"\b(left|right|books?|calendar|clock|keyboard|labels?|letters?|newspaper|signs?|text|watch)\b", re.I
)


@dataclass(frozen=True)
class Change:
    """The transform of a variant, applied in this order: mirrored, stretched, rotated.

    Attributes:
        turned_deg: Rotation, counter-clockwise seen from above: from the world's +x towards +y.
        stretched: Factors along the world's x, y and z (up).
        mirrored: Whether it is mirrored along x.
    """

    turned_deg: float
    stretched: tuple[float, float, float]
    mirrored: bool

    def node(self, children: Sequence[int]) -> Json:
        """A glTF node (+y up) that applies it to `children`."""
        half, (x, y, z) = math.radians(self.turned_deg) / 2, self.stretched
        rotation = [0.0, round(math.sin(half), 7), 0.0, round(math.cos(half), 7)]
        return {
            "name": "variant",
            "rotation": rotation,
            "scale": [-x if self.mirrored else x, z, y],
            "children": [*children],
        }


@dataclass(frozen=True)
class Job:
    """One object, of which `count` variants are wanted in `out`."""

    item: Item
    out: Path
    count: int
    seed: int
    mirror: bool


def random_change(seed: int, object_id: str, number: int, *, mirror: bool = True) -> Change:
    """Variant `number` of an object: the same on every machine.

    Args:
        seed: Seed of the variants of all objects.
        object_id: The object's id.
        number: Number of the variant, from 1 on.
        mirror: Whether it may be mirrored, which then happens to every other one; nothing else depends on it.
    """
    digest = hashlib.sha256(f"{seed}/{object_id}/{number}".encode()).digest()
    dice = PortableRandom(int.from_bytes(digest[:8], "big"))
    turned, stretched = dice.uniform(0, 360), [dice.uniform(NARROWEST, WIDEST) for _ in range(3)]
    x, y, z = (round(factor, 3) for factor in stretched)
    return Change(round(turned, 1), (x, y, z), dice.chance(0.5) and mirror)


def varied(document: GltfDocument, change: Change) -> bytes:
    """The document as GLB with `change` done to its default scene; other scenes go, for they may share its nodes."""
    content, roots = document.json, document.roots
    nodes = [*content.get("nodes", []), change.node(roots)]
    if not roots or not all(isinstance(root, int) and 0 <= root < len(nodes) - 1 for root in roots):
        raise ValueError("its default scene has no nodes")
    scene = content["scenes"][content.get("scene", 0)] if content.get("scenes") else {}
    scenes = {"scene": 0, "scenes": [scene | {"nodes": [len(nodes) - 1]}]}
    return container(content | scenes | {"nodes": nodes}, document.binary + bytes(-len(document.binary) % 4))


def make(job: Job) -> list[Row]:
    """Write those variants of one object that are not there yet; the rows of all, and with each whether it is `new`."""
    item = job.item
    words = [*object_manifest.words(item.row), str(item.row.get("name", ""))]
    mirror = job.mirror and not ONE_SIDED.search(" ".join(words))
    changes = {f"{item.id}-v{k}": random_change(job.seed, item.id, k, mirror=mirror) for k in range(1, job.count + 1)}
    if not all(map(SAFE_ID.fullmatch, changes)):
        raise ValueError(f"the id {item.id!r} is too long to have -v1 put behind it; shorten it")
    files = {job.out / f"{name}.glb": change for name, change in changes.items()}
    missing = {file: change for file, change in files.items() if not _is_there(file, item.path, change)}
    if missing:
        _write(item.path, missing, item.up)
    return [_row(item, file, change) | {"new": file in missing} for file, change in files.items()]


def _write(original: Path, files: Mapping[Path, Change], up: Literal["y", "z"]) -> None:
    """Write variants of one object."""
    try:
        document = _opened(original, up)
        for file, change in files.items():
            write_bytes(file, varied(document, change))
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{original} cannot be read: its glTF description is broken ({error})") from error


def _opened(path: Path, up: Literal["y", "z"] = "y") -> GltfDocument:
    """A GLB that needs no other file; of other formats and of GLBs that do, a plain one is made."""
    if path.suffix.lower() == ".glb" and not _needs_files(document := GltfDocument(path)):
        return document
    with tempfile.TemporaryDirectory() as folder:
        sanitized_gltf.write(path, Path(folder) / "plain.glb", up)
        return GltfDocument(Path(folder) / "plain.glb")


def _needs_files(document: GltfDocument) -> bool:
    parts = [part for key in ("buffers", "images") for part in document.json.get(key, [])]
    return any("uri" in part and not str(part["uri"]).startswith("data:") for part in parts)


def _is_there(target: Path, original: Path, change: Change) -> bool:
    """Whether an earlier call wrote this variant, after the original was last changed."""
    if not target.is_file() or target.stat().st_mtime < original.stat().st_mtime:
        return False
    with target.open("rb") as file:
        length = int.from_bytes(file.read(20)[12:16], "little")
        text = file.read(length)
    try:
        node = json.loads(text)["nodes"][-1]
        return bool(node == change.node(node["children"]))
    except (ValueError, KeyError, IndexError, TypeError):
        return False  # another program's file


def _row(item: Item, file: Path, change: Change) -> Row:
    """The original's row, without the fields about its file, and with what is different about the variant."""
    kept = {key: value for key, value in (item.row or {"source": "folder"}).items() if key not in OWN}
    about = {"variant_of": item.id, "turned_deg": change.turned_deg, "stretched": list(change.stretched)}
    return kept | {"id": file.stem, "file": file.name} | about | {"mirrored": change.mirrored}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when every variant is there, 1 when some are not (objects.failures.jsonl says why), 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        jobs = _jobs(options)
        prepare_output(options.out)
        options.out.mkdir(parents=True, exist_ok=True)
        rows, lost = _made(jobs, options.workers)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    new = sum(row.pop("new") for row in rows)
    write_rows(options.out / MANIFEST, rows)
    (options.out / FAILURES).unlink(missing_ok=True)
    failed = ""
    if lost:
        write_rows(options.out / FAILURES, lost)
        failed = f", {len(lost)} objects failed (see {options.out / FAILURES})"
    print_escaped(f"{options.out / MANIFEST}: {len(rows)} variants of {len(jobs)} objects, {new} of them new{failed}")
    return 1 if lost else 0


def _made(jobs: Sequence[Job], workers: int) -> tuple[list[Row], list[Row]]:
    """Rows of variants, and of objects that have none."""
    rows: list[Row] = []
    lost: list[Row] = []
    with (
        Progress.to_user().task(f"variants of {len(jobs)} objects") as on_step,
        closing(process_pool.run(make, jobs, workers=workers, limits=LIMITS)) as outcomes,
    ):
        for done, outcome in enumerate(outcomes, start=1):
            item = outcome.job.item
            if outcome.failure is None:
                rows += outcome.result
            else:
                lost.append({"id": item.id, "file": str(item.path), "kind": outcome.kind, "reason": outcome.failure})
            on_step(done, len(jobs))
    return rows, lost


def _jobs(options: argparse.Namespace) -> list[Job]:
    if options.count < 1 or options.workers < 1 or options.seed < 0:
        got = f"{options.count}, {options.workers} and {options.seed}"
        raise ValueError(f"expected --count >= 1, --workers >= 1 and --seed >= 0, got {got}")
    licenses = options.licenses.split(",") if options.licenses else None
    items = object_manifest.find_all(options.objects, split=options.split, licenses=licenses)
    inside = options.out.resolve()
    if any(item.path.resolve().is_relative_to(inside) for item in items):
        raise ValueError(f"{options.out} holds objects that were named; name another folder for their variants")
    earlier = options.out / MANIFEST
    if earlier.is_file() and any("variant_of" not in row for _, row in object_manifest.read_rows(earlier)):
        raise ValueError(f"{earlier} lists objects that are no variants; name another folder")
    return [Job(item, inside, options.count, options.seed, options.mirror) for item in items]


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data variants", description=__doc__.splitlines()[0])
    parser.add_argument("objects", nargs="+", help="folders of .glb, .gltf, .obj or .ply files, or .jsonl manifests")
    parser.add_argument("-o", "--out", type=Path, required=True, help=f"folder for the variants and their {MANIFEST}")
    parser.add_argument("--count", type=int, default=3, help="variants of each object (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the variants (default 0)")
    parser.add_argument("--split", help="only objects of this split of the manifest")
    parser.add_argument("--licenses", "--licences", help="only objects under these licences, such as CC0-1.0,MIT")
    parser.add_argument("--no-mirror", dest="mirror", action="store_false", help="do not mirror objects")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser
