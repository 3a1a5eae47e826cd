"""What the default rendering of an asset loses against a converged one, and what each setting would give back.

`python -m benchmarks.render_error ASSET...` renders assets that `instant3d generate` or `reconstruct` wrote, from two
sides, and prints PSNR over white and processor seconds. Converged: an eighth of the default step everywhere, every
colour read, rays followed to the end, float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from instant3d.cameras import orbit
from instant3d.nerf import baked_field, occupancy_render
from instant3d.nerf.asset import Asset
from instant3d.utils.arg_types import positive_int
from instant3d.views import Views

CONVERGED = {"STEP": 1 / 512, "FAINT_STEP": 1 / 512, "DARK": 1e-7, "UNSEEN": 0.0}
SETTINGS: dict[str, dict[str, float]] = {
    "default": {},
    "every colour read": {"UNSEEN": 0.0},
    "rays followed to a transmittance of 1e-4": {"DARK": 1e-4},
    "haze in steps of 1/32": {"FAINT_STEP": 1 / 32},
    "steps of 1/96": {"STEP": 1 / 96},
    "steps of 1/128": {"STEP": 1 / 128},
    "steps of 1/128, haze in 1/64, every colour": {"STEP": 1 / 128, "FAINT_STEP": 1 / 64, "UNSEEN": 0.0},
}
HALF = "default in bfloat16"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of settings with PSNR and processor seconds."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.render_error", description=__doc__.splitlines()[0])
    parser.add_argument("assets", nargs="+", type=Path, help="folders with triplane.safetensors")
    parser.add_argument("--size", type=positive_int, default=128, help="pixels a side (default %(default)s)")
    options = parser.parse_args(arguments)
    rows: dict[str, list[tuple[float, float]]] = {}
    for folder in options.assets:
        asset = Asset.load(folder)
        converged, _ = rendered(asset, options.size, CONVERGED, torch.float32)
        rendered(asset, options.size, {}, torch.float32)  # to warm up
        for name, settings in {**SETTINGS, HALF: {}}.items():
            dtype = torch.bfloat16 if name == HALF else torch.float32
            views, seconds = rendered(asset, options.size, settings, dtype)
            rows.setdefault(name, []).append((psnr(views, converged), seconds))
    print("| | PSNR, dB | processor seconds |\n|---|---|---|")
    for name, found in rows.items():
        means = [sum(values) / len(found) for values in zip(*found, strict=True)]
        print(f"| {name} | {means[0]:.1f} | {means[1]:.2f} |")


def rendered(asset: Asset, size: int, settings: dict[str, float], dtype: torch.dtype) -> tuple[Views, float]:
    """Render two views; also return the processor seconds that they took."""
    with changed(settings), patch.object(baked_field, "fast_dtype", lambda: dtype):
        begin = time.process_time()
        views = asset.render(orbit([10, 130], [20, 20]), size, step=settings.get("STEP"))
        return views, time.process_time() - begin


@contextmanager
def changed(settings: dict[str, float]) -> Iterator[None]:
    """Set constants of the renderer for a while."""
    with patch.multiple(occupancy_render, **settings) if settings else patch.object(occupancy_render, "STEP", 1 / 64):
        yield


def psnr(one: Views, other: Views) -> float:
    """PSNR of two renderings over white, in dB."""
    return float(-10 * (one.composite(1.0) - other.composite(1.0)).square().mean().log10())


if __name__ == "__main__":
    main()
