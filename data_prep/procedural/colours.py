"""Named colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .portable_rng import PortableRandom

Colour = tuple[int, int, int]

NAMED_COLOURS: dict[str, Colour] = {
    "black": (24, 24, 26),
    "dark grey": (78, 80, 84),
    "grey": (134, 136, 139),
    "light grey": (192, 194, 196),
    "white": (246, 245, 243),
    "red": (204, 38, 36),
    "dark red": (118, 22, 28),
    "orange": (236, 124, 32),
    "brown": (110, 68, 36),
    "tan": (188, 144, 96),
    "beige": (230, 211, 172),
    "yellow": (246, 214, 52),
    "olive": (126, 126, 44),
    "green": (62, 152, 58),
    "dark green": (24, 80, 40),
    "light green": (150, 212, 118),
    "teal": (24, 126, 128),
    "turquoise": (72, 206, 198),
    "light blue": (142, 190, 234),
    "blue": (44, 88, 206),
    "dark blue": (22, 32, 104),
    "purple": (120, 50, 158),
    "lilac": (190, 152, 220),
    "pink": (246, 152, 184),
    "magenta": (214, 40, 140),
}


def lab(rgb: NDArray) -> NDArray[np.float64]:
    """sRGB in 0 ... 255 to CIE L*a*b* (D65), rounded, so that names do not depend on a library's last bit."""
    unit = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.round(np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1), 6)


_NAMES = list(NAMED_COLOURS)
_NAMES_LAB = lab(np.array(list(NAMED_COLOURS.values())))


def nearest_name(rgb: NDArray | Colour) -> str:
    """The named colour closest in CIE L*a*b* to an sRGB colour in 0 ... 255."""
    return _NAMES[int(np.argmin(((_NAMES_LAB - lab(np.asarray(rgb))) ** 2).sum(-1)))]


def contrast(one: Colour, other: Colour) -> float:
    """The CIE76 distance of two colours: about 2 is just visible, black to white is 100."""
    difference = lab(np.array(one)) - lab(np.array(other))
    return float(np.sqrt((difference**2).sum()))


def draw_colour(dice: PortableRandom, names: Sequence[str] = ()) -> Colour:
    """A random colour whose nearest name is one of `names` (any if there are none)."""
    name = dice.pick(names or _NAMES)
    base = np.array(NAMED_COLOURS[name], dtype=np.float64)
    for _ in range(6):
        shifted = np.clip(base * dice.uniform(0.8, 1.15) + dice.uniforms(3, -14, 14), 0, 255).astype(int)
        if nearest_name(shifted) == name:
            return int(shifted[0]), int(shifted[1]), int(shifted[2])
    return NAMED_COLOURS[name]


def draw_pair(dice: PortableRandom, names: Sequence[str] = ()) -> tuple[Colour, Colour]:
    """Two random colours with different names and a high contrast; the first has one of `names`."""
    first = draw_colour(dice, names)
    for _ in range(20):
        second = draw_colour(dice)
        if contrast(first, second) > 35 and nearest_name(first) != nearest_name(second):
            return first, second
    return first, (NAMED_COLOURS["white"] if contrast(first, NAMED_COLOURS["white"]) > 35 else NAMED_COLOURS["black"])
