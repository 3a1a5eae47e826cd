"""Options of `instant3d reconstruct` for views that are generated from one photo."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from instant3d.utils.arg_types import nonempty_path, positive_int, seed

if TYPE_CHECKING:
    from instant3d.modules.diffusion.zero123plus import Zero123PlusSampling

OPTIONS = ("steps", "guidance", "seed")


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = command.add_argument_group("views generated from one photo")
    group.add_argument(
        "--views-by", type=nonempty_path, metavar="FOLDER", help="a converted Zero123++, for weights of posed views"
    )
    group.add_argument("--steps", type=positive_int, help="of denoising (default 75)")
    group.add_argument("--guidance", type=float, help="how close to the photo (default 4)")
    group.add_argument("--seed", type=seed, help="the same seed gives the same views (default 0)")


def sampling(arguments: argparse.Namespace) -> Zero123PlusSampling:
    """Return the settings of the generator.

    Raises:
        ValueError: One was given without a generator, or is out of range.
    """
    from instant3d.modules.diffusion.zero123plus import Zero123PlusSampling

    given = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    if given and arguments.views_by is None:
        raise ValueError(f"--{next(iter(given))} belongs to --views-by, which is not given; leave it out")
    return Zero123PlusSampling(**given)
