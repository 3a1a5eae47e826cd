"""The command `instant3d evaluate reconstruction`: novel-view metrics, with two baselines.

Some views of an object are the inputs, the others the targets. Nothing here is random. Images are compared on white; a
metric is the mean over an object's target views, and the final one the mean over objects. The baselines need no
network: the input view nearest to the target, and the visual hull coloured from the inputs
(`instant3d.nerf.visual_hull`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.mesh import Mesh, load, normalized, sample_points
from instant3d.modules import metrics
from instant3d.modules.losses import PerceptualLoss
from instant3d.nerf.field import Field
from instant3d.nerf.mesh_extraction import extract_mesh
from instant3d.nerf.occupancy_render import render
from instant3d.nerf.visual_hull import VisualHull
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.stage2.network import Reconstructor
from instant3d.utils import atomic, file_listing
from instant3d.utils.errors import print_escaped
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

BASELINES = ("nearest_view", "visual_hull")
COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS (VGG)",
    "mask_iou": "mask IoU",
    "depth_error": "depth error",
}
COLUMNS |= {"chamfer": "Chamfer", "f_score": "F-score"}

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
POINTS = 50_000  # on each of two surfaces that are compared
CELLS = 128  # cells a side of the grid on which a field's surface is extracted for them
NEAR = 0.05  # distance threshold of the F-score, world units

Metrics = dict[str, float]


@dataclass(frozen=True)
class EvaluationCase(TensorDataclass):
    """One object with its input and target views.

    Attributes:
        name: Name of the scene.
        inputs: Input views (V,).
        targets: Target views (T,).
        surface: (POINTS, 3) on the true surface, if it is known.
    """

    name: str
    inputs: Views
    targets: Views
    surface: Tensor | None = None


def evaluate_reconstruction(
    folders: Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    views: Sequence[int] = (0, 1, 2, 3),
    resolution: int | None = None,
    output: str | Path | None = None,
    reference: str | Path | None = None,
    up: Literal["y", "z"] = "y",
    perceptual: str | None = None,
    device: str | torch.device = "cpu",
    network: Reconstructor | None = None,
) -> dict[str, Any]:
    """Evaluate a reconstructor and both baselines on scenes and print a table.

    Args:
        folders: Scene folders, or folders of them.
        weights: Checkpoint of the reconstructor, if `network` is not given; without both, only the baselines are
            measured.
        views: Indices of the input frames; all others of a scene are targets.
        resolution: Pixels a side to which both are resized; not resized if None.
        output: Folder for `metrics.json`.
        reference: Folder of true meshes, named like the scenes; they are normalised as in rendering.
        up: Up axis of their .obj and .ply files.
        perceptual: VGG-16 weights for LPIPS (see `losses.PerceptualLoss`); no LPIPS if None.
        device: Device of network and LPIPS.
        network: A reconstructor that is already loaded.

    Returns:
        The report, as `summarize` makes it and `metrics.json` holds it.

    Raises:
        FileNotFoundError: If a scene has no true mesh in `reference`.
        ValueError: If there are no scenes, or `views` do not fit one.
    """
    found = find_scenes(folders)
    truths = {name: None if reference is None else reference_mesh(name, reference) for name in found}
    if network is None and weights is not None:
        network = Reconstructor.from_pretrained(weights)
    model = None if network is None else ViewsTo3D(network, device)
    similarity = PerceptualLoss(perceptual).to(device) if perceptual else None
    width = max(map(len, found))
    records: dict[str, dict[str, Metrics]] = {}
    for name, folder in found.items():
        task = read_case(name, folder, views, resolution, truths[name], up).to(device)
        records[name] = measure(task, model, similarity)
        if len(records) == 1:
            print_escaped(header(records[name], width))
        print_escaped(line(name, records[name], width))
    settings = {"weights": weights and str(weights), "views": list(views), "resolution": resolution, "background": 1.0}
    report = summarize(records, settings)
    print_escaped(line("mean", {"network": report["mean"], **report["baselines"]}, width))
    if output is not None:
        write(report, output)
    return report


def find_scenes(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Scene folders by name.

    Args:
        folders: Each a scene folder or document, or a folder of scene folders.

    Raises:
        ValueError: If there is none.
    """
    found: list[Path] = []
    for path in map(Path, folders):
        inside = [document.parent for document in file_listing.visible_files(path, "*/transforms.json")]
        alone = path.is_file() or (path / scenes.DOCUMENT).is_file() or not inside
        found += [path] if alone else inside
    if not found:
        raise ValueError("there is nothing to evaluate; name scene folders, or a folder of them")
    names = [path.resolve().name for path in found]
    unique = len(set(names)) == len(names)
    return {name if unique else str(path): path for name, path in zip(names, found, strict=True)}


def reference_mesh(name: str, folder: str | Path) -> Path:
    """The file of the true mesh of scene `name` in `folder`; FileNotFoundError if there is none."""
    files = [Path(folder) / f"{Path(name).name}{suffix}" for suffix in MESH_SUFFIXES]
    for file in files:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"there is no true mesh {files[0]} (nor {', '.join(MESH_SUFFIXES[1:])}); add it or leave the reference out"
    )


def read_case(
    name: str,
    folder: Path,
    views: Sequence[int],
    resolution: int | None = None,
    truth: Path | None = None,
    up: Literal["y", "z"] = "y",
) -> EvaluationCase:
    """Read a scene: frames `views` are the inputs, all others the targets.

    Args:
        name: Name of the case.
        folder: Scene folder or document.
        views: Indices of the input frames.
        resolution: Pixels a side, or None for the scene's own.
        truth: File of the true mesh, if there is one.
        up: Its up axis, if it is an .obj or .ply file.

    Raises:
        ValueError: If an index does not exist or is repeated, or no target is left.
    """
    count = len(scenes.names(folder))
    if not views or len(set(views)) != len(views) or not all(0 <= index < count for index in views):
        raise ValueError(
            f"{folder} has frames 0 to {count - 1}, but the views are {list(views)}; give existing ones, each once"
        )
    others = [index for index in range(count) if index not in views]
    if not others:
        raise ValueError(f"all {count} frames of {folder} are inputs, so there is no target; give fewer views")
    frames = scenes.read(folder, frames=[*views, *others], size=resolution).views
    surface = None if truth is None else points_on(normalized(load(truth, up)))
    return EvaluationCase(name, frames[: len(views)], frames[len(views) :], surface)


def measure(
    case: EvaluationCase, model: ViewsTo3D | None, similarity: PerceptualLoss | None = None
) -> dict[str, Metrics]:
    """Metrics of the network, if there is one, and of both baselines, by method."""
    fields: dict[str, Field] = {} if model is None else {"network": model(case.inputs).field}
    fields["visual_hull"] = VisualHull(case.inputs)
    numbers = {"nearest_view": compare(nearest_view(case.inputs, case.targets.cameras), case.targets, similarity)}
    for method, field in fields.items():
        numbers[method] = compare(render_like(field, case.targets), case.targets, similarity)
        if case.surface is not None:
            numbers[method] |= geometry_metrics(field, case.surface)
    return numbers


def render_like(field: Field, targets: Views) -> Views:
    """Render a field from the target cameras at their size; depth is 0 where alpha is at most 1/2."""
    shown = render(field, targets.cameras, targets.height, targets.width)
    depth = None if shown.depth is None else shown.depth * (shown.alpha > 0.5)
    return Views(shown.rgb.clamp(0, 1), shown.alpha.clamp(0, 1), shown.cameras, depth)


def geometry_metrics(field: Field, truth: Tensor) -> Metrics:
    """Chamfer distance (world units) and F-score between a field's surface and points (N, 3) on the true one.

    An empty field has Chamfer distance NaN and F-score 0.
    """
    try:
        points = points_on([extract_mesh(field, CELLS)])
    except ValueError:
        return {"chamfer": math.nan, "f_score": 0.0}
    return {"chamfer": metrics.chamfer(points, truth), "f_score": metrics.f_score(points, truth, NEAR)}


def points_on(parts: Sequence[Mesh]) -> Tensor:
    """Sample POINTS points (POINTS, 3) on a surface, the same ones each time."""
    return sample_points(parts, POINTS, torch.Generator().manual_seed(0))


def nearest_view(inputs: Views, cameras: Cameras) -> Views:
    """For each camera (T,), the input image from the most similar direction, without depth."""
    wanted, known = (F.normalize(group.positions, dim=-1) for group in (cameras, inputs.cameras))
    nearest = inputs[(wanted @ known.T).argmax(-1)]
    return Views(nearest.rgb, nearest.alpha, cameras)


def compare(rendered: Views, targets: Views, similarity: PerceptualLoss | None = None) -> Metrics:
    """Metrics of rendered views against targets (T,), means over views.

    Args:
        rendered: Views to measure.
        targets: True views.
        similarity: LPIPS; left out if None.

    Returns:
        PSNR (dB), SSIM and mask IoU, LPIPS if given, and the depth error (world units) if both have depth.
    """
    a, b = rendered.composite(1.0), targets.composite(1.0)
    numbers = {
        "psnr": metrics.psnr(a, b),
        "ssim": metrics.ssim(a, b),
        "mask_iou": metrics.mask_iou(rendered.alpha, targets.alpha),
    }
    if similarity is not None:
        numbers["lpips_vgg"] = similarity(a, b)
    if rendered.depth is not None and targets.depth is not None:
        numbers["depth_error"] = metrics.depth_error(rendered.depth, targets.depth)
    return {name: value.nanmean().item() for name, value in numbers.items()}


def mean(rows: Sequence[Metrics]) -> Metrics:
    """Mean of each metric over the rows in which it is a number."""
    columns = dict.fromkeys(name for row in rows for name in row)
    known = {name: [row[name] for row in rows if not math.isnan(row.get(name, math.nan))] for name in columns}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in known.items()}


def summarize(records: Mapping[str, Mapping[str, Metrics]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The report: metrics of each scene and their means, for the network and for each baseline."""

    def column(method: str) -> dict[str, Metrics]:
        return {name: record.get(method, {}) for name, record in records.items()}

    return {
        "scenes": column("network"),
        "mean": mean(list(column("network").values())),
        "baselines": {method: mean(list(column(method).values())) for method in BASELINES},
        "baseline_scenes": {method: column(method) for method in BASELINES},
        "settings": dict(settings),
    }


def header(record: Mapping[str, Metrics], width: int) -> str:
    """Column titles for `line`s of records like this one, with names of `width` characters."""
    titles = [COLUMNS[name] for name in record.get("network", {})]
    return " ".join([" " * width, *(f"{title:>12}" for title in [*titles, *BASELINES])])


def line(name: str, record: Mapping[str, Metrics], width: int) -> str:
    """One row of the table: the network's metrics, then the PSNR of each baseline."""
    values = [*record.get("network", {}).values(), *(record[method]["psnr"] for method in BASELINES)]
    return " ".join([f"{name:<{width}}", *(f"{value:12.3f}" for value in values)])


def write(report: Mapping[str, Any], output: str | Path) -> None:
    """Write `metrics.json` into the folder `output`, whole or not at all; NaN becomes null."""
    with atomic.merged(output) as partial:
        (partial / "metrics.json").write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
