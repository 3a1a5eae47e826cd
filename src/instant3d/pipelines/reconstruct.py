"""The command `instant3d reconstruct`: a scene folder or a picture in, a folder of results out.

Knows nothing of command lines.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from instant3d import scenes
from instant3d.cameras import Cameras
from instant3d.mesh import SIZE_MM, check_size_mm
from instant3d.nerf.asset import check_formats
from instant3d.pipelines import image_preprocessing, results
from instant3d.pipelines.results import SheetInputs
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.scenes import Scene
from instant3d.scenes.checks.view_notes import view_notes
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.stage2.network import resolve
from instant3d.stage2.view_checks import assumed_camera
from instant3d.utils import atomic, visualization
from instant3d.utils.devices import find_device
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.progress import Stopwatch

SHOWN_VIEWS = 8  # at most, on the sheet
DEFAULT_VIEWS = 4


@dataclass(frozen=True)
class ReconstructionInput:
    """What the network is shown, what the sheet shows of it at `size` pixels, and what the record tells beside it."""

    source: Scene
    shown: SheetInputs
    size: int
    record: dict[str, Any] = field(default_factory=dict)


def reconstruct(
    scene: Path,
    output: Path,
    *,
    weights: str | Path,
    views: Sequence[int] | Literal["all"] | None = None,
    resolution: int = 256,
    formats: Sequence[str] = ("glb",),
    options: MeshOptions = DEFAULT,
    size_mm: float = SIZE_MM,
    device: str = "auto",
    max_memory: int = MemoryLimits.scratch,
) -> dict[str, Any]:
    """Rebuild the object of a scene; writes into `output` and returns what `result.json` then holds.

    scene  a scene folder; or a picture, for a network that takes one: what that is shown is left in `output/views`
    views  numbers of the input frames; by default the first four, or as many as there are, or the first if the
           network takes one picture: then its own camera is assumed, and the result stands in that camera's world
    options  how the mesh is made
    size_mm  largest side in an .stl or .3mf, in millimetres
    """
    watch = Stopwatch()
    check_size_mm(size_mm)
    formats, folder, place = check_formats(formats), resolve(weights), find_device(device)
    with watch("load"):
        given = _given(scene, views, read_architecture(folder / "config.json"))  # before weights, which take longer
        model = ViewsTo3D.from_pretrained(folder, place)
    source = given.source
    with atomic.merged(output, seal=results.RECORD) as partial:
        with watch("reconstruct"):
            asset = model(source, resolution=resolution, max_memory=max_memory)
        written = results.write(
            partial, asset, given.shown, size=given.size, formats=formats, watch=watch, options=options, size_mm=size_mm
        )
        if given.record:
            scenes.write(partial / "views", source.views, object_id=source.id)
            written["files"] = ["views", *written["files"]]
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
    """One line for the terminal."""
    count = len(record["views"])
    return results.closing_line(record, output, "1 view" if count == 1 else f"{count} views")


def _given(path: Path, views: Sequence[int] | Literal["all"] | None, a: Architecture) -> ReconstructionInput:
    if image_preprocessing.is_photo(path):
        return _photo(path, views, a)
    assumed = assumed_camera(a)
    frames = _frames(path, views, DEFAULT_VIEWS if assumed is None else 1)
    source = _seen_by(assumed, _read(path, frames, a))
    if assumed is None:
        _warn_of_faults(path, source)
    size = results.image_size(source.views.width)
    return ReconstructionInput(source, _shown(path, frames, size, assumed), size)


def _warn_of_faults(path: Path, source: Scene) -> None:
    """Warn of what the doctor would find in the chosen frames, and of how ambiguous keys are read."""
    note = scenes.document(path).world_note
    for line in [note] * bool(note) + view_notes(source):
        warnings.warn(line, stacklevel=3)


def _photo(path: Path, views: Sequence[int] | Literal["all"] | None, a: Architecture) -> ReconstructionInput:
    if views is not None:
        raise ValueError(f"{path} is one picture, which has no frames to choose from; leave out --views")
    prepared = image_preprocessing.read_photo(path, a)
    source = prepared.scene
    shown = SheetInputs(source.id, "input picture", source.views, source.names)
    size = results.image_size(a.image_size or source.views.width)
    return ReconstructionInput(source, shown, size, {"cut_by": prepared.cut_by})


def _read(scene: Path, frames: Sequence[int], a: Architecture) -> Scene:
    """Pictures at the network's size, or as they are if it has its own way of resizing them."""
    if a.resize == "bilinear" and a.image_size:
        return scenes.read(scene, frames=frames, size=a.image_size, maps=())
    source = scenes.read(scene, frames=frames, maps=(), widest=image_preprocessing.WIDEST)
    height, width = source.views.height, source.views.width
    if height == width:
        return source
    return scenes.read(scene, frames=frames, size=a.image_size or max(height, width), maps=())


def _seen_by(camera: Cameras | None, source: Scene) -> Scene:
    """The scene with its one picture taken by `camera` (1,), if there is one."""
    if camera is None or len(source.names) != 1:
        return source  # the network says what is wrong
    return replace(source, views=replace(source.views, cameras=camera))


def _shown(scene: Path, frames: Sequence[int], size: int, assumed: Cameras | None) -> SheetInputs:
    """The inputs as they are on the sheet: at its size, not at the network's, and not too many."""
    chosen = [frames[k] for k in visualization.evenly_spaced(len(frames), SHOWN_VIEWS)]
    source = _seen_by(assumed, scenes.read(scene, frames=chosen, size=size, maps=()))
    return SheetInputs(source.caption or source.id, "input views", source.views, source.names)


def _frames(scene: Path, views: Sequence[int] | Literal["all"] | None, usual: int) -> Sequence[int]:
    count = len(scenes.names(scene))
    if views is None:
        return range(min(usual, count))
    return range(count) if views == "all" else views
