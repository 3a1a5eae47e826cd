"""Furniture. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..textures import Texture


def four_legs(b: Builder, texture: Texture, width: float, depth: float, height: float) -> None:
    """Add square, round or tapering legs under the corners of a board centred above the origin.

    Args:
        b: Builder of the object.
        texture: Texture of the legs.
        width: Length of the board along x.
        depth: Length of the board along y.
        height: z of the board's underside; the legs stand on z = 0.
    """
    thick = b.between(0.05, 0.12)
    style = b.dice.pick(["square", "round", "taper"])
    x, y = width / 2 - thick * 0.7, depth / 2 - thick * 0.7
    for sx, sy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        at = (sx * x, sy * y, height / 2)
        if style == "square":
            b.box("leg", texture, (thick, thick, height), at)
        else:
            b.rod("leg", texture, (thick * (0.35 if style == "taper" else 0.5), thick / 2), height, at)


def table(b: Builder) -> str:
    """A slab, square or round, on four legs or a column."""
    top, legs = b.dice.pick([b.wood, b.look])(), b.dice.pick([b.wood, b.look, b.metal])()
    width, depth, height, thick = b.between(0.9, 2.2), b.between(0.7, 1.2), b.between(0.4, 1.0), b.between(0.04, 0.14)
    if b.dice.chance(0.35):
        radius = width / 2
        b.rod("top", top, (radius, radius), thick, (0, 0, height))
        b.rod("column", legs, (b.between(0.05, 0.12),) * 2, height, (0, 0, height / 2))
        b.rod("foot", legs, (radius * b.between(0.4, 0.7), radius * 0.2), 0.08, (0, 0, 0.04))
        return "table"
    b.box("top", top, (width, depth, thick), (0, 0, height + thick / 2))
    four_legs(b, legs, width, depth, height)
    if b.dice.chance(0.3):
        b.box("shelf", top, (width * 0.86, depth * 0.86, thick * 0.6), (0, 0, height * b.between(0.2, 0.5)))
    return "table"


def chair(b: Builder) -> str:
    """A seat on four legs with a back of one board or of slats, perhaps with arms."""
    seat, frame = b.look(), b.dice.pick([b.wood, b.look, b.metal])()
    width, depth, height, back = b.between(0.8, 1.1), b.between(0.8, 1.0), b.between(0.6, 0.9), b.between(0.7, 1.2)
    thick = b.between(0.06, 0.16)
    b.box("seat", seat, (depth, width, thick), (0, 0, height + thick / 2))
    four_legs(b, frame, depth, width, height)
    rear = -depth / 2 + 0.05
    if b.dice.chance(0.5):
        b.box("back", seat, (0.1, width, back), (rear, 0, height + thick + back / 2))
    else:
        count = b.dice.between(2, 4)
        for i in range(count):
            b.box(
                "slat", frame, (0.08, width, back / count * 0.6), (rear, 0, height + thick + back * (i + 0.6) / count)
            )
        for side in (-1, 1):
            b.box("post", frame, (0.1, 0.1, back + 0.05), (rear, side * (width / 2 - 0.05), height + thick + back / 2))
    if b.dice.chance(0.25):
        for side in (-1, 1):
            b.box("arm", frame, (depth * 0.9, 0.1, 0.08), (0, side * (width / 2), height + back * 0.45))
    return "chair"


def stool(b: Builder) -> str:
    """A round seat on three or four leaning legs."""
    seat, legs = b.dice.pick([b.wood, b.look])(), b.dice.pick([b.wood, b.look, b.metal])()
    radius, height, count = b.between(0.35, 0.6), b.between(0.6, 1.3), b.dice.between(3, 4)
    thick, lean = b.between(0.06, 0.2), b.between(0, 12)
    b.rod("seat", seat, (radius, radius), thick, (0, 0, height))
    for i in range(count):
        angle = 360 * i / count + 45
        reach = radius * 0.7 + np.sin(np.radians(lean)) * height / 2
        x, y = reach * np.cos(np.radians(angle)), reach * np.sin(np.radians(angle))
        b.rod("leg", legs, (0.045, 0.06), height, (x, y, height / 2), (0, -lean, angle))
    return "stool"


def bench(b: Builder) -> str:
    """Long planks on two supports."""
    planks, support = b.wood(), b.dice.pick([b.metal, b.wood, b.plain])()
    length, height, count = b.between(1.6, 2.6), b.between(0.4, 0.6), b.dice.between(2, 4)
    for i in range(count):
        b.box("plank", planks, (0.16, length, 0.07), (0.2 * (i - (count - 1) / 2), 0, height))
    for side in (-1, 1):
        b.box("support", support, (0.2 * count, 0.12, height), (0, side * length * 0.36, height / 2 - 0.03))
    if b.dice.chance(0.5):
        b.box("back", planks, (0.07, length, 0.3), (-0.1 * count - 0.05, 0, height + 0.4), (0, -8, 0))
        for side in (-1, 1):
            b.box("", support, (0.07, 0.1, 0.75), (-0.1 * count, side * length * 0.36, height + 0.2), (0, -8, 0))
    return "bench"


def sofa(b: Builder) -> str:
    """A body with two arms, a back and cushions."""
    cloth, cushion = b.look(), b.look()
    width, depth, count = b.between(1.4, 2.8), b.between(0.8, 1.0), b.dice.between(1, 3)
    b.box("base", cloth, (depth, width, 0.4), (0, 0, 0.3))
    b.box("back", cloth, (0.25, width, 0.7), (-depth / 2, 0, 0.65))
    for side in (-1, 1):
        b.box("arm", cloth, (depth, 0.22, b.parts[0].shape.vertices[:, 2].max() + 0.25), (0, side * width / 2, 0.375))
    for i in range(count):
        wide = (width - 0.26) / count
        b.box("cushion", cushion, (depth - 0.2, wide - 0.03, 0.16), (0.08, (i - (count - 1) / 2) * wide, 0.57))
    return "sofa"


def bed(b: Builder) -> str:
    """A frame, a mattress, a blanket over its lower half, and pillows."""
    frame, sheet = b.wood(), b.plain("white", "light grey", "beige")
    width, length, pillows = b.between(1.0, 1.8), b.between(1.9, 2.3), b.dice.between(1, 2)
    b.box("frame", frame, (length, width, 0.25), (0, 0, 0.25))
    b.box("headboard", frame, (0.12, width, b.between(0.7, 1.1)), (-length / 2, 0, 0.5))
    b.box("mattress", sheet, (length - 0.1, width - 0.08, 0.25), (0, 0, 0.48))
    b.box("blanket", b.look(), (length * b.between(0.5, 0.7), width, 0.28), (length * 0.16, 0, 0.5))
    pillow = b.plain()
    for i in range(pillows):
        y = (i - (pillows - 1) / 2) * width / 2
        b.ball("pillow", pillow, (0.38, width / 2 * 0.85, 0.22), (-length / 2 + 0.32, y, 0.66))
    for sx, sy in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        b.box("", frame, (0.12, 0.12, 0.3), (sx * (length / 2 - 0.06), sy * (width / 2 - 0.06), 0.14))
    return "bed"


def shelf(b: Builder) -> str:
    """Two sides, a back, boards, and books in some of the bays."""
    wood = b.dice.pick([b.wood, b.look])()
    width, depth, height, bays = b.between(0.8, 1.6), b.between(0.3, 0.5), b.between(1.2, 2.2), b.dice.between(2, 4)
    for side in (-1, 1):
        b.box("", wood, (depth, 0.07, height), (0, side * width / 2, height / 2))
    for i in range(bays + 1):
        b.box("board", wood, (depth, width, 0.06), (0, 0, 0.03 + (height - 0.06) * i / bays))
    b.box("", b.darker(wood), (0.03, width, height), (-depth / 2, 0, height / 2))
    covers = [b.plain() for _ in range(3)]
    for i in range(bays):
        y = -width / 2 + 0.1
        while b.dice.chance(0.85) and y < width / 2 - 0.2:
            thick, tall = b.between(0.05, 0.12), height / bays * b.between(0.5, 0.8)
            b.box(
                "book",
                b.dice.pick(covers),
                (depth * 0.7, thick * 0.95, tall),
                (0, y, height * i / bays + 0.06 + tall / 2),
            )
            y += thick
    return "bookshelf"


def cabinet(b: Builder) -> str:
    """A body with rows of drawers or two doors, and knobs."""
    body, front, knob = b.dice.pick([b.wood, b.look])(), b.dice.pick([b.wood, b.look])(), b.plain()
    width, depth, height = b.between(0.7, 1.5), b.between(0.5, 0.7), b.between(0.7, 1.9)
    b.box("body", body, (depth, width, height), (0, 0, height / 2))
    drawers = b.dice.chance(0.6)
    rows, columns = (b.dice.between(2, 4), 1) if drawers else (1, 2)
    for i in range(rows):
        for j in range(columns):
            y, z = ((j + 0.5) / columns - 0.5) * width * 0.94, (i + 0.5) / rows * height * 0.92 + height * 0.04
            size = (0.06, width * 0.94 / columns - 0.05, height * 0.92 / rows - 0.05)
            b.box("drawer" if drawers else "door", front, size, (depth / 2, y, z))
            aside = 0 if drawers else (0.5 - j) * width * 0.75
            b.ball("knob", knob, (0.1, 0.1, 0.1), (depth / 2 + 0.06, y + aside, z))
    return "cabinet"


def lamp(b: Builder) -> str:
    """A base, a pole and a shade like a cut cone."""
    base, shade = b.dice.pick([b.metal, b.look])(), b.look()
    height, radius = b.between(0.5, 2.4), b.between(0.3, 0.55)
    b.rod("base", base, (b.between(0.2, 0.4), b.between(0.1, 0.2)), b.between(0.05, 0.25), (0, 0, 0.05))
    b.rod("pole", base, (0.04, 0.04), height, (0, 0, height / 2))
    tall, narrow = b.between(0.35, 0.7), b.between(0.4, 1.0)
    b.rod("shade", shade, (radius, radius * narrow), tall, (0, 0, height + tall * 0.3))
    return "lamp"


FURNITURE = (table, chair, stool, bench, sofa, bed, shelf, cabinet, lamp)
