"""LRM-Zero's objects: one to nine random primitives, some with height fields, cuts or wires."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from . import primitive_ops, rotations, shapes, textures
from .builder import NUMBERS, Part, counted, groups, listed
from .colours import draw_colour
from .portable_rng import PortableRandom
from .primitive_ops import KINDS, Kind
from .shapes import Shape, Vectors
from .textures import Texture

COUNT_WEIGHTS = (5, 5, 5, 5, 5, 4, 3, 2, 1)  # of 1 ... 9 primitives
BUMPY, CUT, WIRED = 0.5, 0.4, 0.2  # height fields on each surface; cut and wired objects exclude each other


@dataclass(frozen=True)
class Primitive:
    """Placement of a primitive with half extents `half`: rotated by `rotation`, then shifted."""

    kind: Kind
    half: Vectors
    rotation: Vectors
    shift: Vectors

    def holds(self, points: Vectors) -> np.ndarray:
        """Mask of the world points (N, 3) inside the primitive."""
        return primitive_ops.inside(self.kind, self.half, (points - self.shift) @ self.rotation)


def scatter(dice: PortableRandom) -> tuple[list[Part], str]:
    """Parts and caption of one object."""
    count = dice.pick(range(1, 10), COUNT_WEIGHTS)
    fate = dice.uniform()
    patterned, upright = dice.pick([0.0, 0.0, 0.5, 1.0]), dice.chance(0.3)
    placed = [_place(dice, upright) for _ in range(count)]
    cells = 8 if count <= 4 else 6
    parts = [_skin(dice, place, textures.draw_texture(dice, patterned), cells) for place in placed]
    kept = _visible(placed, parts)
    placed, parts = [placed[i] for i in kept], [parts[i] for i in kept]
    if fate < CUT:
        return _cut(dice, placed, parts)
    if fate < CUT + WIRED:
        parts = _wired(dice, placed, parts)
    return parts, describe(parts)


def noun_of(kind: Kind, half: Vectors) -> str:
    """The noun of a primitive: its kind, but cubes and spheres with unequal sides are boxes and ellipsoids."""
    even = float(half.max()) < 1.2 * float(half.min())
    return kind if even else {"cube": "box", "sphere": "ellipsoid"}.get(kind, kind)


def _place(dice: PortableRandom, upright: bool) -> Primitive:
    kind = dice.pick(KINDS)
    half = dice.uniforms(3, 0.2, 0.8)
    if kind == "torus":
        half = np.array([half[0], half[1], min(half[2], 0.45 * min(half[0], half[1]))])
    if dice.chance(0.25):
        half[:] = half.mean() if kind != "torus" else half
    quarter = rotations.euler(90.0 * dice.below(4), 90.0 * dice.below(4), 90.0 * dice.below(4))
    rotation = quarter if upright else rotations.random_rotation(dice)
    return Primitive(kind, half, rotation, dice.uniforms(3, -0.8, 0.8))


def _skin(dice: PortableRandom, place: Primitive, texture: Texture, cells: int) -> Part:
    """The primitive's surface, each patch of it bumpy or not."""
    bumps = [dice.chance(BUMPY) for _ in range(6)]
    amplitude = dice.uniform(0.05, 0.4) * float(place.half.min())
    sides = dice.pick([6, 8, 12, 16, 24])
    if dice.chance(0.4):
        bumps = [False] * 6
    bumpy = any(bumps[: {"cube": 6, "sphere": 1, "cylinder": 3, "cone": 2, "torus": 1}[place.kind]])
    sides = max(sides, 16) if bumpy else sides
    fine = primitive_ops.primitive_patches(place.kind, place.half, texture.tile, cells if bumpy else 1, sides)
    patches = [primitive_ops.displaced(p, dice, amplitude) if bump else p for p, bump in zip(fine, bumps, strict=False)]
    shape = shapes.moved(shapes.assemble(patches), place.rotation, place.shift)
    noun = f"bumpy {noun_of(place.kind, place.half)}" if bumpy else noun_of(place.kind, place.half)
    return Part(noun, shape, texture)


def _visible(placed: list[Primitive], parts: list[Part]) -> list[int]:
    """Mask of the parts with at least a quarter of their vertices outside all the others; never empty."""
    shown = []
    for i, part in enumerate(parts):
        hidden = np.zeros(len(part.shape.vertices), dtype=bool)
        for j, other in enumerate(placed):
            if j != i:
                hidden |= other.holds(part.shape.vertices)
        shown.append(1 - float(hidden.mean()))
    return [i for i, share in enumerate(shown) if share > 0.25] or [int(np.argmax(shown))]


def _cut(dice: PortableRandom, placed: list[Primitive], parts: list[Part]) -> tuple[list[Part], str]:
    """Hollow out some parts and take one primitive away, centred on a vertex of the whole."""
    target = dice.pick(parts).shape
    centre = target.vertices[dice.below(len(target.vertices))]
    kind: Kind = dice.pick(["cube", "sphere", "cylinder", "cone"])
    half = dice.uniforms(3, 0.3, 0.6)
    rotation, inner_look = rotations.random_rotation(dice), textures.plain(draw_colour(dice))
    contrasting = dice.chance(0.5)
    knife = shapes.assemble(primitive_ops.primitive_patches(kind, half, 0.5, 1, 16))
    knife = shapes.moved(knife, rotation, centre)
    left: list[Part] = []
    cuts = 0
    for place, part in zip(placed, parts, strict=True):
        pieces, hollow = _cut_piece(place, part, knife, dice.chance(0.5))
        if pieces is None:
            left.append(part)
            continue
        cuts += 1
        left.append(Part(f"hollow {part.noun}" if hollow else part.noun, pieces[0], part.texture))
        left.append(Part("", pieces[1], inner_look if contrasting or part.texture.tile > 0 else part.texture))
    caption = describe(left)
    return left, f"{caption}, cut by {counted(1, '', noun_of(kind, half))}" if cuts else caption


def _cut_piece(place: Primitive, part: Part, knife: Shape, hollow: bool) -> tuple[tuple[Shape, Shape] | None, bool]:
    """The part without the volume of `knife`; hollow, if requested, only where the cut opens it."""
    solid = primitive_ops.difference(part.shape, [knife])
    if solid is None or not hollow:
        return solid, False
    core = primitive_ops.primitive_patches(place.kind, place.half * 0.82, 0.5, 1, 16)
    inner = shapes.moved(shapes.assemble(core), place.rotation, place.shift)
    opened = primitive_ops.difference(inner, [knife])
    shell = primitive_ops.difference(part.shape, [inner, knife]) if opened is not None else None
    return (shell, True) if shell is not None else (solid, False)


def _wired(dice: PortableRandom, placed: list[Primitive], parts: list[Part]) -> list[Part]:
    """Turn one primitive into bars along its edges."""
    chosen = dice.below(len(parts))
    place, part = placed[chosen], parts[chosen]
    sides = dice.pick([6, 8, 10])
    cage = shapes.assemble(primitive_ops.primitive_patches(place.kind, place.half, 0.0, 1, sides))
    bars = primitive_ops.wires(
        shapes.moved(cage, place.rotation, place.shift), dice.uniform(0.04, 0.09), part.texture.tile
    )
    noun = f"wireframe {noun_of(place.kind, place.half)}"
    return [replace(part, noun=noun, shape=bars) if i == chosen else part for i, part in enumerate(parts)]


def describe(parts: list[Part]) -> str:
    """Caption of parts, such as `a red cube and two striped tori`; many different parts are counted by shape alone."""
    found = groups(parts)
    if len(found) <= 5:
        return listed([counted(count, words, noun) for (words, noun), count in found.items()])
    nouns: dict[str, int] = {}
    for (_, noun), count in found.items():
        nouns[noun] = nouns.get(noun, 0) + count
    return (
        f"{NUMBERS[sum(nouns.values())]} shapes: {listed([counted(count, '', noun) for noun, count in nouns.items()])}"
    )
