"""Speed, agreement and memory of `instant3d.nerf` compared with the textbook path, with the same weights.

    python -m benchmarks.speed                     all rows (`make bench`)
    python -m benchmarks.speed view-ours           one figure, as one line of JSON; each row names its own

Every figure is measured in a process of its own, so that its peak of resident memory is its own: what it grew by
after the weights were loaded. Times are the best of several rounds (one for the textbook's mesh): seconds on the
clock, and of the processor, all threads together, which other work on the machine disturbs less. Agreement of views
is the PSNR, on white, with the same field sampled evenly 1024 times on every ray; agreement of meshes is the mean
distance to the nearest vertex of the textbook's mesh, both ways, in voxels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import subject, textbook
from instant3d.cameras import orbit
from instant3d.mesh import Mesh
from instant3d.nerf import mesh_extraction, occupancy_render
from instant3d.nerf.occupancy import Occupancy
from instant3d.nerf.triplane import TriplaneField
from instant3d.views import Views

SIZE, CELLS, THRESHOLD, REFERENCE_SAMPLES = 128, 256, 20.0, 1024
CAMERAS = orbit([30.0], [20.0])
ROUNDS = {"view-ours": 20, "view-ours-known-grid": 20, "view-textbook": 3, "mesh-ours": 5, "mesh-textbook": 1}


def figure(name: str) -> dict[str, Any]:
    """Measure one path: {"wall", "cpu"} in seconds, {"memory"} in MiB, {"psnr"} in dB or {"file"} of a mesh."""
    run = _path(name)
    forget_peak()
    before = peak()
    wall, cpu = math.inf, math.inf
    for _ in range(ROUNDS[name]):
        start, start_cpu = time.perf_counter(), time.process_time()
        result = run()
        wall, cpu = min(wall, time.perf_counter() - start), min(cpu, time.process_time() - start_cpu)
    return {"name": name, "wall": wall, "cpu": cpu, "memory": peak() - before, **_kept(name, result)}


def _path(name: str) -> Callable[[], Views | Mesh]:
    triplane, decoder = subject.fitted()
    plain, ours = textbook.TextbookField(triplane, decoder), TriplaneField(triplane, decoder)
    known = Occupancy.from_field(ours) if name == "view-ours-known-grid" else None
    paths: dict[str, Callable[[], Views | Mesh]] = {
        "view-ours": lambda: occupancy_render.render(ours, CAMERAS, SIZE, SIZE),
        "view-ours-known-grid": lambda: occupancy_render.render(ours, CAMERAS, SIZE, SIZE, occupancy=known),
        "view-textbook": lambda: textbook.render(plain, CAMERAS, SIZE, SIZE),
        "mesh-ours": lambda: mesh_extraction.extract_mesh(ours, CELLS, threshold=THRESHOLD),
        "mesh-textbook": lambda: textbook.extract(plain, CELLS, THRESHOLD),
    }
    return paths[name]


def _kept(name: str, result: Views | Mesh) -> dict[str, Any]:
    if isinstance(result, Views):
        error = (result.composite(1.0) - reference()).square().mean()
        return {"psnr": float(-10 * error.log10())}
    file = subject.CACHE.with_name(f"{name}.npy")
    np.save(file, result.vertices)
    return {"file": str(file)}


def reference() -> torch.Tensor:
    """The image on white of the same field with many even samples; kept beside the weights."""
    file = subject.CACHE.with_name(f"reference_{SIZE}_{REFERENCE_SAMPLES}.npy")
    if not file.exists():
        plain = textbook.TextbookField(*subject.fitted())
        np.save(file, textbook.render(plain, CAMERAS, SIZE, SIZE, REFERENCE_SAMPLES, 0).composite(1.0).numpy())
    return torch.from_numpy(np.load(file))


def forget_peak() -> None:
    """Start a new peak of resident memory (Linux; elsewhere the peak so far stays, and growth is underestimated)."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak() -> float:
    """Peak of resident memory in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def table(threads: int) -> None:
    """Measure everything, each figure in its own process, and print one row a path."""
    subject.fitted()
    reference()
    found = {name: _measured_apart(name, threads) for name in ROUNDS}
    print(
        f"{SIZE} px view and {CELLS}^3 mesh of a 3 x 64 x 64 x 80 triplane, 64-wide 4-layer decoder; {threads} threads"
    )
    print(f"{'':22}{'seconds':>9}{'of cpu':>9}{'ratio':>8}{'of cpu':>8}{'agreement':>14}{'MiB':>7}  command")
    for name, row in found.items():
        base = found[name.split("-")[0] + "-textbook"]
        ratios = f"{base['wall'] / row['wall']:7.1f}x{base['cpu'] / row['cpu']:7.1f}x"
        numbers = f"{name:22}{row['wall']:9.3f}{row['cpu']:9.3f}{ratios}{_agreement(row, base):>14}{row['memory']:7.0f}"
        print(f"{numbers}  python -m benchmarks.speed {name}")


def _agreement(row: dict[str, Any], base: dict[str, Any]) -> str:
    if "psnr" in row:
        return f"{row['psnr']:.1f} dB"
    return f"{chamfer(np.load(row['file']), np.load(base['file'])) * (CELLS - 1) / 2:.3f} voxels"


def chamfer(some: np.ndarray, others: np.ndarray) -> float:
    """Mean distance between nearest vertices, averaged over both directions."""
    from scipy.spatial import cKDTree

    there, back = cKDTree(others).query(some)[0], cKDTree(some).query(others)[0]
    return float(there.mean() + back.mean()) / 2


def _measured_apart(name: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.speed", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("figure", nargs="?", choices=list(ROUNDS), help="measure only this and print JSON")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.figure:
        print(json.dumps(figure(options.figure)))
    else:
        table(options.threads)


if __name__ == "__main__":
    main()
