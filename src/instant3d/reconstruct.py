"""The command `instant3d reconstruct`: a scene folder in, a folder of results out. Knows nothing of command lines."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from instant3d import __version__, atomic, scenes, writers
from instant3d.asset import FILE, Asset, check_formats
from instant3d.cameras import turntable
from instant3d.pipeline import ViewsTo3D, find_device
from instant3d.scenes import Scene
from instant3d.stage2.network import locate
from instant3d.writers import Row

SHOWN_SIZE = 256  # pixels of a picture in films and on the sheet
SHOWN_VIEWS = 8  # at most, on the sheet
FRAMES, FRAMES_PER_SECOND = 48, 16
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
    max_memory: int = 2**30,
) -> dict[str, Any]:
    """Rebuild the object of a scene; writes into `output` and returns what `result.json` then holds.

    views  numbers of the input frames; by default the first four, or as many as there are
    """
    seconds: dict[str, float] = {}
    formats, folder = check_formats(formats), locate(weights)
    with _timed(seconds, "load"):
        model = ViewsTo3D.from_pretrained(folder, find_device(device))
        frames = _frames(scene, views)
        source = scenes.read(scene, frames=frames, size=model.network.image_size)
    with atomic.merged(output) as partial:
        with _timed(seconds, "network"):
            asset = model(source, resolution=resolution, max_memory=max_memory)
        with _timed(seconds, "mesh"):
            mesh = asset.mesh
            asset.write_files(partial, formats)
        with _timed(seconds, "pictures"):
            _write_pictures(partial, _shown(scene, frames), asset)
        result = {
            "instant3d": __version__,
            "scene": source.id,
            "caption": source.caption,
            "views": list(source.names),
            "weights": {"name": str(weights), "sha256": _hash(folder / "model.safetensors")},
            "device": str(model.device),
            "resolution": resolution,
            "mesh": {"vertices": len(mesh.vertices), "faces": len(mesh.faces)},
            "files": [*(f"mesh.{name}" for name in formats), FILE, "turntable.mp4", "turntable.webp", "sheet.png"],
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        }
        (partial / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def closing_line(result: dict[str, Any], output: Path) -> str:
    """One line for the terminal."""
    total = sum(result["seconds"].values())
    size = f"{result['mesh']['faces']} triangles"
    return f"{output}: {', '.join(result['files'])} ({size} from {len(result['views'])} views in {total:.1f} s)"


def _write_pictures(folder: Path, inputs: Scene, asset: Asset) -> None:
    around = asset.render(turntable(FRAMES), SHOWN_SIZE).to("cpu").on(1.0)
    writers.film(around, folder / "turntable.mp4", frames_per_second=FRAMES_PER_SECOND)
    writers.animation(around, folder / "turntable.webp", frames_per_second=FRAMES_PER_SECOND)
    writers.sheet(_rows(inputs, asset, around), folder / "sheet.png", heading=inputs.caption or inputs.id)


def _rows(inputs: Scene, asset: Asset, around: Tensor) -> list[Row]:
    """Input views, the asset from the same cameras, and from others."""
    ours = asset.render(inputs.views.cameras, SHOWN_SIZE, with_normals=True).to("cpu")
    others = writers.spread(len(around), max(len(inputs.names), DEFAULT_VIEWS))
    return [
        Row("input views", inputs.views.on(1.0), inputs.names),
        Row("reconstruction, same cameras", ours.on(1.0)),
        Row("depth (near is dark)", writers.depth_pictures(ours)),
        Row("normals (red, green, blue = x, y, z)", writers.normal_pictures(ours)),
        Row("reconstruction, once around", around[others], [f"azimuth {360 * k // len(around)}" for k in others]),
    ]


def _shown(scene: Path, frames: Sequence[int]) -> Scene:
    """The inputs as they are on the sheet: at its size, not at the network's, and not too many."""
    chosen = [frames[k] for k in writers.spread(len(frames), SHOWN_VIEWS)]
    return scenes.read(scene, frames=chosen, size=SHOWN_SIZE)


def _frames(scene: Path, views: Sequence[int] | Literal["all"] | None) -> Sequence[int]:
    count = len(scenes.names(scene))
    if views is None:
        return range(min(DEFAULT_VIEWS, count))
    return range(count) if views == "all" else views


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
