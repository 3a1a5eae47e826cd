"""Tileable textures with adjectives for captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .colours import Colour, draw_colour, draw_pair, nearest_name
from .portable_rng import PortableRandom


@dataclass(frozen=True)
class Texture:
    """sRGB pixels with the adjectives that describe them.

    Attributes:
        pixels: (H, W, 3) uint8; tileable in both directions unless `tile` is 0.
        words: Such as "red", "red and white striped", "brown wooden".
        tile: World length of one repeat; 0 for images that cover a surface once.
    """

    pixels: NDArray[np.uint8]
    words: str
    tile: float


def plain(colour: Colour) -> Texture:
    """One colour all over."""
    pixels = np.broadcast_to(np.array(colour, dtype=np.uint8), (4, 4, 3)).copy()
    return Texture(pixels, nearest_name(colour), tile=0.0)


def noise(dice: PortableRandom, size: int, cells: int, octaves: int = 3) -> NDArray[np.float64]:
    """Periodic value noise, (size, size) in [0, 1]: random lattices blended smoothly, each octave half as strong.

    Args:
        dice: Source of the lattices.
        size: Pixels a side.
        cells: Cells a side of the first octave's lattice; each further octave has twice as many.
        octaves: Number of lattices.
    """
    total = np.zeros((size, size))
    for octave in range(octaves):
        count = cells << octave
        lattice = dice.uniforms((count, count))
        where = np.arange(size) * count / size
        low = where.astype(int)
        part = where - low
        part = part * part * (3 - 2 * part)
        rows = lattice[low] * (1 - part[:, None]) + lattice[(low + 1) % count] * part[:, None]
        total += (rows[:, low] * (1 - part) + rows[:, (low + 1) % count] * part) * 0.5**octave
    return (total - total.min()) / (total.max() - total.min())


def _blend(amount: NDArray, first: Colour, second: Colour) -> NDArray[np.uint8]:
    """Colours between two, in 24 steps: few distinct colours keep PNG files small."""
    steps = np.round(amount * 24) / 24
    mixed = np.array(first) * (1 - steps[..., None]) + np.array(second) * steps[..., None]
    return np.round(mixed).astype(np.uint8)


def _grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel centres (u, v) in [0, 1), each (size, size)."""
    centres = (np.arange(size) + 0.5) / size
    return np.broadcast_to(centres, (size, size)), np.broadcast_to(centres[:, None], (size, size))


def _two_tone(mask: NDArray, pair: tuple[Colour, Colour], pattern: str, tile: float) -> Texture:
    words = f"{nearest_name(pair[0])} and {nearest_name(pair[1])} {pattern}"
    return Texture(_blend(mask.astype(np.float64), *pair), words, tile)


def stripes(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Straight stripes: level, upright or slanting."""
    u, v = _grid(128)
    count, share = dice.between(2, 5), dice.uniform(0.35, 0.6)
    along = dice.pick([u, v, u + v])
    return _two_tone((along * count) % 1 < share, draw_pair(dice, names), "striped", dice.uniform(0.4, 0.9))


def checks(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """A chessboard."""
    u, v = _grid(128)
    count = dice.pick([1, 2, 4])
    mask = ((u * 2 * count).astype(int) + (v * 2 * count).astype(int)) % 2 == 1
    return _two_tone(mask, draw_pair(dice, names), "checked", dice.uniform(0.3, 0.4) * (1 + count / 2))


def dots(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Round dots in a square or a staggered order."""
    u, v = _grid(128)
    count, radius = dice.between(2, 4), dice.uniform(0.28, 0.4)
    x, y = (u * count) % 1 - 0.5, (v * count) % 1 - 0.5
    if dice.chance(0.5):
        count, radius = 2 * (count // 2 + 1), min(radius, 0.36)
        y = (v * count) % 1 - 0.5
        x = (u * count + 0.5 * ((v * count).astype(int) % 2)) % 1 - 0.5
    mask = x * x + y * y < radius * radius
    return _two_tone(mask, draw_pair(dice, names), "dotted", dice.uniform(0.4, 0.9))


def tiles(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Square tiles or bricks with joints of another colour, no two tiles quite alike."""
    u, v = _grid(128)
    bricks = dice.chance(0.5)
    rows = dice.pick([4, 6, 8] if bricks else [2, 3, 4])
    columns = rows // 2 if bricks else rows
    row = (v * rows).astype(int)
    along = (u * columns + (0.5 * (row % 2) if bricks else 0.0)) % columns
    down, joint = (v * rows) % 1, dice.uniform(0.06, 0.1)
    seam = (along % 1 < joint * columns / rows) | (down < joint)
    face, mortar = draw_pair(dice, names)
    shade = dice.uniforms((rows, columns), 0.0, 0.22)[row, along.astype(int)]
    amount = np.where(seam, 1.0, shade)
    return _blended(amount, (face, mortar), "brick" if bricks else "tiled", dice.uniform(0.5, 1.0))


def _named_by_mean(pixels: NDArray[np.uint8], pattern: str, tile: float) -> Texture:
    return Texture(pixels, f"{nearest_name(pixels.reshape(-1, 3).mean(0))} {pattern}", tile)


def _blended(amount: NDArray, pair: tuple[Colour, Colour], pattern: str, tile: float) -> Texture:
    """Blend two colours; the name is that of the tenth and ninetieth percentile: a mean may be a third colour."""
    pixels, steps = _blend(amount, *pair), np.round(amount * 24)
    ranked = pixels.reshape(-1, 3)[np.argsort(steps, axis=None, kind="stable")]
    low, high = (nearest_name(ranked[len(ranked) * percent // 100]) for percent in (10, 90))
    return (
        Texture(pixels, f"{low} and {high} {pattern}", tile) if low != high else _named_by_mean(pixels, pattern, tile)
    )


def mottled(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Soft blotches of one colour shading into another."""
    pair = draw_pair(dice, names)
    amount = noise(dice, 128, dice.between(3, 8)) ** 2 * dice.uniform(0.5, 0.9)
    return _blended(amount, pair, "mottled", dice.uniform(0.6, 1.2))


def speckled(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Small grains of a second colour scattered over the first, as in granite."""
    pair = draw_pair(dice, names)
    amount = np.clip((noise(dice, 128, 32, octaves=1) - 0.62) * 6, 0, 1)
    return _blended(amount, pair, "speckled", dice.uniform(0.5, 1.0))


def marbled(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Bent veins (Perlin 1985: a sine of a coordinate that noise pushes about)."""
    pair = draw_pair(dice, names)
    u, v = _grid(128)
    phase = 2 * np.pi * (dice.between(1, 3) * u + dice.between(0, 2) * v) + 7 * noise(dice, 128, 4)
    amount = (0.5 + 0.5 * np.sin(phase)) ** dice.pick([2, 3, 5]) * dice.uniform(0.6, 1.0)
    return _blended(amount, pair, "marbled", dice.uniform(0.7, 1.4))


def wooden(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Grain along v: lines that wander a little, darker than the ground."""
    ground = draw_colour(dice, names or ["brown", "tan", "beige", "tan"])
    dark = tuple(int(channel * dice.uniform(0.55, 0.75)) for channel in ground)
    u, v = _grid(128)
    bend = noise(dice, 128, 2, octaves=2) * dice.uniform(0.15, 0.4)
    lines = 0.5 + 0.5 * np.sin(2 * np.pi * (dice.between(4, 9) * (u + 0 * v) + 3 * bend))
    amount = np.clip(0.7 * lines**2 + 0.3 * noise(dice, 128, 16, octaves=1), 0, 1)
    return _named_by_mean(_blend(amount, ground, (dark[0], dark[1], dark[2])), "wooden", dice.uniform(0.6, 1.2))


def camouflage(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Blobs of two colours with hard edges."""
    field = noise(dice, 128, dice.between(3, 6), octaves=2)
    mask = field > float(np.sort(field, axis=None)[field.size // 2])
    return _two_tone(mask, draw_pair(dice, names), "camouflage", dice.uniform(0.6, 1.2))


def shaded(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """One colour turning into another from the top of a surface to its bottom."""
    first, second = draw_pair(dice, names)
    amount = np.broadcast_to(np.linspace(0, 1, 64)[:, None], (64, 64))
    words = f"{nearest_name(first)}-to-{nearest_name(second)} shaded"
    return Texture(_blend(amount, first, second), words, tile=0.0)


def lettered(dice: PortableRandom, names: Sequence[str] = ()) -> Texture:
    """Rows of random marks that resemble print from afar."""
    paper, ink = draw_pair(dice, names)
    size, rows = 128, dice.between(4, 7)
    mask = np.zeros((size, size), dtype=bool)
    height = size // rows
    for row in range(rows):
        left = dice.between(3, 9)
        top, tall = row * height + height // 4, height // 2
        while left < size - 12:
            width = dice.between(max(3, height // 4), max(5, height // 2))
            if dice.chance(0.82):
                mask[top : top + tall, left : left + width] |= _glyph(dice, tall, width)[:, : size - left]
            left += width + max(2, height // 8)
    return _two_tone(mask, (paper, ink), "lettered", dice.uniform(0.6, 1.2))


def _glyph(dice: PortableRandom, tall: int, width: int) -> NDArray[np.bool_]:
    """One mark of two to four strokes."""
    mark = np.zeros((tall, width), dtype=bool)
    pen = max(1, tall // 6)
    for _ in range(dice.between(2, 4)):
        if dice.chance(0.5):
            column = dice.pick([0, (width - pen) // 2, width - pen])
            mark[:, column : column + pen] = True
        else:
            row = dice.pick([0, (tall - pen) // 2, tall - pen])
            mark[row : row + pen] = True
    return mark


PATTERNS: tuple[Callable[..., Texture], ...] = (
    stripes,
    checks,
    dots,
    tiles,
    mottled,
    speckled,
    marbled,
    wooden,
    camouflage,
    shaded,
    lettered,
)


def draw_texture(dice: PortableRandom, patterned: float, names: Sequence[str] = ()) -> Texture:
    """Draw a pattern with probability `patterned`, else a plain colour; near the colours in `names`, if any."""
    if dice.chance(patterned):
        return dice.pick(PATTERNS)(dice, names)
    return plain(draw_colour(dice, names))
