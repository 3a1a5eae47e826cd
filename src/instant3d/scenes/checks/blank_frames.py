"""Detection of blank frames, and a fingerprint of a scene's first images.

A frame that shows nothing, or one uniform colour, has no outline and is left out of the camera checks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

DARK, BRIGHT = 8 / 255, 247 / 255  # black and white after lossy compression
LEAST_SHARE = 2e-4  # least share of the image that a visible object covers: 3 pixels of 128 x 128
COLOURED = 0.1  # a brighter object is not black; one darker than 1 by half of this is not white
TILE, TILES = 8, 4  # a fingerprint is a mosaic of 8 x 8 squares of each of 4 images


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of a frame.

    Attributes:
        number: Frame number.
        rgb: (3, H, W) in [0, 1], 0 where alpha is 0.
        alpha: (1, H, W) in [0, 1].
        alpha_source: Where alpha came from, see `instant3d.scenes.images.DecodedImage`.
        size: Width and height of the full frame in pixels.
        greatest: Largest alpha value of the full frame, of 255.
        ignored_orientation: EXIF orientation that was not applied, see `instant3d.scenes.images.DecodedImage`.
        applied_orientation: EXIF orientation that was applied.
    """

    number: int
    rgb: Tensor
    alpha: Tensor
    alpha_source: str
    size: tuple[int, int]
    greatest: int = 255
    ignored_orientation: int = 1
    applied_orientation: int = 1


def blank(thumbnails: list[Thumbnail]) -> dict[int, str]:
    """Classify blank frames as "black", "white" or "empty", by frame number.

    An object may be black or white itself: where it is cut out, a frame counts only if most others show colours.
    """
    shades = [_shade(thumbnail) for thumbnail in thumbnails]
    lit = 2 * shades.count("coloured") > len(shades)
    found = {}
    for thumbnail, shade in zip(thumbnails, shades, strict=True):
        if shade in ("empty", "white page", "black page") or (lit and shade in ("black", "white")):
            found[thumbnail.number] = shade.removesuffix(" page")
    return found


def fingerprint(thumbnails: list[Thumbnail]) -> bytes:
    """Average the first images to coarse mosaics: similar for two renderings of one object, different for two objects.

    Returns:
        Bytes of a float32 vector; b"" if there are fewer than `TILES` images.
    """
    chosen = thumbnails[:TILES]
    if len(chosen) < TILES:
        return b""
    tiles = []
    for thumbnail in chosen:
        image = torch.cat([thumbnail.rgb * thumbnail.alpha, thumbnail.alpha])
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
