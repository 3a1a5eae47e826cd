"""Building an object from named, textured parts, with a caption that lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import rotations, shapes, textures
from .colours import Colour, draw_colour
from .portable_rng import PortableRandom
from .shapes import Shape, Vectors
from .textures import Texture

Triple = Sequence[float]
ORIGIN = (0.0, 0.0, 0.0)
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PLURALS = {"shelf": "shelves", "leaf": "leaves", "torus": "tori", "box": "boxes", "branch": "branches"}


@dataclass(frozen=True)
class Part:
    """One solid with one texture; `noun` is its word in captions, empty if captions leave it out."""

    noun: str
    shape: Shape
    texture: Texture


def counted(count: int, words: str, noun: str) -> str:
    """A noun phrase with its number: `a red leg`, `an orange box`, `three red legs`, `many red legs`.

    Args:
        count: How many there are; more than twelve are "many".
        words: Adjectives before the noun, or empty.
        noun: Singular noun, perhaps with adjectives of its own.
    """
    if count > 1:
        number = NUMBERS[count] if count < len(NUMBERS) else "many"
        *adjectives, last = noun.split()
        return " ".join(filter(None, [number, words, *adjectives, PLURALS.get(last, last + "s")]))
    phrase = " ".join(filter(None, [words, noun]))
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def listed(phrases: Sequence[str]) -> str:
    """Join phrases as `a`, `a and b` or `a, b and c`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def groups(parts: Sequence[Part]) -> dict[tuple[str, str], int]:
    """Number of parts of each (look, noun), in order of first appearance."""
    found: dict[tuple[str, str], int] = {}
    for part in parts:
        if part.noun:
            found[part.texture.words, part.noun] = found.get((part.texture.words, part.noun), 0) + 1
    return found


class Builder:
    """Collects the parts of one object. Lengths are free (objects are normalised later); +z is up, +x the front.

    Args:
        dice: Source of all random choices of the object.

    Attributes:
        parts: The solids added so far.
        sides: Number of sides of round solids, the same for the whole object.
    """

    def __init__(self, dice: PortableRandom) -> None:
        self.dice = dice
        self.parts: list[Part] = []
        self.sides = dice.pick([6, 8, 10, 12, 16, 24])
        self._patterned = dice.pick([0.0, 0.0, 0.12, 0.3])

    def between(self, low: float, high: float) -> float:
        """A random length."""
        return self.dice.uniform(low, high)

    def look(self, *names: str) -> Texture:
        """A plain colour, or with the object's own probability a pattern.

        Args:
            names: Names of colours, near one of which it is; any colour without.
        """
        return textures.draw_texture(self.dice, self._patterned, names)

    def plain(self, *names: str) -> Texture:
        """A plain colour near one of the names."""
        return textures.plain(draw_colour(self.dice, names))

    def wood(self) -> Texture:
        """Wood with grain, or the plain colour of wood."""
        names = ("brown", "tan", "tan", "beige")
        return textures.wooden(self.dice, names) if self.dice.chance(0.25) else self.plain(*names)

    def metal(self) -> Texture:
        """A plain grey."""
        return self.plain("grey", "light grey", "dark grey")

    def leaf(self) -> Texture:
        """A plain green or, now and then, the orange of autumn."""
        return self.plain("green", "green", "dark green", "light green", "olive", "orange")

    def darker(self, texture: Texture, by: float = 0.7) -> Texture:
        """The plain colour of a texture's mean, darkened.

        Args:
            texture: Any texture.
            by: Factor of its 8-bit levels.
        """
        mean = texture.pixels.reshape(-1, 3).mean(0) * by
        colour: Colour = (int(mean[0]), int(mean[1]), int(mean[2]))
        return textures.plain(colour)

    def add(self, noun: str, texture: Texture, shape: Shape, at: Triple = ORIGIN, turn: Triple = ORIGIN) -> None:
        """Add a shape, turned and then moved.

        Args:
            noun: Word in captions; empty if they leave it out.
            texture: Its texture.
            shape: The solid.
            at: How far it is moved along x, y and z.
            turn: Euler angles in degrees about x, y and z.
        """
        rotation: Vectors | None = rotations.euler(*turn) if any(turn) else None
        self.parts.append(Part(noun, shapes.moved(shape, rotation, at), texture))

    def box(self, noun: str, texture: Texture, size: Triple, at: Triple = ORIGIN, turn: Triple = ORIGIN) -> None:
        """Add a box.

        Args:
            noun: Word in captions.
            texture: Its texture.
            size: Lengths along x, y and z.
            at: Position of its centre.
            turn: Euler angles in degrees.
        """
        self.add(noun, texture, shapes.box(size, texture.tile), at, turn)

    def ball(self, noun: str, texture: Texture, size: Triple, at: Triple = ORIGIN, turn: Triple = ORIGIN) -> None:
        """Add an ellipsoid.

        Args:
            noun: Word in captions.
            texture: Its texture.
            size: Diameters along x, y and z.
            at: Position of its centre.
            turn: Euler angles in degrees.
        """
        profile = shapes.arc(1.0, -90, 90, max(5, self.sides // 2)) * np.array([1.0, size[2] / 2])
        self.add(noun, texture, shapes.lathe(profile, self.sides, (size[0] / 2, size[1] / 2), texture.tile), at, turn)

    def rod(
        self,
        noun: str,
        texture: Texture,
        radii: Sequence[float],
        length: float,
        at: Triple = ORIGIN,
        turn: Triple = ORIGIN,
    ) -> None:
        """Add a cylinder, cone or frustum along z.

        Args:
            noun: Word in captions.
            texture: Its texture.
            radii: Radius below, and radius above if it is another; 0 is a tip.
            length: Length along z.
            at: Position of its centre.
            turn: Euler angles in degrees.
        """
        profile = [(0.0, -length / 2), (radii[0], -length / 2), (radii[-1], length / 2), (0.0, length / 2)]
        self.turned(noun, texture, [p for i, p in enumerate(profile) if i in (0, 3) or p[0] > 0], at, turn)

    def block(
        self, noun: str, texture: Texture, size: Triple, at: Triple = ORIGIN, turn: Triple = ORIGIN, top: float = 1.0
    ) -> None:
        """Add a box whose upper face is scaled.

        Args:
            noun: Word in captions.
            texture: Its texture.
            size: Lengths along x, y and z, of the lower face.
            at: Position of its centre.
            turn: Euler angles in degrees.
            top: Scale of the upper face; 0 makes a pyramid.
        """
        corner = float(np.sqrt(0.5))
        profile = [(0.0, -0.5), (corner, -0.5), (corner * top, 0.5), (0.0, 0.5)][: 4 if top > 0 else 3]
        unit = shapes.moved(shapes.lathe(profile, 4, tile=texture.tile), rotations.euler(0, 0, 45))
        self.add(noun, texture, shapes.scaled(unit, size), at, turn)

    def turned(
        self,
        noun: str,
        texture: Texture,
        profile: Sequence[Sequence[float]] | Vectors,
        at: Triple = ORIGIN,
        turn: Triple = ORIGIN,
        sides: int = 0,
        stretch: Sequence[float] = (1.0, 1.0),
    ) -> None:
        """Add a solid of revolution about z.

        Args:
            noun: Word in captions.
            texture: Its texture.
            profile: (K, 2), points (radius, z); see `shapes.lathe_patches`.
            at: Position of its origin.
            turn: Euler angles in degrees.
            sides: Number of sides around; the object's own if 0.
            stretch: Scales of x and y.
        """
        self.add(noun, texture, shapes.lathe(profile, sides or self.sides, stretch, texture.tile), at, turn)

    def ring(
        self, noun: str, texture: Texture, radius: float, tube: float, at: Triple = ORIGIN, turn: Triple = ORIGIN
    ) -> None:
        """Add a torus about z.

        Args:
            noun: Word in captions.
            texture: Its texture.
            radius: From its centre to the middle of the tube.
            tube: Radius of the tube.
            at: Position of its centre.
            turn: Euler angles in degrees.
        """
        self.turned(
            noun, texture, shapes.arc(tube, -180, 180, 8, centre=(radius, 0.0)), at, turn, sides=max(10, self.sides)
        )

    def cutout(
        self, noun: str, texture: Texture, outline: Sequence[Sequence[float]] | Vectors, depth: float,
        at: Triple = ORIGIN, turn: Triple = ORIGIN,
    ) -> None:  # fmt: skip
        """Add a polygon in the xz plane with thickness along y.

        Args:
            noun: Word in captions.
            texture: Its texture.
            outline: (K, 2), corners (x, z), anticlockwise seen from -y.
            depth: Thickness.
            at: Position of its origin.
            turn: Euler angles in degrees.
        """
        self.add(noun, texture, shapes.prism(outline, depth, texture.tile), at, turn)

    def caption(self, noun: str) -> str:
        """The caption of the object, such as `a blue mug with a red handle`.

        Args:
            noun: Name of the whole, which takes the look of the first part of the same name; the other parts are
                counted. Empty for the list of parts alone: `three grey rocks`.
        """
        found = groups(self.parts)
        own = [words for words, name in found if name == noun]
        rest = [counted(count, *look) for look, count in found.items() if look[1] != noun]
        if not noun:
            return listed(rest)
        head = counted(1, own[0] if own else "", noun)
        return f"{head} with {listed(rest)}" if rest else head
