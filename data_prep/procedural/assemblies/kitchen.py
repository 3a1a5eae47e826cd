"""Tableware and food. Each function builds one and returns its noun."""

from __future__ import annotations

import numpy as np

from ..builder import Builder
from ..shapes import arc


def mug(b: Builder) -> str:
    """A hollow cup with a handle, perhaps filled."""
    clay, radius, height = b.look(), b.between(0.35, 0.5), b.between(0.6, 1.1)
    foot, wall = radius * b.between(0.7, 1.0), 0.06
    b.turned(
        "mug", clay, [(0, 0), (foot, 0), (radius, height), (radius - wall, height), (foot - wall, wall), (0, wall)]
    )
    handle = clay if b.dice.chance(0.7) else b.plain()
    b.ring("handle", handle, height * 0.26, 0.06, ((foot + radius) / 2 + 0.03, 0, height / 2), (90, 0, 0))
    if b.dice.chance(0.5):
        b.rod("", b.plain("brown", "tan", "dark red"), (radius - wall * 0.8,) * 2, 0.04, (0, 0, height * 0.8))
    return "mug"


def bottle(b: Builder) -> str:
    """A body, shoulders and a neck in one, a cap and a label."""
    glass, cap = b.plain(), b.plain()
    radius, body, shoulder, neck = b.between(0.25, 0.4), b.between(0.6, 1.2), b.between(0.1, 0.4), b.between(0.15, 0.5)
    thin = radius * b.between(0.25, 0.5)
    top = body + shoulder + neck
    b.turned("bottle", glass, [(0, 0), (radius, 0), (radius, body), (thin, body + shoulder), (thin, top), (0, top)])
    b.rod("cap", cap, (thin * 1.2,) * 2, 0.12, (0, 0, top + 0.03))
    if b.dice.chance(0.7):
        b.rod("label", b.look(), (radius * 1.03,) * 2, body * b.between(0.35, 0.6), (0, 0, body * 0.5))
    return "bottle"


def vase(b: Builder) -> str:
    """A bulging hollow vessel, perhaps with flowers."""
    clay = b.look()
    radii = [
        b.between(0.2, 0.35),
        b.between(0.35, 0.6),
        b.between(0.3, 0.55),
        b.between(0.12, 0.25),
        b.between(0.2, 0.35),
    ]
    heights = np.cumsum([0.0] + [b.between(0.2, 0.4) for _ in range(4)])
    outer = list(zip(radii, heights.tolist(), strict=True))
    inner = [(r - 0.05, z + (0.05 if i == 0 else 0.0)) for i, (r, z) in enumerate(outer)]
    b.turned("vase", clay, [(0, 0), *outer, *inner[::-1], (0, 0.05)])
    for i in range(b.dice.pick([0, 0, 3, 5])):
        angle, lean, length = 137.5 * i, b.between(5, 20), b.between(0.5, 0.9)
        sway = np.sin(np.radians(lean)) * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        z = float(heights[-1]) + np.cos(np.radians(lean)) * length - 0.2
        b.rod("stem", b.plain("green"), (0.02, 0.02), length, (*(sway * length / 2), z - length / 2), (0, lean, angle))
        b.ball("flower", b.plain("red", "yellow", "pink", "lilac", "white"), (0.22, 0.22, 0.16), (*(sway * length), z))
    return "vase"


def bowl(b: Builder) -> str:
    """A hollow bowl with balls of fruit in it."""
    radius, deep = b.between(0.6, 0.9), b.between(0.3, 0.6)
    outer = arc(radius, -60, 0, 5) * np.array([1.0, deep / radius]) + np.array([0.0, deep])
    inner = (outer - np.array([0.06, -0.03]))[::-1]
    floor = [(0.0, float(inner[-1, 1]))]
    b.turned("bowl", b.look(), np.concatenate([[(0.0, float(outer[0, 1]))], outer, inner, floor]))
    fruit, size = b.plain("red", "orange", "green", "yellow"), radius * b.between(0.5, 0.7)
    for i in range(b.dice.pick([0, 3, 4, 5])):
        x, y = radius * 0.45 * np.cos(1.7 * i), radius * 0.45 * np.sin(1.7 * i)
        b.ball("ball", fruit, (size, size, size), (x, y, deep * 0.75 + 0.08 * i))
    return "bowl"


def pot(b: Builder) -> str:
    """A cooking pot with two handles and perhaps a lid, or a pan with one handle."""
    steel, grip = b.dice.pick([b.metal, b.plain])(), b.plain("black", "dark grey", "brown", "red")
    radius, pan = b.between(0.5, 0.7), b.dice.chance(0.4)
    height = b.between(0.12, 0.25) if pan else b.between(0.5, 0.9)
    b.turned(
        "body",
        steel,
        [(0, 0), (radius * 0.95, 0), (radius, height), (radius - 0.05, height), (radius - 0.08, 0.05), (0, 0.05)],
    )
    if pan:
        b.box("handle", grip, (b.between(0.7, 1.0), 0.13, 0.08), (radius + 0.38, 0, height * 0.8))
        return "pan"
    for side in (-1, 1):
        b.ring("handle", grip, 0.15, 0.045, (0, side * radius, height * 0.75))
    if b.dice.chance(0.5):
        b.rod("lid", steel, (radius * 1.03, radius * 0.5), 0.14, (0, 0, height + 0.07))
        b.ball("knob", grip, (0.16, 0.16, 0.14), (0, 0, height + 0.2))
    return "pot"


def burger(b: Builder) -> str:
    """Layers between two halves of a bun."""
    bun, radius, z = b.plain("tan", "orange", "beige"), b.between(0.8, 1.0), 0.3
    b.turned("bottom bun", bun, [(0, 0), (radius * 0.9, 0), (radius, 0.12), (radius, 0.26), (0, 0.26)])
    layers = {
        "patty": ("brown",),
        "cheese slice": ("yellow", "orange"),
        "lettuce leaf": ("green", "light green"),
        "tomato slice": ("red",),
    }
    for _ in range(b.dice.between(1, 4)):
        noun = b.dice.pick(list(layers))
        thick, texture = b.between(0.08, 0.2), b.plain(*layers[noun])
        if noun == "cheese slice":
            b.box(noun, texture, (radius * 1.65, radius * 1.65, 0.06), (0, 0, z), (0, 0, b.between(0, 90)))
            thick = 0.06
        else:
            wide = radius * b.between(0.95, 1.12)
            b.rod(noun, texture, (wide, wide), thick, (0, 0, z + thick / 2 - 0.04))
        z += thick
    dome = arc(radius, 0, 90, 5) * np.array([1.0, b.between(0.4, 0.7)])
    b.turned("top bun", bun, np.concatenate([[(0.0, 0.0)], dome]), (0, 0, z - 0.04))
    return "burger"


def cake(b: Builder) -> str:
    """Tiers, each with icing, and candles or a cherry."""
    dough, icing = b.plain("tan", "brown", "pink", "beige", "white"), b.plain()
    radius, z, tiers = b.between(0.7, 1.0), 0.0, b.dice.between(1, 3)
    for _ in range(tiers):
        tall = b.between(0.3, 0.5)
        b.rod("tier", dough, (radius, radius), tall, (0, 0, z + tall / 2))
        b.rod("icing layer", icing, (radius * 1.04,) * 2, 0.12, (0, 0, z + tall))
        z, radius = z + tall + 0.06, radius * b.between(0.6, 0.75)
    if b.dice.chance(0.5):
        b.ball("cherry", b.plain("red", "dark red"), (0.26, 0.26, 0.26), (0, 0, z + 0.1))
    else:
        wax, count = b.plain(), b.dice.between(1, 4)
        for i in range(count):
            x, y = 0.25 * np.cos(2 * np.pi * i / count), 0.25 * np.sin(2 * np.pi * i / count)
            b.rod("candle", wax, (0.05, 0.05), 0.35, (x, y, z + 0.15))
            b.rod("", b.plain("yellow", "orange"), (0.05, 0), 0.14, (x, y, z + 0.39))
    return "cake"


def ice_cream(b: Builder) -> str:
    """A cone with one to three scoops."""
    b.rod("cone", b.dice.pick([b.plain, b.look])("tan", "orange"), (0.03, 0.4), 1.1, (0, 0, 0.55))
    z, size = 1.2, 0.85
    for _ in range(b.dice.between(1, 3)):
        b.ball(
            "scoop",
            b.plain("pink", "white", "brown", "light green", "yellow", "beige", "lilac"),
            (size,) * 3,
            (0, 0, z),
        )
        z, size = z + size * 0.6, size * 0.85
    return "ice cream"


def fruit(b: Builder) -> str:
    """A round fruit with a stalk and perhaps a leaf."""
    skins = {
        "apple": ("red", "green", "yellow"),
        "orange": ("orange",),
        "plum": ("purple", "dark blue"),
        "lemon": ("yellow",),
        "melon": ("green", "dark green", "light green"),
    }
    noun = b.dice.pick(list(skins))
    long = {"lemon": 1.35, "plum": 1.15, "melon": 1.3}.get(noun, b.between(0.85, 1.0))
    b.ball(noun, b.plain(*skins[noun]), (1.0, 1.0, long))
    b.rod("stalk", b.plain("brown", "olive"), (0.04, 0.05), 0.3, (0, 0, long / 2 + 0.06), (b.between(-15, 15), 0, 0))
    if b.dice.chance(0.6):
        b.ball("leaf", b.leaf(), (0.5, 0.22, 0.06), (0.22, 0, long / 2 + 0.12), (0, -25, 0))
    return noun


def candle(b: Builder) -> str:
    """A candle on a dish."""
    radius, height = b.between(0.12, 0.3), b.between(0.5, 1.2)
    b.turned("dish", b.metal(), [(0, 0), (0.45, 0), (0.6, 0.12), (0.55, 0.14), (0.42, 0.06), (0, 0.06)])
    b.rod("candle", b.look(), (radius, radius * b.between(0.8, 1)), height, (0, 0, height / 2 + 0.04))
    flame = [(0, 0), (0.1, 0.12), (0.07, 0.25), (0, 0.42)]
    b.turned("flame", b.plain("yellow", "orange"), flame, (0, 0, height + 0.03))
    return "candle"


KITCHEN = (mug, bottle, vase, bowl, pot, burger, cake, ice_cream, fruit, candle)
