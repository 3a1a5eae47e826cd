"""The effect of pose refinement: error of the cameras and PSNR of novel views, before and after, and with true cameras.

`python -m benchmarks.poses SCENES... -o out/poses` disturbs the cameras of each scene's first four frames: azimuths
by up to 15 degrees, elevations by up to 10, distances by up to 10 %, and the unknown field of view becomes 35 to 60
degrees (distances follow, so that the object's size in the images stays). All other frames are the novel views. A world
can be turned, moved and scaled as a whole without any image changing: the disturbed and the refined cameras are first
aligned with the true ones by the similarity transform that matches their images best. Scenes that were measured before
are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.evaluation.asset_metrics import compare, render_like
from instant3d.evaluation.reconstruction import find_scenes, read_case
from instant3d.evaluation.reconstruction_report import mean
from instant3d.pipelines.orbit_poses import OrbitPoses
from instant3d.pipelines.pose_refinement import refine
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.pipelines.weights import find_stage2
from instant3d.stage2.view_checks import elevations_deg, fovs_deg
from instant3d.utils import atomic
from instant3d.views import Views

VIEWS, RESOLUTION = (0, 1, 2, 3), 128
AZIMUTH_DEG, ELEVATION_DEG, DISTANCE = 15.0, 10.0, 0.1  # greatest disturbance
FOVS_DEG = (35.0, 60.0)
ROWS = ("before", "after", "true")
COLUMNS = ("azimuth", "elevation", "direction", "fov", "psnr")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every scene and print the means."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poses", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+", help="scene folders, or folders of such")
    parser.add_argument("--weights", help="stage 2 (default: the bundled one)")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for one JSON file per scene")
    options = parser.parse_args(arguments)
    model = ViewsTo3D.from_pretrained(find_stage2(options.weights, option="--weights"))
    records = []
    for name, folder in find_scenes(options.scenes).items():
        file = options.output / f"{name}.json"
        if not file.is_file():
            record = measure(model, name, folder, options.seed + zlib.crc32(name.encode()))
            with atomic.merged(options.output) as partial:
                (partial / file.name).write_text(json.dumps(record, indent=1) + "\n")
        records.append(json.loads(file.read_text()))
        print(f"{name:36}", *(f"{row} {_numbers(records[-1][row])}" for row in ROWS), flush=True)
    print(table(records))


def measure(model: ViewsTo3D, name: str, folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Measure one scene: a row of numbers for each of `ROWS`, and the seconds that refinement took."""
    case = read_case(name, folder, VIEWS, RESOLUTION)
    start = disturbed(case.inputs.cameras, seed)
    began, cpu = time.perf_counter(), time.process_time()
    result = refine(model.differentiable_field, case.inputs, start)
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    tried = {"before": start.cameras, "after": result.poses.cameras, "true": case.inputs.cameras}
    rows = {row: scored(model, case.inputs, cameras, case.targets) for row, cameras in tried.items()}
    return rows | {"refinement": seconds}


def disturbed(cameras: Cameras, seed: int) -> OrbitPoses:
    """Disturb cameras (V,) that look at the origin."""
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(len(cameras.positions), 3, generator=generator) - 1
    fov = FOVS_DEG[0] + (FOVS_DEG[1] - FOVS_DEG[0]) * torch.rand(1, generator=generator)
    focal = 0.5 / torch.tan(torch.deg2rad(fov) / 2)
    distance = cameras.positions.norm(dim=-1) * (1 + DISTANCE * noise[:, 2]) * focal / cameras.intrinsics[:, 0]
    zero = torch.zeros_like(distance)
    angles = [azimuths_deg(cameras) + AZIMUTH_DEG * noise[:, 0], elevations_deg(cameras) + ELEVATION_DEG * noise[:, 1]]
    values = torch.stack([*angles, zero, distance.log(), zero, zero, zero], dim=-1)
    intrinsics = torch.cat([focal.expand(len(zero), 2), cameras.intrinsics[:, 2:]], dim=-1)
    return OrbitPoses(values, intrinsics)


def scored(model: ViewsTo3D, inputs: Views, cameras: Cameras, targets: Views) -> dict[str, float]:
    """Errors of cameras (V,) for the inputs (V,), in degrees, and PSNR of the targets (T,)."""
    scale, rotation, shift = alignment(inputs.cameras, cameras)
    ours = moved(cameras, 1 / scale, rotation.T, -rotation.T @ shift / scale)
    turned = (azimuths_deg(ours) - azimuths_deg(inputs.cameras) + 180) % 360 - 180
    towards = [torch.nn.functional.normalize(group.positions, dim=-1) for group in (ours, inputs.cameras)]
    asset = model(replace(inputs, cameras=cameras))
    there = replace(targets, cameras=moved(targets.cameras, scale, rotation, shift), depth=None)
    return {
        "azimuth": float(turned.abs().mean()),
        "elevation": float((elevations_deg(ours) - elevations_deg(inputs.cameras)).abs().mean()),
        "direction": float(torch.rad2deg((towards[0] * towards[1]).sum(-1).clamp(-1, 1).acos()).mean()),
        "fov": float((fovs_deg(ours) - fovs_deg(inputs.cameras)).abs().mean()),
        "psnr": compare(render_like(asset.field, there), there)["psnr"],
    }


def alignment(true: Cameras, other: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity transform from the world of cameras `true` (V,) to that of `other` (V,), by their images.

    Returns:
        Scale (), rotation (3, 3) and shift (3,), for which points p of the object, and scale * rotation @ p + shift,
        have images as near to each other as possible.
    """
    line = torch.linspace(-0.6, 0.6, 5)
    points = torch.cartesian_prod(line, line, line)
    wanted = true.project(points.expand(len(true.positions), -1, -1))[0]
    unknown = torch.zeros(7, requires_grad=True)  # logarithm of the scale, rotation vector, shift
    optimizer = torch.optim.LBFGS([unknown], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        scale, rotation, shift = _similarity(unknown)
        there = scale * points @ rotation.T + shift
        error = (other.project(there.expand_as(points.expand(len(wanted), -1, -1)))[0] - wanted).square().mean()
        (1e3 * error).backward()
        return 1e3 * error

    optimizer.step(loss)
    scale, rotation, shift = _similarity(unknown.detach())
    return scale, rotation, shift


def _similarity(unknown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y, z = unknown[1:4]
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return unknown[0].exp(), torch.linalg.matrix_exp(skew), unknown[4:]


def moved(cameras: Cameras, scale: Tensor, rotation: Tensor, shift: Tensor) -> Cameras:
    """Cameras (V,) after a similarity transform of their world."""
    matrix = cameras.cam_to_world.clone()
    matrix[:, :3, :3] = rotation @ matrix[:, :3, :3]
    matrix[:, :3, 3] = scale * cameras.positions @ rotation.T + shift
    return Cameras(matrix, cameras.intrinsics)


def azimuths_deg(cameras: Cameras) -> Tensor:
    """Azimuths (V,) of cameras (V,) around the z axis."""
    x, y, _ = cameras.positions.unbind(-1)
    return torch.rad2deg(torch.atan2(y, x))


def table(records: Sequence[dict[str, dict[str, float]]]) -> str:
    """Format the means over scenes as Markdown, and what share of the losses was won back."""
    means = {row: mean([record[row] for record in records]) for row in (*ROWS, "refinement")}
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(f'{means[row][column]:.2f}' for column in COLUMNS)} |" for row in ROWS]
    before, after, true = (means[row]["psnr"] for row in ROWS)
    share = (after - before) / (true - before) if true != before else math.nan
    seconds = means["refinement"]["cpu_seconds"]
    return "\n".join([*lines, f"{len(records)} objects, {share:.0%} of the PSNR won back, {seconds:.0f} CPU s each"])


def _numbers(row: dict[str, float]) -> str:
    return " ".join(f"{row[column]:.1f}" for column in COLUMNS)


if __name__ == "__main__":
    main()
