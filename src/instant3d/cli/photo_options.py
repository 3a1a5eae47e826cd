"""Options of `instant3d reconstruct` for photos without cameras."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from instant3d.utils.arg_types import finite_floats, nonempty_path

if TYPE_CHECKING:
    from instant3d.pipelines.photo_set import PhotoOptions


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = command.add_argument_group("photos without cameras")
    group.add_argument(
        "--azimuths",
        type=finite_floats,
        metavar="0,90,...",
        help="angle of each photo in degrees, from the front to the right (default: evenly spaced in their order)",
    )
    group.add_argument("--elevation", type=float, default=20.0, help="of the cameras, in degrees (default 20)")
    group.add_argument(
        "--fov", type=float, help="degrees across the longer side of a photo (default: from its EXIF data, else 50)"
    )
    group.add_argument(
        "--poses",
        choices=("refined", "given", "guess"),
        default="refined",
        help="refined (default) by rendering and comparing; as given; guess: the order of the photos is unknown too",
    )
    group.add_argument(
        "--matting", type=nonempty_path, metavar="FILE.onnx", help="network that cuts objects out, such as IS-Net"
    )
    group.add_argument(
        "--save-scene", type=nonempty_path, metavar="FOLDER", help="write the photos with their cameras as a scene"
    )


def photo_options(arguments: argparse.Namespace) -> PhotoOptions:
    """Return the options that were given."""
    from instant3d.pipelines.photo_set import PhotoOptions

    return PhotoOptions(
        azimuths_deg=arguments.azimuths,
        elevation_deg=arguments.elevation,
        fov_deg=arguments.fov,
        matting=arguments.matting,
        poses=arguments.poses,
    )
