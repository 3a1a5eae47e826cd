"""Options and output of `instant3d mesh`, which meshes a saved asset again."""

from __future__ import annotations

import argparse
from pathlib import Path

from instant3d.cli.format_options import add_formats, mesh_options
from instant3d.utils.arg_types import byte_size, nonempty_path, positive_int
from instant3d.utils.errors import print_escaped


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options of `mesh`."""
    command.add_argument(
        "asset", type=nonempty_path, help="folder that `generate` or `reconstruct` wrote, or a triplane.safetensors"
    )
    command.add_argument(
        "-o",
        "--output",
        type=nonempty_path,
        required=True,
        help="folder for mesh.FORMAT, whose other files stay; or one file, such as chair.glb",
    )
    add_formats(command)
    command.add_argument(
        "--resolution",
        type=positive_int,
        help="nodes a side of the mesh's grid (default: two for each texel of the planes, at most 256)",
    )
    command.add_argument("--max-memory", type=byte_size, default=2**30, help="for meshing (default 1G)")
    command.set_defaults(command=run, output_is_file=None)  # a file or a folder


def run(arguments: argparse.Namespace) -> None:
    """Make the mesh and print one line.

    Args:
        arguments: The parsed options.

    Raises:
        ValueError: An option is invalid, or the asset has no surface.
        FileNotFoundError: There is no such asset.
    """
    from instant3d.mesh import FORMATS
    from instant3d.pipelines.remesh import closing_line, remesh

    if arguments.output.is_file() and arguments.output.suffix.lower().lstrip(".") not in FORMATS:
        raise ValueError(
            f"{arguments.output} is a file; name a folder, or a file that ends with .{', .'.join(FORMATS)}"
        )

    record = remesh(
        arguments.asset,
        arguments.output,
        options=mesh_options(arguments),
        formats=_formats(arguments.output, arguments.formats),
        size_mm=arguments.size_mm,
        resolution=arguments.resolution,
        max_memory=arguments.max_memory,
    )
    print_escaped(closing_line(record, arguments.output))


def _formats(output: Path, formats: list[str]) -> list[str]:
    """Return the format of an output that is one file, else `formats`."""
    suffix = output.suffix.lower().lstrip(".")
    return [suffix] if suffix and not output.is_dir() else formats
