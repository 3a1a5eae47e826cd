"""How well a few views of an object foretell its others, beside two honest baselines. Knows nothing of training.

Nothing here is random. Pictures are compared over white; a number is the mean over an object's target views, and the
final one the mean over objects. The baselines need no network: the input view nearest to the wanted one, and the
visual hull coloured from the inputs (`instant3d.nerf.visual_hull`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
CELLS = 128  # a side of the grid on which a field's surface is found for that
NEAR = 0.05  # world units within which the F-score counts a point as found

Metrics = dict[str, float]


@dataclass(frozen=True)
class EvaluationCase(TensorDataclass):
    """One object: the views that are given and those to be foretold."""

    name: str
    inputs: Views  # (V,)
    targets: Views  # (T,)
    surface: Tensor | None = None  # (POINTS, 3) of the true one


def evaluate_reconstruction(
    folders: Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    views: Sequence[int] = (0, 1, 2, 3),
    resolution: int | None = None,
    output: str | Path | None = None,
    reference: str | Path | None = None,
    perceptual: str | None = None,
    device: str | torch.device = "cpu",
    network: Reconstructor | None = None,
) -> dict[str, Any]:
    """Measure a reconstructor and both baselines on scene folders, or on folders of them; print a table.

    weights     a checkpoint of the reconstructor, if `network` is not given; with neither, only baselines are measured
    views       frames that are given to it; all others of a scene are targets
    resolution  pixels a side to which both are resized; as they are by default
    output      folder for `metrics.json`
    reference   folder of true meshes, named like the scenes; they are normalized as the renderer does
    perceptual  VGG-16 weights for LPIPS (see `losses.Perceptual`); without, it is left out
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
        task = read_case(name, folder, views, resolution, truths[name]).to(device)
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
    """Scene folders by name: each path is one, or holds some."""
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
    """The true mesh of a scene."""
    files = [Path(folder) / f"{Path(name).name}{suffix}" for suffix in MESH_SUFFIXES]
    for file in files:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"there is no true mesh {files[0]} (nor {', '.join(MESH_SUFFIXES[1:])}); add it or leave the reference out"
    )


def read_case(
    name: str, folder: Path, views: Sequence[int], resolution: int | None = None, truth: Path | None = None
) -> EvaluationCase:
    """A scene's frames `views` as what is given, all its others as what is wanted."""
    count = len(scenes.names(folder))
    if not views or len(set(views)) != len(views) or not all(0 <= index < count for index in views):
        raise ValueError(
            f"{folder} has frames 0 to {count - 1}, but views {list(views)} were asked for; name some once each"
        )
    others = [index for index in range(count) if index not in views]
    if not others:
        raise ValueError(
            f"all {count} frames of {folder} are inputs, so none is left to compare with; give fewer views"
        )
    frames = scenes.read(folder, frames=[*views, *others], size=resolution).views
    surface = None if truth is None else points_on(normalized(load(truth)))
    return EvaluationCase(name, frames[: len(views)], frames[len(views) :], surface)


def measure(
    case: EvaluationCase, model: ViewsTo3D | None, similarity: PerceptualLoss | None = None
) -> dict[str, Metrics]:
    """Numbers of the network, if there is one, and of both baselines."""
    fields: dict[str, Field] = {} if model is None else {"network": model(case.inputs).field}
    fields["visual_hull"] = VisualHull(case.inputs)
    numbers = {"nearest_view": compare(nearest_view(case.inputs, case.targets.cameras), case.targets, similarity)}
    for method, field in fields.items():
        numbers[method] = compare(render_like(field, case.targets), case.targets, similarity)
        if case.surface is not None:
            numbers[method] |= geometry_metrics(field, case.surface)
    return numbers


def render_like(field: Field, targets: Views) -> Views:
    """A field from the cameras of the wanted pictures and at their size; depth only where alpha passes 1/2."""
    shown = render(field, targets.cameras, targets.height, targets.width)
    depth = None if shown.depth is None else shown.depth * (shown.alpha > 0.5)
    return Views(shown.rgb.clamp(0, 1), shown.alpha.clamp(0, 1), shown.cameras, depth)


def geometry_metrics(field: Field, truth: Tensor) -> Metrics:
    """How far a field's surface is from points (N, 3) on the true one; an empty field has none, and finds none."""
    try:
        points = points_on([extract_mesh(field, CELLS)])
    except ValueError:
        return {"chamfer": math.nan, "f_score": 0.0}
    return {"chamfer": metrics.chamfer(points, truth), "f_score": metrics.f_score(points, truth, NEAR)}


def points_on(parts: Sequence[Mesh]) -> Tensor:
    """The same POINTS points (N, 3) on a surface each time."""
    return sample_points(parts, POINTS, torch.Generator().manual_seed(0))


def nearest_view(inputs: Views, cameras: Cameras) -> Views:
    """For each camera, the given picture that was taken from the most similar direction. It knows no depth."""
    wanted, known = (F.normalize(group.positions, dim=-1) for group in (cameras, inputs.cameras))
    nearest = inputs[(wanted @ known.T).argmax(-1)]
    return Views(nearest.rgb, nearest.alpha, cameras)


def compare(rendered: Views, targets: Views, similarity: PerceptualLoss | None = None) -> Metrics:
    """Means over views of what can be measured: depth only where both know it."""
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
    """Column by column, over the rows that have the number."""
    columns = dict.fromkeys(name for row in rows for name in row)
    known = {name: [row[name] for row in rows if not math.isnan(row.get(name, math.nan))] for name in columns}
    return {name: math.fsum(values) / len(values) if values else math.nan for name, values in known.items()}


def summarize(records: Mapping[str, Mapping[str, Metrics]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The report: numbers of each scene and their means, for the network and for each baseline."""

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
    """Titles above `line`s of records like this one."""
    titles = [COLUMNS[name] for name in record.get("network", {})]
    return " ".join([" " * width, *(f"{title:>12}" for title in [*titles, *BASELINES])])


def line(name: str, record: Mapping[str, Metrics], width: int) -> str:
    """The network's numbers of an object, then the PSNR of each baseline."""
    values = [*record.get("network", {}).values(), *(record[method]["psnr"] for method in BASELINES)]
    return " ".join([f"{name:<{width}}", *(f"{value:12.3f}" for value in values)])


def write(report: Mapping[str, Any], output: str | Path) -> None:
    """`metrics.json` in the folder `output`, whole or not at all; what is not a number becomes null."""
    with atomic.merged(output) as partial:
        (partial / "metrics.json").write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
