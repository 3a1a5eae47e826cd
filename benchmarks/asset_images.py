"""An image of the assets of `instant3d generate --prompts`: `python -m benchmarks.asset_images FOLDER -o PNG`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.rendering.rasterizer import render_views
from instant3d.cameras import STRUCTURED_ELEVATION_DEG, Cameras, orbit, turntable
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.mesh import load, moved_to
from instant3d.nerf.asset import Asset
from instant3d.utils import visualization

SIZE = 224  # pixels of an image
ACROSS = 2  # prompts side by side
BETWEEN = turntable(12)[1:2]  # 15 degrees from the nearest view that was sampled
ZOOM = 1.15  # of the new views, which leave less room around an object than those that are sampled
AROUND_DEG = (30, 120)  # from the front, of an asset that was made without views


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the image of all finished assets in a folder, in order."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asset_images", description=__doc__)
    parser.add_argument("folder", type=Path, help="output of `instant3d generate --prompts`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .png")
    options = parser.parse_args(arguments)
    found = sorted(path.parent for path in options.folder.glob("*/result.json"))
    if not found:
        parser.error(f"{options.folder} holds no finished assets; `instant3d generate --prompts FILE -o` makes some")
    rows = []
    for first in range(0, len(found), ACROSS):
        some = found[first : first + ACROSS]
        prompts = [json.loads((folder / "result.json").read_text())["prompt"] for folder in some]
        shown = [images_of(folder) for folder in some]
        captions = [text for prompt, (_, others) in zip(prompts, shown, strict=True) for text in (prompt, *others)]
        rows.append(visualization.Row("", torch.cat([images for images, _ in shown]), captions))
    visualization.write_contact_sheet(rows, options.output)


def images_of(folder: Path) -> tuple[Tensor, list[str]]:
    """An asset's three images (3, 3, SIZE, SIZE), and what the second and third show.

    The sampled views, if there are any, then the volume and the shaded mesh from a new camera; else the volume and the
    mesh from one side, and the mesh from another.
    """
    if (folder / "grid.png").is_file():
        return torch.stack([grid_of(folder), *built(folder, BETWEEN), *meshed(folder, BETWEEN)]), [
            "volume",
            "mesh",
        ]
    sides = orbit([FRONT_AZIMUTH_DEG + degrees for degrees in AROUND_DEG], STRUCTURED_ELEVATION_DEG)
    return torch.cat([built(folder, sides[:1]), meshed(folder, sides)]), ["mesh", "a quarter around"]


def grid_of(folder: Path) -> Tensor:
    """The grid of an asset's four views, (3, SIZE, SIZE)."""
    grid = Image.open(folder / "grid.png").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(grid.convert("RGB")).copy()).permute(2, 0, 1) / 255


def built(folder: Path, cameras: Cameras) -> Tensor:
    """The asset by cameras (V,), (V, 3, SIZE, SIZE)."""
    return Asset.load(folder).render(zoomed(cameras), SIZE).composite(1.0)


def meshed(folder: Path, cameras: Cameras) -> Tensor:
    """The mesh of `mesh.glb`, its box about the origin, under a light by cameras (V,), (V, 3, SIZE, SIZE)."""
    meshes = [moved_to(mesh, "centre") for mesh in load(folder / "mesh.glb")]  # one: it stands on the ground
    return render_views(meshes, zoomed(cameras), SIZE, lighting="soft").composite(1.0)


def zoomed(cameras: Cameras) -> Cameras:
    """The same cameras with longer focal lengths."""
    return replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([ZOOM, ZOOM, 1.0, 1.0]))


if __name__ == "__main__":
    main()
