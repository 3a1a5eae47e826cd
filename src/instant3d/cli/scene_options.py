"""Options and output of `instant3d import`, `pack` and `unpack`; heavy modules are imported late."""

from __future__ import annotations

import argparse
import sys

from instant3d.utils.arg_types import nonempty_path, positive_int
from instant3d.utils.errors import print_escaped

LAYOUTS = ("openlrm", "instantmesh", "zero123", "gobjaverse", "nerf-synthetic")
CAPTURES = ("nerfstudio", "polycam", "record3d", "colmap")
OF_LAYOUTS, OF_CAPTURES = ("scale", "up", "fov", "depth_range"), ("views", "matting")  # options of one kind alone


def add_import(command: argparse.ArgumentParser) -> None:
    """Declare the options of `import`."""
    command.add_argument("layout", choices=(*LAYOUTS, *CAPTURES), help="the layout of SOURCE")
    command.add_argument(
        "source", type=nonempty_path, help="one object's folder, or a folder of such at any depth; or one capture"
    )
    command.add_argument(
        "-o",
        "--output",
        type=nonempty_path,
        required=True,
        help="folder for scene folders, named as in SOURCE; of a capture: the scene folder",
    )
    command.add_argument("--scale", type=float, help="of their world (default: so that the object's box is [-1, 1]^3)")
    command.add_argument("--up", choices=("z", "y"), help="axis that is up in their world (default z)")
    command.add_argument("--fov", type=float, help="field of view in degrees, where the files have none")
    command.add_argument("--depth-range", type=float, help="instantmesh: the depth that 255 stands for (default 6)")
    group = command.add_argument_group(f"captures ({', '.join(CAPTURES)})")
    group.add_argument("--views", type=positive_int, help="how many of the views, spread and sharp (default 6)")
    group.add_argument(
        "--matting", type=nonempty_path, metavar="FILE.onnx", help="network that cuts the object out, without masks"
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
    is_capture = arguments.layout in CAPTURES
    for name in OF_LAYOUTS if is_capture else OF_CAPTURES:
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is not an option of {arguments.layout}; leave it out")
    return _import_capture(arguments) if is_capture else _import_layout(arguments)


def _import_capture(arguments: argparse.Namespace) -> int:
    from instant3d.pipelines.import_capture import CaptureOptions, import_capture
    from instant3d.utils.progress import Progress

    options = CaptureOptions(arguments.views or CaptureOptions.views, arguments.matting)
    with Progress.to_user().task("looking at images") as on_step:
        result = import_capture(arguments.layout, arguments.source, arguments.output, options, on_step)
    if result.cut_off:
        print_escaped(
            f"instant3d: note: {result.cut_off} images were not used: the object, or something in front of it such as "
            "a hand, reaches their border",
            sys.stderr,
        )
    print_escaped(f"{arguments.output}: {len(result.names)} of {result.count} views: {', '.join(result.names)}")
    return 0


def _import_layout(arguments: argparse.Namespace) -> int:
    from instant3d.scenes import importers
    from instant3d.scenes.layouts import LayoutOptions

    options = LayoutOptions(
        arguments.fov, LayoutOptions.depth_range if arguments.depth_range is None else arguments.depth_range
    )
    settings = importers.ImportSettings(arguments.layout, arguments.scale, arguments.up or "z", options)
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
