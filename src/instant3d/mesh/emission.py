"""Light that a surface emits, as part of its colour.

A surface shows its base colour as lit, plus its emission (glTF 2.0, 3.9.4). Meshes here have no emission, and their
colours are those under white light, so it is added to the base colour in linear light.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from PIL import Image

from instant3d.mesh.colorspace import linear_from_srgb, srgb_from_linear
from instant3d.mesh.untrusted import TooLarge
from instant3d.utils.images import MAX_PIXELS

BLACK = 0.02  # linear: up to this, a colour is black
STRIP = 2**20  # pixels that are added at once
LINEAR = linear_from_srgb(np.arange(256) / 255).astype(np.float32)

Look = dict[str, Any]  # the arguments of `Mesh` that come from a material


class EmissionBaker:
    """Adds emission to the base colours of one file's materials; equal sums of textures are made once."""

    def __init__(self) -> None:
        self.pixels_left = MAX_PIXELS
        self.sums: dict[Hashable, tuple[np.ndarray, Look, Look]] = {}  # with what it is of, so that ids stay theirs

    def add(self, look: Look, emission: Look, *, vertex_colors: bool = False) -> Look:
        """Return the look of a surface that also emits light.

        Args:
            look: `base_color` in linear light and, if there is a texture, `texture`, `uv` and `wrap`.
            emission: The same for the emission, whose alpha has no meaning; empty if there is none.
            vertex_colors: Whether the base colour is also multiplied by colours of vertices.

        Returns:
            The sum, with the alpha of `look`. Where no one texture can hold it, since both textures have coordinates
            of their own or vertices have colours, a black surface becomes its emission, and any other stays as it is.

        Raises:
            TooLarge: The sums have more than `MAX_PIXELS` together.
        """
        if not emission or is_black(emission):
            return look
        both = [part for part in (look, emission) if "texture" in part]
        one_layout = len(both) < 2 or (look["wrap"] == emission["wrap"] and np.array_equal(look["uv"], emission["uv"]))
        if vertex_colors or not one_layout:
            return look | emission if is_black(look) else look
        alpha = float(look["base_color"][3])
        if not both:
            sums = np.add(look["base_color"][:3], emission["base_color"][:3])
            return look | {"base_color": (*np.minimum(sums, 1).tolist(), alpha)}
        baked = {"base_color": (1.0, 1.0, 1.0, alpha), "texture": self._sum(look, emission)}
        return look | {key: both[0][key] for key in ("uv", "wrap")} | baked

    def _sum(self, look: Look, emission: Look) -> np.ndarray:
        """Return the texture (H, W, 4) uint8 of base colour plus emission, of the size of the larger texture."""
        key = tuple((id(part.get("texture")), tuple(part["base_color"][:3])) for part in (look, emission))
        if key not in self.sums:
            sizes = [part["texture"].shape[:2] for part in (look, emission) if "texture" in part]
            height, width = max(sizes, key=lambda size: size[0] * size[1])
            self.pixels_left -= height * width
            if self.pixels_left < 0:
                raise TooLarge(f"its emissive textures have more than {MAX_PIXELS} pixels together; make them smaller")
            self.sums[key] = (_added(look, emission, height, width), look, emission)
        return self.sums[key][0]


def is_black(look: Look) -> bool:
    """Whether a base colour, times the brightest pixel of its texture, is almost black."""
    brightest = look["texture"][..., :3].max() / 255 if "texture" in look else 1.0
    return max(look["base_color"][:3]) * brightest <= BLACK


def _added(look: Look, emission: Look, height: int, width: int) -> np.ndarray:
    base, light = (_pixels(part, height, width) for part in (look, emission))
    result = np.empty((height, width, 4), np.uint8)
    result[..., 3] = base[..., 3]
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        linear = _linear(base[part], look) + _linear(light[part], emission)
        result[part, :, :3] = np.rint(255 * srgb_from_linear(linear))
    return result


def _pixels(look: Look, height: int, width: int) -> np.ndarray:
    """Return the texture (H, W, 4) uint8 of a look at that size; white without one."""
    if "texture" not in look:
        return np.broadcast_to(np.uint8(255), (height, width, 4))
    if look["texture"].shape[:2] == (height, width):
        return look["texture"]
    return np.asarray(Image.fromarray(look["texture"]).resize((width, height), Image.Resampling.BILINEAR))


def _linear(pixels: np.ndarray, look: Look) -> np.ndarray:
    return LINEAR[pixels[..., :3]] * np.asarray(look["base_color"][:3], np.float32)
