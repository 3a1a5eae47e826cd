"""Buildings and street furniture. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..shapes import arc


def house(b: Builder) -> str:
    """Walls, a gable or pyramid roof, a door, windows and a chimney."""
    wall, roof, door, glass = (
        b.look(),
        b.look("red", "brown", "dark grey", "dark red", "blue", "orange"),
        b.plain(),
        b.plain("light blue", "yellow", "dark grey", "white"),
    )
    width, depth, height, rise = b.between(1.0, 2.2), b.between(1.0, 1.6), b.between(0.7, 1.6), b.between(0.4, 1.0)
    b.box("body", wall, (depth, width, height), (0, 0, height / 2))
    eaves = 0.12
    if b.dice.chance(0.7):
        gable = [(-depth / 2 - eaves, height - 0.02), (depth / 2 + eaves, height - 0.02), (0, height + rise)]
        b.cutout("roof", roof, gable, width + 2 * eaves)
    else:
        b.block("roof", roof, (depth + 2 * eaves, width + 2 * eaves, rise), (0, 0, height + rise / 2), top=0.0)
    tall = height * b.between(0.5, 0.65)
    b.box("door", door, (0.06, b.between(0.22, 0.34), tall), (depth / 2, 0, tall / 2))
    for side in (-1, 1):
        b.box("window", glass, (0.06, width * 0.18, height * 0.26), (depth / 2, side * width * 0.32, height * 0.6))
        if b.dice.chance(0.5):
            b.box("window", glass, (depth * 0.25, 0.06, height * 0.26), (0, side * width / 2, height * 0.6))
    if b.dice.chance(0.5):
        b.box(
            "chimney",
            b.plain("dark red", "grey", "brown"),
            (0.18, 0.18, rise + 0.25),
            (-depth * 0.22, width * 0.25, height + rise / 2 + 0.1),
        )
    return "house"


def tower(b: Builder) -> str:
    """A round or square shaft with a battlement or a pointed roof."""
    stone, radius, height = (
        b.look("grey", "light grey", "tan", "brown", "beige", "white", "dark red"),
        b.between(0.4, 0.6),
        b.between(1.2, 2.4),
    )
    square = b.dice.chance(0.4)
    if square:
        b.box("shaft", stone, (2 * radius, 2 * radius, height), (0, 0, height / 2))
    else:
        b.rod("shaft", stone, (radius * b.between(1.0, 1.25), radius), height, (0, 0, height / 2))
    if b.dice.chance(0.5):
        tall, flare = b.between(0.6, 1.1), b.between(1.15, 1.5)
        tiles = b.look("red", "blue", "dark grey", "brown", "purple")
        if square:
            b.block("roof", tiles, (2 * radius * flare, 2 * radius * flare, tall), (0, 0, height + tall / 2), top=0.0)
        else:
            b.rod("roof", tiles, (radius * flare, 0), tall, (0, 0, height + tall / 2))
    else:
        b.rod("", stone, (radius * 1.2,) * 2, 0.2, (0, 0, height))
        for i in range(8):
            x, y = radius * 1.08 * np.cos(np.pi * i / 4), radius * 1.08 * np.sin(np.pi * i / 4)
            b.box("battlement", stone, (0.2, 0.24, 0.24), (x, y, height + 0.2), (0, 0, 45 * i))
    b.box("door", b.plain("brown", "dark grey", "dark red"), (0.3, 0.3, 0.5), (radius * 0.98, 0, 0.25))
    for i in range(b.dice.between(0, 3)):
        b.box(
            "window",
            b.plain("black", "yellow", "dark blue"),
            (0.3, 0.16, 0.26),
            (radius * 0.9, 0, height * (0.4 + 0.16 * i)),
        )
    return "tower"


def fence(b: Builder) -> str:
    """Upright boards on two rails."""
    wood, count, height, gap = (
        b.dice.pick([b.wood, b.look])(),
        b.dice.between(4, 8),
        b.between(0.7, 1.3),
        b.between(0.26, 0.36),
    )
    top, pointed = b.between(0.08, 0.2), b.dice.chance(0.6)
    board = [(-0.1, 0), (0.1, 0), (0.1, height), *([(0, height + top)] if pointed else []), (-0.1, height)]
    for i in range(count):
        b.cutout("board", wood, board, 0.06, (gap * (i - (count - 1) / 2), 0, 0))
    rail = wood if b.dice.chance(0.7) else b.plain()
    for part in (0.25, 0.75):
        b.box("rail", rail, (gap * count, 0.06, 0.1), (0, 0.06, height * part))
    return "fence"


def street_lamp(b: Builder) -> str:
    """A pole with an arm and a light, or a lantern on top."""
    iron, light, height = (
        b.plain("dark grey", "black", "grey", "dark green"),
        b.plain("yellow", "white", "orange"),
        b.between(1.8, 2.8),
    )
    b.rod("foot", iron, (0.22, 0.14), 0.25, (0, 0, 0.12))
    b.rod("pole", iron, (0.06, 0.05), height, (0, 0, height / 2))
    if b.dice.chance(0.5):
        b.box("arm", iron, (0.7, 0.08, 0.08), (0.3, 0, height))
        b.box("light", light, (0.34, 0.18, 0.1), (0.5, 0, height - 0.08))
    else:
        b.rod("light", light, (0.12, 0.2), 0.4, (0, 0, height + 0.15))
        b.rod("hood", iron, (0.26, 0.03), 0.2, (0, 0, height + 0.45))
    return "street lamp"


def sign(b: Builder) -> str:
    """A board on a post: round, square, eight-cornered or an arrow."""
    face, height = b.look(), b.between(1.2, 1.8)
    b.rod("post", b.dice.pick([b.metal, b.wood])(), (0.06, 0.06), height, (0, 0, height / 2))
    outlines = {
        "round": arc(0.45, 0, 360, 20)[:-1],
        "eight": arc(0.47, 22.5, 382.5, 8)[:-1],
        "triangle": arc(0.55, 90, 450, 3)[:-1],
        "board": [(-0.6, -0.3), (0.6, -0.3), (0.6, 0.3), (-0.6, 0.3)],
        "arrow": [(-0.6, -0.22), (0.4, -0.22), (0.75, 0), (0.4, 0.22), (-0.6, 0.22)],
    }  # fmt: skip
    outline = np.asarray(outlines[b.dice.pick(list(outlines))])
    b.cutout("board", face, outline, 0.08, (0, -0.08, height))
    if b.dice.chance(0.5):
        b.cutout("", b.plain("white", "black", "yellow"), outline * 0.6, 0.02, (0, -0.125, height))
    return "sign"


def traffic_light(b: Builder) -> str:
    """Three lamps in a case on a pole."""
    height = b.between(1.0, 1.8)
    b.rod("pole", b.plain("dark grey", "black", "yellow"), (0.07, 0.07), height, (0, 0, height / 2))
    b.box("case", b.plain("black", "dark grey", "yellow", "dark green"), (0.3, 0.42, 1.1), (0, 0, height + 0.5))
    for i, name in enumerate(("green", "yellow", "red")):
        b.ball("lamp", b.plain(name), (0.2, 0.28, 0.28), (0.15, 0, height + 0.18 + 0.32 * i))
    return "traffic light"


def windmill(b: Builder) -> str:
    """A tapering tower with four sails or three slim blades."""
    body, sail, height = (
        b.look("white", "tan", "grey", "red", "brown"),
        b.plain("white", "beige", "light grey", "red"),
        b.between(1.4, 2.2),
    )
    modern = b.dice.chance(0.4)
    wide = 0.12 if modern else 0.5
    b.rod("tower", body, (wide, wide * 0.6), height, (0, 0, height / 2))
    if not modern:
        b.rod("cap", b.plain("red", "brown", "dark grey"), (wide * 0.75, 0), 0.4, (0, 0, height + 0.2))
    b.rod("", b.metal(), (0.09, 0.09), 0.3, (wide * 0.6, 0, height), (0, 90, 0))
    count, length, start = (3 if modern else 4), b.between(0.8, 1.1), b.between(0, 90)
    blade = [
        (-0.04, 0),
        (0.04, 0),
        (0.05 if modern else 0.16, 0.3),
        (0.02 if modern else 0.16, length),
        (-0.04, length),
    ]
    for i in range(count):
        at = (wide * 0.6 + 0.14, 0, height)
        b.cutout("blade" if modern else "sail", sail, blade, 0.04, at, (0, start + 360 * i / count, 90))
    return "wind turbine" if modern else "windmill"


def well(b: Builder) -> str:
    """A ring of stone, two posts and a roof."""
    stone, wood = b.look("grey", "light grey", "dark grey", "tan"), b.wood()
    b.turned("wall", stone, [(0.45, 0), (0.65, 0), (0.65, 0.6), (0.45, 0.6), (0.45, 0)])
    b.rod("", b.plain("light blue", "blue", "teal"), (0.47, 0.47), 0.05, (0, 0, 0.3))
    for side in (-1, 1):
        b.box("post", wood, (0.1, 0.1, 1.5), (0, side * 0.58, 0.75))
    b.cutout("roof", b.plain("red", "brown", "dark grey"), [(-0.65, 1.4), (0.65, 1.4), (0, 1.9)], 1.5)
    return "well"


def barrel(b: Builder) -> str:
    """Bulging staves with hoops."""
    height, radius, count = b.between(0.9, 1.4), b.between(0.4, 0.55), b.dice.between(2, 4)
    bulge = [
        (0, 0),
        (radius, 0),
        (radius * 1.15, height * 0.3),
        (radius * 1.18, height * 0.5),
        (radius * 1.15, height * 0.7),
        (radius, height),
        (0, height),
    ]
    b.turned("barrel", b.dice.pick([b.wood, b.look])(), bulge)
    hoop = b.metal()
    for i in range(count):
        part = (i + 0.5) / count
        wide = radius * (1.19 - 0.72 * (part - 0.5) ** 2 * 1.05)
        b.rod("hoop", hoop, (wide, wide), 0.09, (0, 0, height * part))
    return "barrel"


def crate(b: Builder) -> str:
    """A box with a frame along its edges."""
    size = b.between(0.8, 1.2)
    half, thick = size / 2, b.between(0.08, 0.14)
    b.box("crate", b.dice.pick([b.wood, b.look])(), (size, size, size))
    frame = b.dice.pick([b.wood, b.metal, b.plain])()
    for x in (-1, 1):
        for y in (-1, 1):
            b.box("edge bar", frame, (thick, thick, size + thick), (x * half, y * half, 0))
            b.box("edge bar", frame, (size + thick * 0.98, thick * 0.98, thick * 0.98), (0, x * half, y * half))
            b.box("edge bar", frame, (thick * 0.99, size + thick * 0.99, thick * 0.99), (x * half, 0, y * half))
    return "crate"


STREET = (house, tower, fence, street_lamp, sign, traffic_light, windmill, well, barrel, crate)
