"""The options on mesh files, which several commands share."""

from __future__ import annotations

import argparse

from instant3d.utils.arg_types import comma_separated


def add_formats(command: argparse.ArgumentParser) -> None:
    """Declare `--formats` and `--size-mm`."""
    command.add_argument(
        "--formats", type=comma_separated, default=["glb"], help="of the mesh: glb,obj,ply,stl,3mf,usdz (default glb)"
    )
    command.add_argument(
        "--size-mm", type=float, default=100.0, help="largest side in stl and 3mf, in millimetres (default 100)"
    )
