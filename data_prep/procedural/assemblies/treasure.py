"""Weapons, tools and items of games. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..shapes import arc


def sword(b: Builder) -> str:
    """Blade, guard, grip and pommel; or a dagger."""
    blade, guard, grip = (
        b.plain("light grey", "grey", "white", "light blue"),
        b.plain("yellow", "dark grey", "brown", "red"),
        b.plain(),
    )
    length, wide = b.between(0.9, 2.2), b.between(0.14, 0.3)
    outline = [
        (-wide / 2, 0),
        (wide / 2, 0),
        (wide * b.between(0.35, 0.6), length * 0.85),
        (0, length),
        (-wide / 2, length * 0.85),
    ]
    b.cutout("blade", blade, outline, 0.06)
    b.box("guard", guard, (wide * b.between(2, 3.5), 0.14, 0.12), (0, 0, 0))
    b.rod("grip", grip, (0.07, 0.06), 0.45, (0, 0, -0.25))
    b.ball("pommel", guard, (0.18, 0.18, 0.18), (0, 0, -0.5))
    return "sword" if length > 1.2 else "dagger"


def hand_tool(b: Builder) -> str:
    """A hammer, an axe, a shovel or a pickaxe: a handle and a head."""
    noun, length = b.dice.pick(["hammer", "axe", "shovel", "pickaxe"]), b.between(1.2, 1.8)
    b.rod("handle", b.dice.pick([b.wood, b.plain])(), (0.07, 0.06), length, (0, 0, length / 2))
    steel = b.dice.pick([b.metal, b.plain])()
    if noun == "hammer":
        b.box("head", steel, (b.between(0.5, 0.9), 0.26, 0.3), (0, 0, length))
    elif noun == "axe":
        b.cutout(
            "head",
            steel,
            [(-0.12, -0.12), (0.12, -0.12), (0.5, -0.38), (0.58, 0.0), (0.5, 0.34), (0.12, 0.12), (-0.12, 0.12)],
            0.12,
            (0, 0, length - 0.1),
        )
    elif noun == "shovel":
        b.cutout(
            "head", steel, [(-0.25, -0.1), (0.25, -0.1), (0.25, 0.35), (0, 0.6), (-0.25, 0.35)], 0.05, (0, 0, length)
        )
    else:
        b.cutout(
            "head",
            steel,
            [(-0.75, -0.15), (-0.2, 0.02), (0.2, 0.02), (0.75, -0.15), (0.25, 0.2), (-0.25, 0.2)],
            0.14,
            (0, 0, length - 0.1),
        )
    return noun


def ladder(b: Builder) -> str:
    """Two rails and rungs."""
    wood, count, width, step = (
        b.dice.pick([b.wood, b.look])(),
        b.dice.between(4, 9),
        b.between(0.4, 0.6),
        b.between(0.25, 0.35),
    )
    height = step * (count + 0.6)
    for side in (-1, 1):
        b.box("rail", wood, (0.1, 0.08, height), (0, side * width / 2, height / 2))
    for i in range(count):
        b.rod("rung", wood, (0.04, 0.04), width, (0, 0, step * (i + 0.8)), (90, 0, 0))
    return "ladder"


def chest(b: Builder) -> str:
    """A chest with a rounded lid, bands and a lock."""
    wood, band = b.wood(), b.plain("yellow", "grey", "dark grey", "black")
    width, depth, height = b.between(1.0, 1.4), b.between(0.6, 0.8), b.between(0.4, 0.6)
    b.box("body", wood, (depth, width, height), (0, 0, height / 2))
    half = arc(depth / 2, 0, 180, 8, centre=(0, 0))
    b.cutout("lid", wood, half * np.array([1.0, 0.75]), width, (0, 0, height))
    for side in (-1, 1):
        b.box("", band, (depth * 1.05, 0.1, height * 1.02), (0, side * width * 0.3, height / 2))
        b.cutout("band", band, half * np.array([1.05, 0.8]), 0.1, (0, side * width * 0.3, height))
    b.box("lock", b.plain("yellow", "grey"), (0.08, 0.18, 0.22), (depth / 2 + 0.03, 0, height))
    return "chest"


def potion(b: Builder) -> str:
    """A round flask, its neck and cork."""
    glass, size = (
        b.plain("red", "blue", "green", "purple", "pink", "turquoise", "orange", "light blue"),
        b.between(0.8, 1.1),
    )
    b.ball("flask", glass, (size, size, size * b.between(0.8, 1.1)))
    b.rod("neck", b.darker(glass, 0.8), (0.16, 0.16), 0.5, (0, 0, size / 2 + 0.1))
    b.ring("ring", b.plain("yellow", "grey", "brown"), 0.17, 0.05, (0, 0, size / 2 + 0.3))
    b.rod("cork", b.plain("tan", "brown"), (0.12, 0.16), 0.22, (0, 0, size / 2 + 0.42))
    return "potion bottle"


def crystals(b: Builder) -> str:
    """One to five six-sided crystals leaning outwards from a stone."""
    gem, count = b.plain("light blue", "purple", "green", "pink", "red", "turquoise", "blue"), b.dice.between(1, 5)
    for i in range(count):
        length, radius, lean = (
            b.between(0.8, 1.5) / (1 if i == 0 else 1.6),
            b.between(0.14, 0.28),
            (0 if i == 0 else b.between(20, 40)),
        )
        profile = [(0, 0), (radius * 0.7, 0), (radius, length * 0.7), (0, length)]
        b.turned("crystal", gem, profile, turn=(0, lean, 137.5 * i), sides=6)
    b.sides = 7
    b.ball("stone", b.plain("grey", "dark grey", "brown"), (0.9, 0.8, 0.4))
    return ""


def symbol(b: Builder) -> str:
    """A flat star, heart, arrow, cross, ring-like coin or flash."""
    noun = b.dice.pick(["star", "heart", "arrow", "cross", "coin", "flash"])
    points = b.dice.between(5, 6) * 2
    angle, inner = np.pi * np.arange(points) * 2 / points + np.pi / 2, b.between(0.4, 0.6)
    star = np.stack([np.cos(angle), np.sin(angle)], -1) * np.where(np.arange(points) % 2 == 0, 1.0, inner)[:, None]
    t = np.pi * 2 * np.arange(24) / 24
    heart = np.stack(
        [-(np.sin(t) ** 3), (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16], -1
    )
    outlines = {
        "star": star, "heart": heart, "coin": arc(0.9, 0, 360, 24)[:-1],
        "arrow": [(-0.25, -1), (0.25, -1), (0.25, 0.1), (0.7, 0.1), (0, 1), (-0.7, 0.1), (-0.25, 0.1)],
        "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
                  (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
        "flash": [(-0.5, -1), (0.6, 0.2), (0.1, 0.25), (0.4, 1), (-0.55, -0.05), (0.0, -0.1)],
    }  # fmt: skip
    body = b.look("yellow", "red", "orange", "light grey") if noun == "coin" else b.look()
    outline, depth = np.asarray(outlines[noun]), b.between(0.15, 0.45)
    b.cutout(noun, body, outline, depth)
    if b.dice.chance(0.4):
        b.cutout("" if noun == "flash" else f"inner {noun}", b.plain(), outline * 0.6, depth + 0.08)
    return noun


def shield(b: Builder) -> str:
    """A board with a rim, round or pointed, and a boss."""
    rim, face = b.dice.pick([b.metal, b.plain])(), b.look()
    pointed = [(-0.7, 0.8), (-0.72, 0.1), (-0.45, -0.5), (0, -0.95), (0.45, -0.5), (0.72, 0.1), (0.7, 0.8)]
    outline = np.asarray(pointed) if b.dice.chance(0.5) else arc(0.85, 0, 360, 20)[:-1]
    b.cutout("rim", rim, outline, 0.12)
    b.cutout("face", face, outline * b.between(0.8, 0.9), 0.2)
    b.ball("boss", rim, (0.4, 0.4, 0.4), (0, 0, 0.0))
    return "shield"


def umbrella(b: Builder) -> str:
    """A canopy on a pole, hollow below."""
    cloth, radius, height = b.look(), b.between(0.8, 1.1), b.between(1.2, 1.6)
    outer = arc(radius, 5, 90, 5) * np.array([1.0, b.between(0.4, 0.7)])
    inner = outer[::-1] - np.array([0.04, 0.05])
    inner[0, 0] = 0.0
    b.turned("canopy", cloth, np.concatenate([inner, outer]), (0, 0, height))
    b.rod("pole", b.dice.pick([b.wood, b.metal])(), (0.04, 0.04), height + 0.5, (0, 0, (height + 0.5) / 2))
    b.rod("foot", b.metal(), (0.4, 0.3), 0.1, (0, 0, 0.05))
    return "parasol"


def dumbbell(b: Builder) -> str:
    """A bar with weights at both ends."""
    weight, bar, length, count = b.look(), b.metal(), b.between(0.8, 1.6), b.dice.between(1, 2)
    b.rod("bar", bar, (0.07, 0.07), length + 0.3, turn=(0, 90, 0))
    for side in (-1, 1):
        for i in range(count):
            radius = b.between(0.25, 0.5)
            b.rod("weight", weight, (radius, radius), 0.16, (side * (length / 2 - 0.2 * i), 0, 0), (0, 90, 0))
    return "dumbbell"


TREASURE = (sword, hand_tool, ladder, chest, potion, crystals, symbol, shield, umbrella, dumbbell)
