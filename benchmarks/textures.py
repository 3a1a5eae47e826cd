"""What the colours of a mesh are worth: `python -m benchmarks.textures SCENES -o OUT`.

Each scene is reconstructed from its first four frames. Unlit renders of its mesh are compared with the other frames,
for three ways to colour it: a texture of the field alone, a texture with the input views blended in, and vertex colours
on the full surface. Writes metrics.json and table.md; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from instant3d import __version__
from instant3d.evaluation.asset_metrics import Metrics, compare, render_like, render_mesh_like
from instant3d.evaluation.reconstruction import find_scenes, read_case
from instant3d.evaluation.reconstruction_report import RecordCache, mean
from instant3d.mesh import Mesh, clean
from instant3d.mesh.simplification import simplify
from instant3d.mesh.unwrap import unwrap
from instant3d.nerf.asset import Asset
from instant3d.nerf.texture_baking import add_normals, bake_texture
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.pipelines.weights import find_stage2
from instant3d.utils import atomic, bundled
from instant3d.utils.mesh_options import DEFAULT
from instant3d.utils.visualization import evenly_spaced
from instant3d.views import Views

INPUTS = (0, 1, 2, 3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the scenes one by one and write the means."""
    options = parsed(arguments)
    found = find_scenes(options.scenes)
    if options.limit is not None:
        found = {name: found[name] for name in [sorted(found)[k] for k in evenly_spaced(len(found), options.limit)]}
    weights = find_stage2(options.weights)
    model = ViewsTo3D.from_pretrained(weights)
    settings = {name: str(value) for name, value in vars(options).items() if name not in ("scenes", "output", "limit")}
    cache = RecordCache(options.output, settings | {"version": __version__})
    records = {}
    for name, folder in found.items():

        def compute(name: str = name, folder: Path = folder) -> dict[str, Metrics]:
            case = read_case(name, folder, INPUTS, options.size)
            return measure(model(case.inputs), case.targets[: options.targets], options)

        records[name] = cache.get(str(folder.resolve()), compute)
        shown = ", ".join(f"{method} {numbers['psnr']:.2f}" for method, numbers in records[name].items())
        print(f"{name}: {shown}", flush=True)
    write(records, settings, options.output)
    cache.clear()


def measure(asset: Asset, targets: Views, options: argparse.Namespace) -> dict[str, Metrics]:
    """Metrics of an asset's mesh by the way of colouring it, and of its volume if wanted."""
    views = {name: render_mesh_like(mesh, targets) for name, mesh in meshes(asset, options)}
    if options.volume:
        views["volume"] = render_like(asset.field, targets)
    return {name: compare(shown, targets) for name, shown in views.items()}


def meshes(asset: Asset, options: argparse.Namespace) -> Iterator[tuple[str, Mesh]]:
    """The meshes that are compared; both textured ones have the same triangles and texture coordinates."""
    light = add_normals(asset.field, simplify(clean(asset.surface), options.faces))
    light = unwrap(light, options.texture).mesh
    yield "texture, field alone", bake_texture(asset.field, light, options.texture)
    yield "texture, views blended", bake_texture(asset.field, light, options.texture, asset.views)
    yield "vertex colours, full surface", dataclasses.replace(asset.mesh(), normals=None)


def write(records: dict[str, dict[str, Metrics]], settings: dict[str, str], output: Path) -> None:
    """Write every number, and the table of means."""
    methods = list(next(iter(records.values())))
    means = {method: mean([record[method] for record in records.values()]) for method in methods}
    rows = [
        f"| {name} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row['mask_iou']:.3f} |" for name, row in means.items()
    ]
    table = [f"mean over {len(records)} scenes", "", "| | PSNR | SSIM | mask IoU |", "|---|---|---|---|", *rows]
    with atomic.merged(output) as partial:
        report = {"settings": settings, "means": means, "scenes": records}
        (partial / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        (partial / "table.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.textures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("scenes", type=Path, nargs="+", help="scene folders, or folders of such")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for metrics.json and table.md")
    parser.add_argument("--weights", help=f"checkpoint folder or Hub id (default {bundled.STAGE2})")
    parser.add_argument("--size", type=int, help="pixels a side of all images (default: the scenes' own)")
    parser.add_argument("--limit", type=int, help="at most this many scenes, evenly spread over the sorted names")
    parser.add_argument("--targets", type=int, help="at most this many held-out views of a scene")
    parser.add_argument("--faces", type=int, default=DEFAULT.faces, help="triangles (default %(default)s)")
    parser.add_argument("--texture", type=int, default=DEFAULT.texture, help="pixels a side (default %(default)s)")
    parser.add_argument("--volume", action="store_true", help="measure volume renders too, which takes longest")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
