"""Whether each picture of a scene shows something. Knows nothing of cameras.

A frame that shows nothing, or one colour from edge to edge, has no outline and is left out of what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

DARK, BRIGHT = 8 / 255, 247 / 255  # what compression leaves of black and of white
LEAST_SHARE = 2e-4  # of the picture, that a visible object covers: 3 pixels of 128 x 128
COLOURED = 0.1  # brightest channel of an object that is surely not black, and below 1 by this: not white
TILE, TILES = 8, 4  # squares a side of a fingerprint, and pictures in it


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of a frame: `rgb` (3, H, W) and `alpha` (1, H, W) in [0, 1], rgb 0 where alpha is."""

    number: int
    rgb: Tensor
    alpha: Tensor
    alpha_source: str  # where alpha came from (`instant3d.scenes.images`)
    size: tuple[int, int]  # width and height of the frame itself
    greatest: int = 255  # of the frame's alpha


def blank(thumbnails: list[Thumbnail]) -> dict[int, str]:
    """Which frames are "black", "white" or "empty", by number.

    An object may be black by nature: where it is cut out, a frame counts only if others show colours.
    """
    shades = [_shade(picture) for picture in thumbnails]
    lit = 2 * shades.count("coloured") > len(shades)
    found = {}
    for picture, shade in zip(thumbnails, shades, strict=True):
        if shade in ("empty", "white page", "black page") or (lit and shade in ("black", "white")):
            found[picture.number] = shade.removesuffix(" page")
    return found


def fingerprint(thumbnails: list[Thumbnail]) -> bytes:
    """The first few pictures as coarse mosaics: alike for an object rendered twice, apart for two objects."""
    chosen = thumbnails[:TILES]
    if len(chosen) < TILES:
        return b""
    tiles = []
    for picture in chosen:
        image = torch.cat([picture.rgb * picture.alpha, picture.alpha])
        tiles.append(F.adaptive_avg_pool2d(image, TILE).flatten())
    return torch.cat(tiles).numpy().tobytes()


def _shade(thumbnail: Thumbnail) -> str:
    rgb, covered = thumbnail.rgb, thumbnail.alpha[0] >= 0.5
    share = float(covered.float().mean())
    if share < LEAST_SHARE:
        return "white page" if thumbnail.alpha_source == "white" else "empty"
    colours = rgb[:, covered]
    page = share > 0.99
    if float(colours.max()) <= DARK:
        return "black page" if page else "black"
    if float(colours.min()) >= BRIGHT:
        return "white page" if page else "white"
    brightest = colours.amax(0)
    return "coloured" if float(brightest.mean()) > COLOURED and float(colours.mean()) < 1 - COLOURED / 2 else "dim"
