"""The command `instant3d reconstruct`: a scene folder in, a folder of results out. Knows nothing of command lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from instant3d import atomic, results, scenes, writers
from instant3d.asset import check_formats
from instant3d.pipeline import WORK_BYTES, ViewsTo3D, find_device
from instant3d.progress import Stopwatch
from instant3d.results import Shown
from instant3d.stage2.network import locate

SHOWN_VIEWS = 8  # at most, on the sheet
DEFAULT_VIEWS = 4


def reconstruct(
    scene: Path,
    output: Path,
    *,
    weights: str | Path,
    views: Sequence[int] | Literal["all"] | None = None,
    resolution: int = 256,
    formats: Sequence[str] = ("glb",),
    device: str = "auto",
    max_memory: int = WORK_BYTES,
) -> dict[str, Any]:
    """Rebuild the object of a scene; writes into `output` and returns what `result.json` then holds.

    views  numbers of the input frames; by default the first four, or as many as there are
    """
    watch = Stopwatch()
    formats, folder = check_formats(formats), locate(weights)
    with watch("load"):
        model = ViewsTo3D.from_pretrained(folder, find_device(device))
        frames = _frames(scene, views)
        source = scenes.read(scene, frames=frames, size=model.network.image_size or None)
    with atomic.merged(output, seal=results.RECORD) as partial:
        with watch("reconstruct"):
            asset = model(source, resolution=resolution, max_memory=max_memory)
        size = results.picture_size(source.views.width)
        shown = _shown(scene, frames, size)
        written = results.write(partial, asset, shown, size=size, formats=formats, watch=watch)
        return results.write_record(
            partial,
            scene=source.id,
            caption=source.caption,
            views=list(source.names),
            weights={"name": str(weights), "sha256": results.sha256(folder / "model.safetensors")},
            device=str(model.device),
            **written,
            seconds=watch.rounded(),
        )


def closing_line(record: dict[str, Any], output: Path) -> str:
    """One line for the terminal."""
    return results.closing_line(record, output, f"{len(record['views'])} views")


def _shown(scene: Path, frames: Sequence[int], size: int) -> Shown:
    """The inputs as they are on the sheet: at its size, not at the network's, and not too many."""
    chosen = [frames[k] for k in writers.spread(len(frames), SHOWN_VIEWS)]
    source = scenes.read(scene, frames=chosen, size=size)
    return Shown(source.caption or source.id, "input views", source.views, source.names)


def _frames(scene: Path, views: Sequence[int] | Literal["all"] | None) -> Sequence[int]:
    count = len(scenes.names(scene))
    if views is None:
        return range(min(DEFAULT_VIEWS, count))
    return range(count) if views == "all" else views
