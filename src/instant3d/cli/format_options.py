"""Options of meshes and their files, which several commands share."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable
from typing import Any

from instant3d.utils.arg_types import comma_separated
from instant3d.utils.mesh_options import DEFAULT, ORIGINS, PRESETS, SIZE_MM, MeshOptions


def add_formats(command: argparse.ArgumentParser) -> None:
    """Declare the options of the mesh: how it is made and in which formats it is written."""
    group = command.add_argument_group("the mesh")
    group.add_argument(
        "--formats", type=comma_separated, default=["glb"], help="of the mesh: glb,obj,ply,stl,3mf,usdz (default glb)"
    )
    add_mesh_kind(group)
    group.add_argument("--origin", choices=ORIGINS, help=f"where the mesh stands (default {DEFAULT.origin})")
    group.add_argument(
        "--size-mm",
        type=float,
        default=SIZE_MM,
        help=f"largest side in stl and 3mf, in millimetres (default {SIZE_MM:g})",
    )


def add_mesh_kind(group: argparse._ArgumentGroup) -> None:
    """Declare the options that determine a mesh's triangles and colours."""
    group.add_argument(
        "--for",
        dest="purpose",
        choices=list(PRESETS),
        help="choose the options below for a purpose: "
        + "; ".join(f"{name}: {_words(PRESETS[name])}" for name in PRESETS),
    )
    group.add_argument("--faces", type=_count("full"), metavar="N|full", help=f"at most (default {DEFAULT.faces})")
    group.add_argument(
        "--texture",
        type=_count("none"),
        metavar="SIZE|none",
        help=f"pixels a side, or none for vertex colours (default {DEFAULT.texture})",
    )


def mesh_options(arguments: argparse.Namespace) -> MeshOptions:
    """Return the chosen mesh options: those of the purpose (--for), overridden by those given one by one.

    Args:
        arguments: The parsed options.

    Raises:
        ValueError: A number is out of its range.
    """
    chosen = PRESETS.get(arguments.purpose, DEFAULT)
    given = {name: getattr(arguments, name, None) for name in ("faces", "texture", "origin")}
    changes: dict[str, Any] = {
        name: None if value == "" else value for name, value in given.items() if value is not None
    }
    return dataclasses.replace(chosen, **changes)


def _count(word: str) -> Callable[[str], int | str]:
    """Return an argument type: a whole number, or `word`, which becomes an empty string."""

    def count(text: str) -> int | str:
        if text == word:
            return ""
        if not re.fullmatch(r"\d{1,12}", text):
            raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {word}")
        return int(text)

    return count


def _words(options: MeshOptions) -> str:
    solid = ", closed, in one piece" if options.printable else ""
    return f"{options.faces} faces, {options.texture} px{solid}"
