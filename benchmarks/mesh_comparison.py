"""Ways to make a mesh of a reconstruction, compared over scenes: what `textures` and `surfaces` share.

Each scene is reconstructed from its first four frames, and unlit renders of its meshes are compared with its other
frames. Numbers of finished scenes are kept until the run ends, so that an interrupted run resumes. Writes metrics.json
and table.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from instant3d import __version__
from instant3d.evaluation.asset_metrics import Metrics, compare, has_surface, render_like, render_mesh_like
from instant3d.evaluation.reconstruction import EvaluationCase, find_scenes, read_case
from instant3d.evaluation.reconstruction_report import RecordCache, mean
from instant3d.mesh import Mesh
from instant3d.nerf.asset import Asset
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.pipelines.weights import find_stage2
from instant3d.utils import atomic, bundled
from instant3d.utils.mesh_options import DEFAULT
from instant3d.utils.visualization import evenly_spaced
from instant3d.views import Views

INPUTS = (0, 1, 2, 3)
VOLUME = "volume"
COLUMNS = {"psnr": "PSNR", "ssim": "SSIM", "mask_iou": "mask IoU", "normal_error": "normal error"}
DIGITS = {"psnr": 2, "ssim": 4, "mask_iou": 4, "normal_error": 2}
Ways = Callable[[Asset, argparse.Namespace], Iterator[tuple[str, Mesh]]]
Records = Mapping[str, Mapping[str, Metrics]]


def compare_ways(ways: Ways, options: argparse.Namespace) -> None:
    """Measure the scenes one by one, and write the means.

    Args:
        ways: Yields the meshes of an asset that are compared, with their names.
        options: As `parser` reads them.

    Raises:
        ValueError: There is no scene, or one has too few frames.
    """
    found = find_scenes(options.scenes)
    if options.planes:
        found = {name: folder for name, folder in found.items() if _planes(options.planes, name).is_file()}
        print(f"{len(found)} scenes have planes in {options.planes}; others are left out", flush=True)
    if options.limit is not None:
        found = {name: found[name] for name in [sorted(found)[k] for k in evenly_spaced(len(found), options.limit)]}
    kept = {name: str(value) for name, value in vars(options).items() if name not in ("scenes", "output", "limit")}
    cache, asset_of = RecordCache(options.output, kept | {"version": __version__}), asset_source(options)
    records = {}
    for number, (name, folder) in enumerate(found.items(), 1):

        def compute(name: str = name, folder: Path = folder) -> dict[str, Metrics]:
            case = read_case(name, folder, INPUTS, options.size)
            return measure(asset_of(case), case.targets[: options.targets], ways, options)

        records[name] = cache.get(str(folder.resolve()), compute)
        shown = ", ".join(f"{way} {numbers['psnr']:.2f}" for way, numbers in records[name].items())
        print(f"{number} of {len(found)}, {name}: {shown or 'no surface'}", flush=True)
    write(records, kept, options.output)
    cache.clear()


def asset_source(options: argparse.Namespace) -> Callable[[EvaluationCase], Asset]:
    """Return a function from a case to its asset, which has the case's inputs as views.

    Args:
        options: `planes`, a folder of SCENE.safetensors, or None: a network makes them, that of `weights`.
    """
    if options.planes is None:
        model = ViewsTo3D.from_pretrained(find_stage2(options.weights))
        return lambda case: model(case.inputs)

    def load(case: EvaluationCase) -> Asset:
        asset = Asset.load(_planes(options.planes, case.name))
        asset.views = case.inputs
        return asset

    return load


def _planes(folder: Path, name: str) -> Path:
    return folder / f"{Path(name).name}.safetensors"


def measure(asset: Asset, targets: Views, ways: Ways, options: argparse.Namespace) -> dict[str, Metrics]:
    """Metrics of an asset's meshes by name, and of its volume if `options` have that; none without a surface."""
    if not has_surface(asset):
        return {}
    found = {name: compare(render_mesh_like(mesh, targets), targets) for name, mesh in ways(asset, options)}
    if options.volume:
        shown = render_like(asset.field, targets, with_normals=targets.normals is not None)
        found[VOLUME] = compare(shown, targets)
    return found


def write(records: Records, settings: Mapping[str, str], output: Path) -> None:
    """Write every number, and the table of means with what each way gains on the first."""
    whole = {name: record for name, record in records.items() if record}
    if not whole:
        raise ValueError("no scene has a surface, so there is nothing to compare")
    rows = table(list(whole.values()))
    heading = f"mean over {len(whole)} scenes; {len(records) - len(whole)} without a surface are left out"
    with atomic.merged(output) as partial:
        report = {"settings": settings, "scenes": records}
        (partial / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        (partial / "table.md").write_text("\n".join([heading, "", *rows]) + "\n")
    print("", heading, *rows, sep="\n")


def table(records: Sequence[Mapping[str, Metrics]]) -> list[str]:
    """A Markdown table of means over records, and of the gain in PSNR on the first way with its standard error."""
    ways = list(records[0])
    columns = [name for name in COLUMNS if name in records[0][ways[0]]]
    titles = [*(COLUMNS[name] for name in columns), "PSNR against the first"]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for way in ways:
        means = mean([record[way] for record in records])
        numbers = [f"{means[name]:.{DIGITS[name]}f}" for name in columns]
        gain = _gain([record[way]["psnr"] - record[ways[0]]["psnr"] for record in records])
        lines.append(f"| {way} | {' | '.join(numbers)} | {gain if way != ways[0] else ''} |")
    return lines


def _gain(differences: Sequence[float]) -> str:
    count = len(differences)
    middle = sum(differences) / count
    spread = math.sqrt(sum((each - middle) ** 2 for each in differences) / max(count - 1, 1) / count)
    return f"{middle:+.3f} ± {spread:.3f}"


def parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that all comparisons have.

    Args:
        module: Name of the module that is run.
        about: Its docstring.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=(about or "").split("\n")[0])
    made.add_argument("scenes", type=Path, nargs="+", help="scene folders, or folders of such")
    made.add_argument("-o", "--output", type=Path, required=True, help="folder for metrics.json and table.md")
    source = made.add_mutually_exclusive_group()
    source.add_argument("--weights", help=f"checkpoint folder or Hub id (default {bundled.STAGE2})")
    source.add_argument("--planes", type=Path, help="folder of SCENE.safetensors that a network made of such scenes")
    made.add_argument("--size", type=int, help="pixels a side of all images (default: the scenes' own)")
    made.add_argument("--limit", type=int, help="at most this many scenes, evenly spread over the sorted names")
    made.add_argument("--targets", type=int, help="at most this many held-out views of a scene")
    made.add_argument("--faces", type=int, default=DEFAULT.faces, help="triangles (default %(default)s)")
    made.add_argument("--volume", action="store_true", help="measure volume renders too, which takes longest")
    return made
