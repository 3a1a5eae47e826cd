"""Options of `instant3d reconstruct` and `instant3d evaluate reconstruction`."""

from __future__ import annotations

import argparse

from instant3d.cli import photo_options, view_generator_options
from instant3d.cli.format_options import add_formats, add_mesh_kind, mesh_options
from instant3d.utils import bundled
from instant3d.utils.arg_types import byte_size, frame_numbers, nonempty_path, positive_int
from instant3d.utils.errors import print_escaped
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.utils.mesh_options import DEFAULT


def add_reconstruct(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d reconstruct`."""
    command.add_argument(
        "scene",
        type=nonempty_path,
        nargs="+",
        help="folder with transforms.json and images; or one image, for weights that take one; or two to four photos "
        "without cameras: front, right, back, left",
    )
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for the results; other files in it stay"
    )
    _add_shared(command)
    command.add_argument(
        "--resolution",
        type=positive_int,
        help="nodes a side of the mesh's grid (default: two for each texel of the planes, at most 256)",
    )
    add_formats(command)
    command.add_argument(
        "--max-memory", type=byte_size, default=MemoryLimits.scratch, help="for rendering and meshing (default 1G)"
    )
    photo_options.add(command)
    view_generator_options.add(command)
    command.set_defaults(command=_reconstruct)


def add_evaluation(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d evaluate reconstruction`."""
    command.add_argument("scenes", type=nonempty_path, nargs="+", help="scene folders, or folders of such")
    command.add_argument(
        "-o",
        "--output",
        type=nonempty_path,
        required=True,
        help="folder for metrics.json and table.md; an interrupted run resumes",
    )
    _add_shared(command)
    command.add_argument("--resolution", type=positive_int, default=128, help="size of all images (default 128)")
    command.add_argument("--reference", type=nonempty_path, help="folder of true meshes, named like the scenes")
    command.add_argument(
        "--up", choices=("y", "z"), default="y", help="up axis of their .obj and .ply files (default y)"
    )
    command.add_argument(
        "--perceptual", type=nonempty_path, help="torchvision's VGG-16 weights (.pth), to measure LPIPS too"
    )
    group = command.add_argument_group("the mesh")
    group.add_argument(
        "--mesh", action="store_true", help="also measure textured meshes, made by the options below, and normals"
    )
    add_mesh_kind(group)
    command.set_defaults(command=_evaluate)


def _add_shared(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", help=f"checkpoint folder or Hub id (default {bundled.STAGE2})")
    command.add_argument(
        "--views", type=frame_numbers, help="input frames, such as 0,1,2,3 (default: the first four), or all"
    )
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


def _reconstruct(arguments: argparse.Namespace) -> None:
    from instant3d.pipelines.reconstruct import closing_line, reconstruct
    from instant3d.pipelines.weights import find_stage2

    result = reconstruct(
        arguments.scene,
        arguments.output,
        weights=find_stage2(arguments.weights, option="--weights"),
        views=arguments.views,
        resolution=arguments.resolution,
        formats=arguments.formats,
        options=mesh_options(arguments),
        size_mm=arguments.size_mm,
        device=arguments.device,
        max_memory=arguments.max_memory,
        photos=photo_options.photo_options(arguments),
        save_scene=arguments.save_scene,
        views_by=arguments.views_by,
        sampling=view_generator_options.sampling(arguments),
    )
    print_escaped(closing_line(result, arguments.output))


def _evaluate(arguments: argparse.Namespace) -> None:
    from instant3d.evaluation import reconstruction
    from instant3d.pipelines.weights import find_stage2
    from instant3d.utils.devices import find_device

    if arguments.views == "all":
        raise ValueError(
            "an evaluation holds views back to compare with; name the input views, such as --views 0,1,2,3"
        )
    options = mesh_options(arguments)
    if not arguments.mesh and (arguments.purpose or options != DEFAULT):
        raise ValueError("--for, --faces and --texture are options of meshes; add --mesh to measure meshes")
    reconstruction.evaluate_reconstruction(
        arguments.scenes,
        weights=find_stage2(arguments.weights, option="--weights"),
        views=arguments.views or [0, 1, 2, 3],
        resolution=arguments.resolution,
        output=arguments.output,
        reference=arguments.reference,
        up=arguments.up,
        perceptual=arguments.perceptual and str(arguments.perceptual),
        mesh=options if arguments.mesh else None,
        device=find_device(arguments.device),
    )
