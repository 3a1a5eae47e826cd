"""Converted weights of peers compared with our demo model, on the example scene: `python -m benchmarks.peers`.

The peers are the small random ones of tests/pipelines/convert/golden, or released ones by --weights FOLDER ... once
converted. Each is measured in a process of its own: seconds to load, for planes of the scene's first four views (or the
first, where a network takes one), for an image of 64 px and for a mesh of 64^3 (best of three), and the growth of its
peak of resident memory from before it was loaded. Random weights fill the whole cube, which is the slowest case to
render.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import forget_peak, peak
from instant3d import scenes
from instant3d.cameras import orbit
from instant3d.pipelines import convert
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.stage2.view_checks import assumed_camera, resize_inputs
from instant3d.utils import bundled
from instant3d.views import Views

ROOT = Path(__file__).parents[1]
GOLDEN, SCENE = ROOT / "tests" / "pipelines" / "convert" / "golden", ROOT / "examples" / "couch"
SIZES = {"instantmesh": 160, "openlrm": 168, "triposr": 160}  # pixels of the golden images
PICTURE, CELLS, ROUNDS = 64, 64, 3


def figures(folder: Path) -> dict[str, Any]:
    """Measure one checkpoint folder."""
    views = inputs(read_architecture(folder / "config.json"))
    forget_peak()
    before = peak()
    load, model = timed(lambda: ViewsTo3D.from_pretrained(folder), rounds=1)
    shown = resize_inputs(views, model.network.architecture)[None]
    with torch.no_grad():
        planes, _ = timed(lambda: model.network.triplane(shown))
    _, asset = timed(lambda: model(views, resolution=CELLS), rounds=1)
    image, _ = timed(lambda: asset.render(orbit([30.0], [20.0]), PICTURE))
    mesh, _ = timed(lambda: model(views, resolution=CELLS).mesh())
    return {
        "views": len(views.rgb),
        "pixels": shown.width,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "load": load,
        "planes": planes,
        "picture": image,
        "mesh": mesh,
        "memory": peak() - before,
    }


def inputs(a: Architecture) -> Views:
    """The views of the scene that a network takes."""
    camera = assumed_camera(a)
    views = scenes.read(SCENE, frames=range(4) if camera is None else [0]).views
    return views if camera is None else Views(views.rgb, views.alpha, camera)


def timed(work: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, Any]:
    """The best of several wall-clock times, and the last result."""
    seconds, result = [], None
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def converted(folder: Path) -> list[Path]:
    """The small random peers, as `instant3d convert` leaves them below `folder`."""
    for family, size in SIZES.items():
        convert.convert(family, GOLDEN / family, folder / f"{family} (tiny)", image_size=size)
    return [folder / f"{family} (tiny)" for family in SIZES]


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """One line a checkpoint."""
    heads = f"{'load s':>8}{'planes s':>10}{'image s':>11}{'mesh s':>8}{'MiB':>7}"
    lines = [f"{'checkpoint':22}{'shown':>12}{'parameters':>14}{heads}"]
    for name, row in found.items():
        shown = f"{row['views']} x {row['pixels']} px"
        times = f"{row['load']:8.2f}{row['planes']:10.3f}{row['image']:11.3f}{row['mesh']:8.2f}"
        lines.append(f"{name:22}{shown:>12}{row['parameters']:14,}{times}{row['memory']:7.0f}")
    return lines


def measured_apart(folder: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.peers", "--one", str(folder), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="further converted folders")
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--one", type=Path, metavar="FOLDER", help="measure only this and print JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(figures(options.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        demo = Path(bundled.weights_folder(bundled.STAGE2)).resolve()
        folders = [demo, *converted(Path(folder)), *(path.resolve() for path in options.weights)]
        found = {path.name: measured_apart(path, options.threads) for path in folders}
    print(f"The example's views to planes, {PICTURE} px image, {CELLS}^3 mesh; {options.threads} threads")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
