"""Snowmen, people, robots and animals. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..shapes import arc


def snowman(b: Builder) -> str:
    """Two or three balls, a nose, eyes, and a hat."""
    snow, count, z, size = b.plain("white", "light grey"), b.dice.between(2, 3), 0.0, b.between(0.9, 1.1)
    for i in range(count):
        z += size * (0.45 if i == 0 else 0.85)
        b.ball("snowball", snow, (size, size, size), (0, 0, z))
        size *= 0.75
    head = size / 0.75
    b.rod("nose", b.plain("orange"), (0.07, 0), 0.4, (head / 2 + 0.15, 0, z), (0, 90, 0))
    coal = b.plain("black", "dark grey", "dark blue")
    for side in (-1, 1):
        b.ball("eye", coal, (0.1, 0.1, 0.1), (head * 0.42, side * head * 0.2, z + head * 0.16))
    if b.dice.chance(0.7):
        hat = b.plain("black", "dark blue", "red", "purple", "green")
        b.turned(
            "hat",
            hat,
            [(0, 0), (head * 0.55, 0), (head * 0.55, 0.06), (head * 0.35, 0.06), (head * 0.33, 0.4), (0, 0.4)],
            (0, 0, z + head * 0.4),
        )
    if b.dice.chance(0.5):
        b.ring("scarf", b.look(), head * 0.42, 0.08, (0, 0, z - head * 0.42))
    return "snowman"


def figure(b: Builder) -> str:
    """A standing person or robot: legs, trunk, arms, head; hair or an aerial."""
    robot = b.dice.chance(0.4)
    shirt, trousers = b.look(), b.look()
    skin = b.metal() if robot else b.plain("beige", "tan", "brown")
    wide, trunk, leg, head = b.between(0.5, 0.8), b.between(0.6, 0.9), b.between(0.5, 0.9), b.between(0.35, 0.6)
    for side in (-1, 1):
        b.box("leg", trousers, (0.22, wide * 0.38, leg), (0, side * wide * 0.25, leg / 2))
        b.box("", b.darker(trousers, 0.5), (0.36, wide * 0.4, 0.12), (0.06, side * wide * 0.25, 0.06))
        lift = b.dice.pick([0, 0, 15, 80])
        reach = trunk * 0.85
        y, z = (
            side * (wide / 2 + 0.1 + np.sin(np.radians(lift)) * reach / 2),
            leg + trunk - np.cos(np.radians(lift)) * reach / 2,
        )
        b.box("arm", shirt, (0.2, 0.18, reach), (0, y, z), (side * lift, 0, 0))
        y, z = (
            side * (wide / 2 + 0.1 + np.sin(np.radians(lift)) * reach),
            leg + trunk - np.cos(np.radians(lift)) * reach,
        )
        b.ball("hand", skin, (0.2, 0.2, 0.2), (0, y, z))
    b.block("trunk", shirt, (0.32, wide, trunk), (0, 0, leg + trunk / 2), top=b.between(0.8, 1.1))
    z, eye = leg + trunk + head / 2 + 0.04, b.plain("black", "dark blue", "white") if robot else b.plain("black")
    if robot:
        b.box("head", skin, (head, head * 1.1, head), (0, 0, z))
        b.rod("aerial", b.metal(), (0.03, 0.03), 0.35, (0, 0, z + head * 0.6))
    else:
        b.ball("head", skin, (head, head, head * 1.1), (0, 0, z))
        dome = arc(head * 0.54, 5, 90, 5)
        b.turned(
            "",
            b.plain("brown", "black", "yellow", "orange", "dark grey"),
            np.concatenate([[(0.0, dome[0, 1])], dome]),
            (-0.03, 0, z + 0.02),
            (0, -15, 0),
        )
    for side in (-1, 1):
        b.ball("eye", eye, (0.1, 0.1, 0.1), (head * (0.5 if robot else 0.46), side * head * 0.22, z + 0.03))
    return "robot" if robot else "person"


def animal(b: Builder) -> str:
    """A four-legged animal of boxes or of balls."""
    fur, accent = b.plain("brown", "tan", "grey", "white", "black", "orange", "dark grey", "beige", "pink"), b.plain()
    length, wide, tall, leg = b.between(0.9, 1.4), b.between(0.4, 0.6), b.between(0.4, 0.6), b.between(0.3, 0.7)
    solid = b.dice.pick([b.box, b.ball])
    solid("body", fur, (length, wide, tall), (0, 0, leg + tall / 2))
    for i in (-1, 1):
        for j in (-1, 1):
            b.rod("leg", fur, (0.07, 0.1), leg + 0.1, (i * length * 0.34, j * wide * 0.28, (leg + 0.1) / 2))
    head, up = b.between(0.35, 0.5), b.between(0.0, 0.5)
    x, z = length / 2 + head * 0.2, leg + tall * 0.8 + up
    b.rod("neck", fur, (0.16, 0.12), 0.4 + up, (length / 2 - 0.1, 0, z - 0.15 - up / 2), (0, 15, 0))
    solid("head", fur, (head * 1.2, head * 0.8, head * 0.8), (x, 0, z + 0.1))
    solid("muzzle", accent, (head * 0.5, head * 0.5, head * 0.4), (x + head * 0.65, 0, z))
    for side in (-1, 1):
        b.rod(
            "ear",
            fur,
            (0.1, 0.0),
            b.between(0.2, 0.4),
            (x - head * 0.2, side * head * 0.28, z + head * 0.55),
            (-15 * side, 0, 0),
        )
        b.ball("eye", b.plain("black"), (0.08, 0.08, 0.08), (x + head * 0.45, side * head * 0.28, z + head * 0.3))
    b.rod("tail", accent, (0.07, 0.04), 0.5, (-length / 2 - 0.12, 0, leg + tall * 0.75), (0, b.between(-60, -20), 0))
    return "animal"


FIGURES = (snowman, figure, animal)
