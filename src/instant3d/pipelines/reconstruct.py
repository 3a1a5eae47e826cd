"""Reconstruction of a scene folder or of photos into a folder of results: the work of `instant3d reconstruct`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.mesh import SIZE_MM, check_size_mm
from instant3d.modules.diffusion.zero123plus import DEFAULT_SAMPLING, Zero123PlusSampling
from instant3d.nerf.asset import VIEWS, check_formats
from instant3d.nerf.quarter_turns import turned
from instant3d.pipelines import image_preprocessing, photo_agreement, photo_set, pose_refinement, results
from instant3d.pipelines.photo_set import PhotoOptions, PhotoSet
from instant3d.pipelines.photo_to_views import PhotoToViews
from instant3d.pipelines.results import SheetInputs
from instant3d.pipelines.text_to_3d import Asset, ViewsTo3D
from instant3d.scenes import Scene
from instant3d.scenes.checks.view_notes import view_notes
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.stage2.network import resolve
from instant3d.stage2.view_checks import assumed_camera
from instant3d.utils import atomic, visualization
from instant3d.utils.devices import find_device
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.progress import Progress, Stopwatch
from instant3d.views import Views

SHOWN_VIEWS = 8  # at most, on the sheet
DEFAULT_VIEWS = 4
DEFAULT_PHOTOS = PhotoOptions()
WIDEST_BLENDED = 1024  # pixels a side of views that are blended into a texture
BLENDED_PIXELS = 2**24  # of all of them together


@dataclass(frozen=True)
class ReconstructionInput:
    """The input of one reconstruction.

    Attributes:
        source: The views for the network.
        blended: The same views (V,), larger where the scene's images are: for the colours of the mesh.
        shown: How the contact sheet begins.
        size: Width and height of the sheet's images in pixels.
        record: Further fields of the record.
        photos: The photos without cameras that `source` was made from, if it was.
        quarter_turns: Quarter turns about z of the asset, if the views were generated in another world.
    """

    source: Scene
    blended: Views
    shown: SheetInputs
    size: int
    record: dict[str, Any] = field(default_factory=dict)
    photos: PhotoSet | None = None
    quarter_turns: int = 0


def reconstruct(
    scene: Path | Sequence[Path],
    output: Path,
    *,
    weights: str | Path,
    views: Sequence[int] | Literal["all"] | None = None,
    resolution: int | None = None,
    formats: Sequence[str] = ("glb",),
    options: MeshOptions = DEFAULT,
    size_mm: float = SIZE_MM,
    device: str = "auto",
    max_memory: int = MemoryLimits.scratch,
    photos: PhotoOptions = DEFAULT_PHOTOS,
    save_scene: Path | None = None,
    views_by: str | Path | None = None,
    sampling: Zero123PlusSampling = DEFAULT_SAMPLING,
    on_mesh: Callable[[Sequence[Path]], object] | None = None,
) -> dict[str, Any]:
    """Reconstruct the object of a scene and write a folder of results.

    Args:
        scene: A scene folder; or an image file, for a network that takes one image; or two to four image files without
            cameras, which are found.
        output: The folder of results, with the input views in `views`; other files in it stay.
        weights: Stage 2's checkpoint folder, or its Hugging Face Hub id, which is downloaded.
        views: Numbers of the input frames. By default the first four, or as many as there are; or the first if the
            network takes one image: then its own camera is assumed, and the result is in that camera's world.
        resolution: Nodes along each axis of the mesh's grid; by default two for each texel of the planes, at most 256.
        formats: Of the mesh, such as "glb".
        options: How the mesh is made.
        size_mm: Length of the largest side in an .stl or .3mf, in millimetres.
        device: "cpu", "cuda" or "auto".
        max_memory: Bytes that rendering and meshing may take.
        photos: What is known about photos without cameras.
        save_scene: Folder for a copy of these with the cameras that were found, as a scene.
        views_by: Folder of a converted Zero123++, which generates six views of the object in the image file `scene`.
        sampling: Its settings.
        on_mesh: Called with the files of the mesh, in a hidden folder, as soon as they are whole.

    Returns:
        The content of `result.json`.

    Raises:
        ValueError: An option, the scene or the weights are invalid, or the reconstruction has no surface.
        FileNotFoundError: The scene, a frame or the weights are missing.
    """
    watch = Stopwatch()
    check_size_mm(size_mm)
    paths = [scene] if isinstance(scene, Path) else list(scene)
    formats, folder, place = check_formats(formats), resolve(weights), find_device(device)
    a = read_architecture(folder / "config.json")
    if views_by is None:
        with watch("load"):
            given = _given(paths, views, a, photos)  # before the weights, which take longer
    else:
        with watch("views"):
            given = _generated(paths, views, a, views_by, sampling, place)
    with watch("load"):
        model = ViewsTo3D.from_pretrained(folder, place)
    if given.photos is not None and photos.poses != "given":
        with watch("poses"):
            given = _refined(model, given, photos)
    source = given.source
    if save_scene is not None:
        scenes.write(save_scene, source.views, object_id=source.id)
    with atomic.merged(output, seal=results.RECORD) as partial:
        with watch("reconstruct"):
            asset = model(source, resolution=resolution, max_memory=max_memory)
            asset.views = given.blended
        if given.photos is not None:
            given.record["agreement"] = _agreement(model, asset, source)
        asset = turned(asset, given.quarter_turns)
        written = results.write(
            partial,
            asset,
            given.shown,
            size=given.size,
            formats=formats,
            watch=watch,
            options=options,
            size_mm=size_mm,
            on_mesh=on_mesh,
        )
        scenes.write(partial / VIEWS, cast(Views, asset.views), caption=source.caption, object_id=source.id)
        written["files"] = [VIEWS, *written["files"]]
        return results.write_record(
            partial,
            scene=source.id,
            caption=source.caption,
            views=list(source.names),
            **given.record,
            weights={"name": str(weights), "sha256": results.sha256(folder / "model.safetensors")},
            device=str(model.device),
            mesh_options=options.as_dict(),
            **written,
            seconds=watch.rounded(),
        )


def closing_line(record: dict[str, Any], output: Path) -> str:
    """Format the record that `reconstruct` returned as one line for the terminal."""
    count = len(record["views"])
    return results.closing_line(record, output, "1 view" if count == 1 else f"{count} views")


def _given(
    paths: Sequence[Path], views: Sequence[int] | Literal["all"] | None, a: Architecture, options: PhotoOptions
) -> ReconstructionInput:
    if len(paths) > 1:
        return _photos(paths, views, a, options)
    (path,) = paths
    if image_preprocessing.is_photo(path):
        return _photo(path, views, a, options)
    assumed = assumed_camera(a)
    frames = _frames(path, views, DEFAULT_VIEWS if assumed is None else 1)
    source = _with_camera(assumed, _read(path, frames, a))
    if assumed is None:
        _warn_of_faults(path, source)
    size = results.image_size(source.views.width)
    blended = _blended(path, frames, source)
    return ReconstructionInput(source, blended, _shown(path, frames, size, assumed), size)


def _photos(
    paths: Sequence[Path], views: Sequence[int] | Literal["all"] | None, a: Architecture, options: PhotoOptions
) -> ReconstructionInput:
    if views is not None:
        raise ValueError("photos have no frames to choose from; leave out --views")
    if assumed_camera(a) is not None:
        raise ValueError(f"this checkpoint makes an object of one image, but {len(paths)} were given; name one")
    for path in paths:
        if not image_preprocessing.is_photo(path):
            raise ValueError(f"{path} is no image file; name one scene folder, or two to four photos of one object")
    return _posed(photo_set.read_photos(paths, options))


def _posed(photos: PhotoSet) -> ReconstructionInput:
    """Return photos as the input, and their cameras in the record."""
    source = Scene(photos.views, None, Path(photos.names[0]).stem, photos.names, Path())
    shown = SheetInputs(source.id, "input photos", photos.views, photos.names)
    record = {"cut_by": list(photos.cut_by), "cameras": photos.poses.report()}
    return ReconstructionInput(source, photos.views, shown, results.image_size(photos.views.width), record, photos)


def _refined(model: ViewsTo3D, given: ReconstructionInput, options: PhotoOptions) -> ReconstructionInput:
    photos = cast(PhotoSet, given.photos)
    progress, field, device = Progress.to_user(), model.differentiable_field, model.device
    if options.poses == "guess":
        with progress.task("finding the order of the photos") as on_step:
            guess = pose_refinement.guess_order(field, photos.views.to(device), photos.poses, on_step)
        note = guess.note(photos.names)
        if note is not None:
            warnings.warn(note, stacklevel=3)
        photos = photo_set.reordered(photos, guess.order)
    with progress.task("finding the cameras") as on_step:
        refined = pose_refinement.refine(field, photos.views.to(device), photos.poses, on_step)
    return _posed(replace(photos, poses=refined.poses, views=replace(photos.views, cameras=refined.poses.cameras)))


def _agreement(model: ViewsTo3D, asset: Asset, source: Scene) -> dict[str, list[float]]:
    """Measure how well photos agree with their asset, and warn if they do not."""
    shown = asset.render(source.views.cameras, photo_agreement.SIZE).to("cpu")
    agreement = photo_agreement.measure_agreement(shown, source.views)
    problem = photo_agreement.disagreement(agreement, model.field, source.views, source.names)
    if problem is not None:
        warnings.warn(problem, stacklevel=3)
    return agreement.report()


def _warn_of_faults(path: Path, source: Scene) -> None:
    """Warn of the faults that `instant3d doctor` finds in the chosen frames, and of how ambiguous keys are read."""
    note = scenes.document(path).world_note
    for line in [note] * bool(note) + view_notes(source):
        warnings.warn(line, stacklevel=3)


def _photo(
    path: Path, views: Sequence[int] | Literal["all"] | None, a: Architecture, options: PhotoOptions
) -> ReconstructionInput:
    if views is not None:
        raise ValueError(f"{path} is one image, which has no frames to choose from; leave out --views")
    prepared = image_preprocessing.read_photo(path, a, options.matting)
    source = prepared.scene
    shown = SheetInputs(source.id, "input image", source.views, source.names)
    size = results.image_size(a.image_size or source.views.width)
    blended = _at_most(source.views, _widest_blended(1))
    return ReconstructionInput(source, blended, shown, size, {"cut_by": prepared.cut_by})


def _generated(
    paths: Sequence[Path],
    views: Sequence[int] | Literal["all"] | None,
    a: Architecture,
    generator: str | Path,
    sampling: Zero123PlusSampling,
    device: torch.device,
) -> ReconstructionInput:
    """Generate the input views from a photo; the generator's networks are freed afterwards."""
    photo = paths[0]
    if len(paths) > 1 or views is not None or not image_preprocessing.is_photo(photo):
        raise ValueError(
            f"--views-by generates views of one image file, without --views; got {', '.join(map(str, paths))}"
        )
    if a.assumed_camera is not None:
        raise ValueError("these weights make an object of one image; leave out --views-by, or name InstantMesh's")
    model = PhotoToViews.from_pretrained(generator, device)
    with Progress.to_user().task("generating the views") as on_step:
        made = model(photo, sampling, on_step)
    names = [f"view {k}" for k in range(len(made.views.alpha))]
    source = Scene(made.views, None, photo.stem, tuple(names), photo)
    record = {"cut_by": made.cut_by, "views_by": str(generator), "sampling": asdict(sampling)}
    size = results.image_size(a.image_size or made.views.width)
    shown = SheetInputs(source.id, f"generated views (seed {sampling.seed})", made.views, names)
    return ReconstructionInput(source, made.views, shown, size, record, quarter_turns=made.quarter_turns)


def _read(scene: Path, frames: Sequence[int], a: Architecture) -> Scene:
    """Read the frames at the network's size, or at their own if it has its own way of resizing them."""
    if a.resize == "bilinear" and a.image_size:
        return scenes.read(scene, frames=frames, size=a.image_size, maps=())
    source = scenes.read(scene, frames=frames, maps=(), widest=image_preprocessing.WIDEST)
    height, width = source.views.height, source.views.width
    if height == width:
        return source
    return scenes.read(scene, frames=frames, size=a.image_size or max(height, width), maps=())


def _blended(scene: Path, frames: Sequence[int], source: Scene) -> Views:
    """Return the frames as squares at their own size, but no larger than is blended into a texture."""
    widest = _widest_blended(len(frames))
    own = scenes.read(scene, frames=frames[:1], maps=(), widest=widest).views
    side = min(max(own.height, own.width), widest)
    if side <= source.views.width:
        return _at_most(source.views, widest)
    larger = scenes.read(scene, frames=frames, size=side, maps=()).views
    return replace(larger, cameras=source.views.cameras)


def _at_most(views: Views, side: int) -> Views:
    """Reduce square views to `side` pixels a side if they are larger."""
    return views.resized(side, side) if views.width > side else views


def _widest_blended(count: int) -> int:
    """Pixels a side that each of `count` views may have for blending."""
    return min(WIDEST_BLENDED, math.isqrt(BLENDED_PIXELS // count))


def _with_camera(camera: Cameras | None, source: Scene) -> Scene:
    """Replace the camera of a scene's single view by `camera` (1,), if one is given."""
    if camera is None or len(source.names) != 1:
        return source  # the network raises the precise error
    return replace(source, views=replace(source.views, cameras=camera))


def _shown(scene: Path, frames: Sequence[int], size: int, assumed: Cameras | None) -> SheetInputs:
    """Read the input views for the sheet: at its size, not at the network's, and at most `SHOWN_VIEWS`."""
    chosen = [frames[k] for k in visualization.evenly_spaced(len(frames), SHOWN_VIEWS)]
    source = _with_camera(assumed, scenes.read(scene, frames=chosen, size=size, maps=()))
    return SheetInputs(source.caption or source.id, "input views", source.views, source.names)


def _frames(scene: Path, views: Sequence[int] | Literal["all"] | None, usual: int) -> Sequence[int]:
    count = len(scenes.names(scene))
    if views is None:
        return range(min(usual, count))
    return range(count) if views == "all" else views
