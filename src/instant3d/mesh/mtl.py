"""Wavefront material libraries (.mtl): diffuse and emitted colour, and their textures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from instant3d.mesh.colorspace import linear_from_srgb

# number of values of each texture option: at least, at most
OPTIONS = {
    "-blendu": (1, 1),
    "-blendv": (1, 1),
    "-bm": (1, 1),
    "-boost": (1, 1),
    "-cc": (1, 1),
    "-clamp": (1, 1),
    "-imfchan": (1, 1),
    "-mm": (2, 2),
    "-o": (1, 3),
    "-s": (1, 3),
    "-t": (1, 3),
    "-texres": (1, 1),
    "-type": (1, 1),
}


@dataclass(frozen=True)
class Material:
    """The properties of a material that are read.

    Attributes:
        diffuse: sRGB in [0, 1]; None is white.
        texture: File name as written in the library.
        scale: Factor of the texture coordinates (u, v), before `offset` is added.
        offset: Offset of the texture coordinates (u, v).
        clamped: Whether the texture is clamped at its edges instead of repeated.
        emission: Emitted colour and texture (Ke, map_Ke), as the diffuse ones of another material.
    """

    diffuse: tuple[float, float, float] | None = None
    texture: str | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamped: bool = False
    emission: Material | None = None

    @property
    def base_color(self) -> tuple[float, float, float, float]:
        """Linear red, green, blue, and an alpha of 1."""
        if self.diffuse is None:
            return (1.0, 1.0, 1.0, 1.0)
        red, green, blue = (float(part) for part in linear_from_srgb(np.clip(self.diffuse, 0, 1)))
        return (red, green, blue, 1.0)


DARK = Material(diffuse=(0.0, 0.0, 0.0))  # an emission of which only the texture is given


def materials(text: str) -> dict[str, Material]:
    """Parse a library into its materials by name.

    Raises:
        ValueError: A texture has an unknown option or invalid numbers.
    """
    found, name = dict[str, Material](), None
    for word, rest in statements(text):
        if word == "newmtl":
            name = rest
            found[name] = Material()
        elif name is not None and word == "kd":
            found[name] = replace(found[name], diffuse=_color(rest))
        elif name is not None and word == "map_kd":
            found[name] = _textured(found[name], rest)
        elif name is not None and word == "ke":
            emission = replace(found[name].emission or DARK, diffuse=_color(rest))
            found[name] = replace(found[name], emission=emission)
        elif name is not None and word == "map_ke":
            found[name] = replace(found[name], emission=_textured(found[name].emission or DARK, rest))
    return found


def statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line's first word in lower case and the rest of the line; comments are skipped."""
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        word, _, rest = line.replace("\t", " ").strip().partition(" ")
        if word and not word.startswith("#"):
            yield word.lower(), rest.strip()


def _color(words: str) -> tuple[float, float, float] | None:
    """Parse red, green, blue, or one number for all; None for spectra, which are not supported."""
    try:
        numbers = [float(word) for word in words.split()[:3]]
    except ValueError:
        return None
    if len(numbers) == 1:
        numbers *= 3
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 and np.isfinite(numbers).all() else None


def _textured(material: Material, rest: str) -> Material:
    """Add the texture of `[-option value ...] file name` to a material."""
    words = rest.split(" ")
    while words and words[0].lower() in OPTIONS:
        option = words.pop(0).lower()
        given = _values(words, *OPTIONS[option])
        if option == "-s":
            material = replace(material, scale=_pair(given, 1.0))
        elif option == "-o":
            material = replace(material, offset=_pair(given, 0.0))
        elif option == "-clamp":
            material = replace(material, clamped=given == ["on"])
    if words and words[0].startswith("-") and len(words) > 1:
        raise ValueError(f"a material's texture has the unknown option {words[0]}; export it again without")
    name = " ".join(words).strip().strip('"')
    return replace(material, texture=name or None)


def _values(words: list[str], least: int, most: int) -> list[str]:
    """Remove and return the values of an option; beyond `least` only numbers count, and never the last word."""
    taken: list[str] = []
    while words and len(taken) < most and (len(taken) < least or (len(words) > 1 and _is_number(words[0]))):
        word = words.pop(0)
        taken += [word] if word else []
    while words and not words[0]:
        words.pop(0)
    return taken


def _is_number(word: str) -> bool:
    try:
        return word == "" or bool(np.isfinite(float(word)))
    except ValueError:
        return False


def _pair(words: list[str], usual: float) -> tuple[float, float]:
    """Return the first two numbers; a missing second one is `usual`."""
    if not words or not all(map(_is_number, words)):
        raise ValueError(f"a material scales or moves its texture by {' '.join(words)!r}; expected up to three numbers")
    return float(words[0]), float(words[1]) if len(words) > 1 else usual
