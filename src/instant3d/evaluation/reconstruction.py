"""The command `instant3d evaluate reconstruction`: novel-view metrics of volumes and meshes, with two baselines.

Some views of an object are the inputs, the others the targets. Nothing here is random. Images are compared on white; a
metric is the mean over an object's target views, and the final one the mean over objects. The baselines need no
network: the input view nearest to the target, and the visual hull coloured from the inputs
(`instant3d.nerf.visual_hull`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import __version__, scenes
from instant3d.cameras import Cameras
from instant3d.evaluation import reconstruction_report as reports
from instant3d.evaluation.asset_metrics import Metrics, compare, field_metrics, mesh_metrics, points_on
from instant3d.mesh import load, normalized
from instant3d.modules.losses import PerceptualLoss
from instant3d.nerf.visual_hull import VisualHull
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.stage2.network import Reconstructor
from instant3d.utils import file_listing
from instant3d.utils.errors import print_escaped
from instant3d.utils.mesh_options import MeshOptions
from instant3d.utils.side_by_side import map_side_by_side
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply")


@dataclass(frozen=True)
class EvaluationCase(TensorDataclass):
    """One object with its input and target views.

    Attributes:
        name: Name of the scene.
        inputs: Input views (V,).
        targets: Target views (T,).
        surface: Points (N, 3) on the true surface, if it is known.
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
    mesh: MeshOptions | None = None,
    device: str | torch.device = "cpu",
    network: Reconstructor | None = None,
) -> dict[str, Any]:
    """Evaluate a reconstructor and both baselines on scenes and print a table. An interrupted run resumes.

    Args:
        folders: Scene folders, or folders of them.
        weights: Checkpoint of the reconstructor, if `network` is not given; without both, only the baselines are
            measured.
        views: Indices of the input frames; all others of a scene are targets.
        resolution: Pixels a side to which both are resized; not resized if None.
        output: Folder for `metrics.json` and `table.md`, where an interrupted run is found again.
        reference: Folder of true meshes, named like the scenes; they are normalised as in rendering.
        up: Up axis of their .obj and .ply files.
        perceptual: VGG-16 weights for LPIPS (see `losses.PerceptualLoss`); no LPIPS if None.
        mesh: Also evaluate meshes that are made so, and the normals of volumes and meshes; None: volumes only.
        device: Device of network and LPIPS.
        network: A reconstructor that is already loaded. Its runs do not resume, for its weights have no name.

    Returns:
        The report, as `reconstruction_report.summarize` makes it and `metrics.json` holds it.

    Raises:
        FileNotFoundError: If a scene has no true mesh in `reference`.
        ValueError: If there are no scenes, `views` do not fit one, or meshes are requested without a network.
    """
    found = find_scenes(folders)
    truths = {name: None if reference is None else reference_mesh(name, reference) for name in found}
    resumes = network is None
    if network is None and weights is not None:
        network = Reconstructor.from_pretrained(weights)
    if network is None and mesh is not None:
        raise ValueError("meshes are made of a network's reconstructions; give weights or a network")
    model = None if network is None else ViewsTo3D(network, device)
    similarity = PerceptualLoss(perceptual).to(device) if perceptual else None
    settings: dict[str, Any] = {
        "weights": weights and str(weights),
        "views": list(views),
        "resolution": resolution,
        "background": 1.0,
    }
    settings |= {} if mesh is None else {"mesh_options": dataclasses.replace(mesh, origin="world").as_dict()}
    cache = reports.RecordCache(
        output if resumes else None,
        settings | {"version": __version__, "weight_files": _dates(weights), "perceptual": perceptual},
    )
    width = max(map(len, found))
    records: dict[str, dict[str, Metrics]] = {}

    def record(name: str) -> dict[str, Metrics]:
        def compute() -> dict[str, Metrics]:
            case = read_case(name, found[name], views, resolution, truths[name], up).to(device)
            return measure(case, model, similarity, mesh)

        return cache.get(f"{found[name].resolve()} {truths[name]} {up}", compute)

    for name, numbers in zip(found, map_side_by_side(record, found, torch.device(device)), strict=True):
        records[name] = numbers
        if len(records) == 1:
            print_escaped(reports.header(records[name], width))
        print_escaped(reports.line(name, records[name], width))
    report = reports.summarize(records, settings)
    print_escaped(reports.line("mean", reports.means(report), width))
    if output is not None:
        reports.write(report, output)
    cache.clear()
    return report


def _dates(weights: str | Path | None) -> list[tuple[str, int, int]]:
    """Names, sizes and dates of the files of local weights."""
    folder = Path(weights) if weights is not None and Path(weights).is_dir() else None
    files = [] if folder is None else file_listing.visible_files(folder, "*.safetensors")
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


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
    case: EvaluationCase,
    model: ViewsTo3D | None,
    similarity: PerceptualLoss | None = None,
    mesh: MeshOptions | None = None,
) -> dict[str, Metrics]:
    """Measure a reconstruction and both baselines on one scene.

    Args:
        case: The inputs, the targets (T,) and points on the true surface, if they are known.
        model: The reconstructor; None: only the baselines are measured.
        similarity: LPIPS; left out if None.
        mesh: Also measure a mesh that is made so, and normals; None: the volume only. Of no effect without a model.

    Returns:
        Metrics by method: the nearest view, the network's volume and its mesh, if measured, and the visual hull.
    """
    nearest = nearest_view(case.inputs, case.targets.cameras)
    numbers = {"nearest_view": compare(nearest, case.targets, similarity)}
    if model is not None:
        asset = model(case.inputs)
        numbers[reports.NETWORK] = field_metrics(
            asset.field, case.targets, case.surface, similarity, with_normals=mesh is not None
        )
        if mesh is not None:
            numbers[reports.MESH] = mesh_metrics(asset, mesh, case.targets, case.surface, similarity)
    numbers["visual_hull"] = field_metrics(VisualHull(case.inputs), case.targets, case.surface, similarity)
    return numbers


def nearest_view(inputs: Views, cameras: Cameras) -> Views:
    """Choose for each target camera the input image from the most similar direction.

    Args:
        inputs: Input views (V,).
        cameras: Target cameras (T,).

    Returns:
        Views (T,) with these cameras, without depth.
    """
    wanted, known = (F.normalize(group.positions, dim=-1) for group in (cameras, inputs.cameras))
    nearest = inputs[(wanted @ known.T).argmax(-1)]
    return Views(nearest.rgb, nearest.alpha, cameras)
