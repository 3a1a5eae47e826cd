"""Options and output of `instant3d import`, `pack` and `unpack`; heavy modules are imported late."""

from __future__ import annotations

import argparse
import sys

from instant3d.utils.arg_types import nonempty_path, positive_int
from instant3d.utils.errors import print_escaped

LAYOUTS = ("openlrm", "instantmesh", "zero123", "gobjaverse", "nerf-synthetic")


def add_import(command: argparse.ArgumentParser) -> None:
    """Declare the options of `import`."""
    command.add_argument("layout", choices=LAYOUTS, help="the layout of SOURCE")
    command.add_argument("source", type=nonempty_path, help="one object's folder, or a folder of such at any depth")
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for scene folders, named as in SOURCE"
    )
    command.add_argument("--scale", type=float, help="of their world (default: so that the object's box is [-1, 1]^3)")
    command.add_argument("--up", choices=("z", "y"), default="z", help="axis that is up in their world (default z)")
    command.add_argument("--fov", type=float, help="field of view in degrees, where the files have none")
    command.add_argument(
        "--depth-range", type=float, default=6.0, help="instantmesh: the depth that 255 stands for (default 6)"
    )
    command.set_defaults(command=_import)


def add_pack(command: argparse.ArgumentParser) -> None:
    """Declare the options of `pack`."""
    command.add_argument("scenes", type=nonempty_path, nargs="+", help="scene folders, or folders of such at any depth")
    command.add_argument("-o", "--output", type=nonempty_path, required=True, help="folder for the tars and index.json")
    command.add_argument("--per-shard", type=positive_int, default=256, help="scenes in a tar (default 256)")
    command.add_argument(
        "--keep", type=nonempty_path, metavar="LIST", help="text file of ids, one a line: only these scenes"
    )
    command.set_defaults(command=_pack)


def add_unpack(command: argparse.ArgumentParser) -> None:
    """Declare the options of `unpack`."""
    command.add_argument("shards", type=nonempty_path, help="a folder of tars that `instant3d pack` wrote, or one tar")
    command.add_argument("-o", "--output", type=nonempty_path, required=True, help="folder for the scene folders")
    command.set_defaults(command=_unpack)


def _import(arguments: argparse.Namespace) -> int:
    from instant3d.scenes import importers
    from instant3d.scenes.layouts import LayoutOptions

    options = LayoutOptions(arguments.fov, arguments.depth_range)
    settings = importers.ImportSettings(arguments.layout, arguments.scale, arguments.up, options)
    counts = {"new": 0, "there": 0, "failed": 0}
    for outcome in importers.convert(arguments.source, arguments.output, settings):
        counts[outcome.state] += 1
        if outcome.state == "failed":
            print_escaped(f"instant3d: note: left out {outcome.name}: {outcome.reason}", sys.stderr)
    already = f", {counts['there']} were there already" if counts["there"] else ""
    print_escaped(f"{arguments.output}: {counts['new']} scenes imported{already}, {counts['failed']} left out")
    return 2 if counts["failed"] else 0


def _pack(arguments: argparse.Namespace) -> None:
    from instant3d.scenes import pack
    from instant3d.stage1.grid_dataset import read_keep
    from instant3d.utils.progress import Progress

    keep = None if arguments.keep is None else read_keep(arguments.keep)
    with Progress.to_user().task("packing scenes") as on_step:
        result = pack.pack(arguments.scenes, arguments.output, arguments.per_shard, on_step, keep)
    scenes, size = sum(shard.scenes for shard in result.shards), sum(shard.bytes for shard in result.shards)
    kept = f", {result.kept} of them there already" if result.kept else ""
    print_escaped(f"{arguments.output}: {scenes} scenes in {len(result.shards)} shards ({size / 2**20:.1f} MiB){kept}")


def _unpack(arguments: argparse.Namespace) -> int:
    from instant3d.scenes import unpack
    from instant3d.utils.progress import Progress

    with Progress.to_user().task("unpacking shards") as on_step:
        result = unpack.unpack(arguments.shards, arguments.output, on_step)
    for sentence in result.damage:
        print_escaped(f"instant3d: error: {sentence}", sys.stderr)
    already = f", {result.there} were there already" if result.there else ""
    print_escaped(f"{arguments.output}: {result.new} scenes unpacked{already}, {len(result.damage)} faults")
    return 2 if result.damage else 0
