"""Procedural textured objects with captions, each from an integer seed, as GLB files.

More than half follow LRM-Zero (arXiv 2406.09371), the others are assemblies like those in low-poly asset packs.
`instant3d data procedural -o OUT --count 1500`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instant3d.mesh import Mesh, linear_from_srgb, save
from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

from . import rotations, shapes
from .assemblies import ASSEMBLIES
from .builder import Builder, Part
from .lrm_zero import scatter
from .portable_rng import PortableRandom

ASSEMBLED = 0.45  # share of objects that are assemblies of everyday things; the others are LRM-Zero's


@dataclass(frozen=True)
class Procedural:
    """An object in the unit sphere, +z up, with its captions."""

    parts: tuple[Part, ...]
    caption: str


def generate(seed: int) -> Procedural:
    """The object of this seed: the same on every machine."""
    dice = PortableRandom(seed)
    if dice.chance(ASSEMBLED):
        builder = Builder(dice)
        noun = dice.pick(ASSEMBLIES)(builder)
        parts, caption = builder.parts, builder.caption(noun)
        yaw = 90.0 * dice.below(4) + (dice.uniform(-45, 45) if dice.chance(0.5) else 0.0)
        turned = [replace(part, shape=shapes.moved(part.shape, rotations.euler(0, 0, yaw))) for part in parts]
    else:
        turned, caption = scatter(dice)
    return Procedural(tuple(into_unit_sphere(turned)), caption)


def into_unit_sphere(parts: list[Part]) -> list[Part]:
    """Centre the bounding box at the origin and scale so that the farthest vertex all but touches the sphere."""
    points = np.concatenate([part.shape.vertices for part in parts])
    centre = (points.min(0) + points.max(0)) / 2
    radius = float(np.sqrt(((points - centre) ** 2).sum(-1).max()))
    fitted = [shapes.snap((part.shape.vertices - centre) * (0.999 / radius)) for part in parts]
    return [replace(part, shape=replace(part.shape, vertices=at)) for part, at in zip(parts, fitted, strict=True)]


def meshes(thing: Procedural) -> list[Mesh]:
    """One mesh for each texture; plain colours need no image."""
    alike: dict[bytes, list[Part]] = {}
    for part in thing.parts:
        alike.setdefault(part.texture.pixels.tobytes(), []).append(part)
    return [_mesh(parts) for parts in alike.values()]


def _mesh(parts: list[Part]) -> Mesh:
    """Parts with the same texture as one mesh."""
    whole, pixels = shapes.joined([part.shape for part in parts]), parts[0].texture.pixels
    normals = shapes.normals(whole)
    if (pixels == pixels[0, 0]).all():
        red, green, blue = linear_from_srgb(pixels[0, 0] / 255.0).tolist()
        return Mesh(whole.vertices, whole.faces, normals, base_color=(red, green, blue, 1.0))
    opaque = np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 255, dtype=np.uint8)], axis=-1)
    downwards = whole.uv * np.array([1.0, -1.0]) + np.array([0.0, 1.0])
    return Mesh(whole.vertices, whole.faces, normals, uv=downwards, texture=opaque)


def write_object(seed: int, folder: Path) -> dict[str, object]:
    """Write one object's GLB and return its manifest row."""
    thing, name = generate(seed), f"procedural_{seed:06d}"
    save(meshes(thing), folder / f"{name}.glb")
    return {
        "id": name,
        "file": f"{name}.glb",
        "name": thing.caption,
        "split": "dev" if seed % 20 == 19 else "train",
        "license": "CC0-1.0",
        "source": "instant3d procedural",
        "seed": seed,
    }


def write_many(folder: Path, seeds: range, workers: int) -> Iterator[dict[str, object]]:
    """Write one object for each seed.

    Args:
        folder: Existing folder of the GLB files.
        seeds: The objects' seeds.
        workers: Number of processes; 1 or less is this one.

    Yields:
        The objects' manifest rows, in the order of the seeds.
    """
    if workers <= 1:
        yield from (write_object(seed, folder) for seed in seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(write_object, seeds, [folder] * len(seeds), chunksize=16)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all objects are written, 2 for bad input.
    """
    parser = argparse.ArgumentParser(prog="instant3d data procedural", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for {id}.glb and manifest.jsonl")
    parser.add_argument("--count", type=int, default=1500, help="number of objects (default 1500)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first object (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.first_seed < 0:
        print_escaped(
            f"expected --count >= 1 and --first-seed >= 0, got {options.count} and {options.first_seed}",
            file=sys.stderr,
        )
        return 2
    atomic.prepare_output(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.count)
    rows = [json.dumps(row) for row in write_many(options.out, seeds, options.workers)]
    atomic.write_text(options.out / "manifest.jsonl", "\n".join(rows) + "\n")
    print_escaped(f"{len(rows)} objects in {options.out}")
    return 0
