"""Plants and stones. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..shapes import arc


def tree(b: Builder) -> str:
    """A trunk with a crown of one to five balls."""
    trunk, crown, count = b.plain("brown", "tan", "dark grey"), b.leaf(), b.dice.between(1, 5)
    height, thick = b.between(0.6, 1.6), b.between(0.08, 0.2)
    b.rod("trunk", trunk, (thick, thick * 0.7), height + 0.3, (0, 0, height / 2 + 0.15))
    for i in range(count):
        size, angle = b.between(0.7, 1.2) * (1.0 if count > 1 else 1.4), 2.4 * i
        reach = 0.0 if i == 0 else b.between(0.3, 0.55)
        z = height + 0.4 + (0.35 if i == 0 else b.between(-0.1, 0.4))
        b.ball(
            "crown ball",
            crown,
            (size, size, size * b.between(0.75, 1.1)),
            (reach * np.cos(angle), reach * np.sin(angle), z),
        )
    return "tree"


def pine(b: Builder) -> str:
    """A trunk with cones one above the other."""
    needles, count = b.plain("dark green", "green", "teal", "olive"), b.dice.between(1, 4)
    b.rod("trunk", b.plain("brown", "tan"), (0.12, 0.1), 0.7, (0, 0, 0.35))
    radius, z = b.between(0.6, 0.9), 0.4
    for _ in range(count):
        tall = b.between(0.7, 1.0) * (1.6 if count == 1 else 1.0)
        b.rod("cone", needles, (radius, 0), tall, (0, 0, z + tall / 2))
        z, radius = z + tall * 0.5, radius * b.between(0.7, 0.85)
    return "pine tree"


def palm(b: Builder) -> str:
    """A leaning trunk of short drums with flat leaves at its head."""
    bark, leaf, count, lean = b.plain("brown", "tan"), b.leaf(), b.dice.between(5, 8), b.between(0, 0.12)
    x = 0.0
    for i in range(5):
        b.rod("", bark, (0.11 - 0.01 * i, 0.14 - 0.01 * i), 0.4, (x, 0, 0.2 + 0.38 * i), (0, lean * 60 * i / 4, 0))
        x += lean * (i + 1) * 0.5
    blade = [(0, -0.03), (0.45, 0.16), (0.95, -0.1), (1.15, -0.4), (0.9, 0.0), (0.45, 0.24), (0, 0.05)]
    for i in range(count):
        b.cutout("leaf", leaf, blade, 0.22, (x - 0.05, 0, 2.0), (0, 0, 360 * i / count))
    return "palm tree"


def cactus(b: Builder) -> str:
    """A column with arms, in a pot or not."""
    green, height = b.plain("green", "dark green", "light green"), b.between(1.0, 1.6)
    stem = np.concatenate([[(0.0, 0.0), (0.22, 0.0)], arc(0.22, 0, 90, 3, centre=(0, height))])
    b.turned("stem", green, stem)
    for i in range(b.dice.between(0, 3)):
        z, side, up = height * b.between(0.3, 0.6), (1, -1, 1)[i], b.between(0.3, 0.6)
        turn = 90 if i == 2 else 0
        x, y = (0, 0.38) if turn else (side * 0.38, 0)
        b.rod("", green, (0.1, 0.1), 0.4, (x * 0.55, y * 0.55, z), (0, 90, turn))
        b.turned(
            "arm", green, np.concatenate([[(0.0, -0.1), (0.12, -0.1)], arc(0.12, 0, 90, 3, centre=(0, up))]), (x, y, z)
        )
    if b.dice.chance(0.5):
        b.turned("pot", b.look("orange", "brown", "tan", "white"), [(0, -0.5), (0.3, -0.5), (0.42, 0.05), (0, 0.05)])
    return "cactus"


def plant(b: Builder) -> str:
    """Leaves standing in a pot."""
    leaf, count = b.leaf(), b.dice.between(4, 8)
    b.turned("pot", b.look(), [(0, 0), (0.35, 0), (0.5, 0.6), (0.42, 0.6), (0.4, 0.5), (0, 0.5)])
    for i in range(count):
        lean, length = b.between(8, 45), b.between(0.8, 1.3)
        turn, out = 137.5 * i, np.sin(np.radians(lean)) * length / 2
        at = (
            out * np.cos(np.radians(turn)),
            out * np.sin(np.radians(turn)),
            0.5 + np.cos(np.radians(lean)) * length / 2,
        )
        b.ball("leaf", leaf, (0.07, b.between(0.2, 0.34), length), at, (0, lean, turn))
    return "potted plant"


def mushroom(b: Builder) -> str:
    """A stem and a domed cap, perhaps with spots."""
    cap, radius, height = (
        b.look("red", "brown", "orange", "tan", "purple", "white"),
        b.between(0.5, 0.9),
        b.between(0.5, 1.1),
    )
    b.rod(
        "stem",
        b.plain("white", "beige", "light grey"),
        (b.between(0.18, 0.35), b.between(0.14, 0.25)),
        height,
        (0, 0, height / 2),
    )
    tall = b.between(0.5, 1.0)
    dome = arc(radius, 0, 90, 6) * np.array([1.0, tall])
    b.turned("cap", cap, np.concatenate([[(0.0, 0.06)], dome]), (0, 0, height - 0.05))
    spot = b.plain("white", "beige", "yellow")
    for i in range(b.dice.pick([0, 5, 7])):
        up, round_ = np.radians(25 + 15 * (i % 4)), 2.4 * i
        x, y = radius * np.cos(up) * np.cos(round_), radius * np.cos(up) * np.sin(round_)
        b.ball("spot", spot, (0.2, 0.2, 0.2), (x, y, height - 0.05 + radius * tall * np.sin(up)))
    return "mushroom"


def flower(b: Builder) -> str:
    """A stem, petals about a centre, two leaves."""
    petal, count, height = (
        b.plain("red", "pink", "yellow", "white", "lilac", "light blue", "orange"),
        b.dice.between(5, 8),
        b.between(0.9, 1.5),
    )
    b.rod("stem", b.plain("green", "dark green"), (0.05, 0.05), height, (0, 0, height / 2))
    b.ball("centre", b.plain("yellow", "brown", "orange"), (0.3, 0.3, 0.2), (0, 0, height))
    for i in range(count):
        angle = 2 * np.pi * i / count
        b.ball(
            "petal",
            petal,
            (0.46, 0.28, 0.07),
            (0.33 * np.cos(angle), 0.33 * np.sin(angle), height),
            (0, -15, np.degrees(angle)),
        )
    for side in (-1, 1):
        b.ball("leaf", b.plain("green"), (0.45, 0.18, 0.05), (side * 0.22, 0, height * 0.4), (0, -25 * side, 0))
    return "flower"


def rocks(b: Builder) -> str:
    """One to four rough stones."""
    stone = b.plain("grey", "dark grey", "light grey", "brown", "tan")
    b.sides = 6
    for i in range(b.dice.between(1, 4)):
        size = b.between(0.5, 1.3) / (1 + 0.4 * i)
        turn = (b.between(0, 360), b.between(0, 360), b.between(0, 360))
        at = (0.7 * np.cos(2.1 * i), 0.7 * np.sin(2.1 * i), 0) if i else (0, 0, 0)
        b.ball(
            "rock", stone, (size * b.between(0.7, 1.2), size * b.between(0.7, 1.2), size * b.between(0.6, 1)), at, turn
        )
    return "rock" if len(b.parts) == 1 else ""


PLANTS = (tree, pine, palm, cactus, plant, mushroom, flower, rocks)
