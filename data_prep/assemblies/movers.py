"""Vehicles, figures, animals, tools and treasure."""

from __future__ import annotations

import numpy as np

from data_prep.builder import Builder
from data_prep.shapes import arc


def wheels(b: Builder, radius: float, wide: float, track: float, places: list[float]) -> None:
    """A pair of wheels with hubs at each place along x."""
    tyre, hub = b.plain("black", "dark grey"), b.plain("light grey", "grey", "white", "yellow")
    b.sides = max(b.sides, 10)
    for x in places:
        for side in (-1, 1):
            b.rod("wheel", tyre, (radius, radius), wide, (x, side * track / 2, radius), (90, 0, 0))
            b.rod("", hub, (radius * 0.5,) * 2, wide * 1.1, (x, side * track / 2, radius), (90, 0, 0))


def lamps(b: Builder, front: float, rear: float, track: float, height: float) -> None:
    """Headlights and tail lights."""
    white, red = b.plain("white", "yellow"), b.plain("red")
    for side in (-1, 1):
        b.box("", white, (0.05, 0.16, 0.1), (front, side * track * 0.34, height))
        b.box("", red, (0.05, 0.16, 0.1), (rear, side * track * 0.34, height))


def car(b: Builder) -> str:
    """A body, a cabin narrower above, glass on its sides, four wheels."""
    paint, glass = b.look(), b.plain("dark grey", "light blue", "black", "dark blue")
    length, width, low, tall = b.between(1.8, 2.6), b.between(0.9, 1.1), b.between(0.3, 0.45), b.between(0.3, 0.5)
    radius, cabin, shift = b.between(0.2, 0.28), length * b.between(0.4, 0.75), b.between(-0.25, 0.05)
    floor = radius * 0.8
    b.box("body", paint, (length, width, low), (0, 0, floor + low / 2))
    roof, z = b.between(0.7, 0.95), floor + low + tall / 2
    b.block("cabin", glass, (cabin, width * 0.96, tall), (shift, 0, z), top=roof)
    b.box("roof", paint, (cabin * roof, width * 0.96 * roof, 0.06), (shift, 0, z + tall / 2))
    if b.dice.chance(0.3):
        b.box(
            "beacon",
            b.plain("blue", "red", "yellow", "orange"),
            (0.12, width * 0.5, 0.12),
            (shift, 0, z + tall / 2 + 0.08),
        )
    wheels(b, radius, 0.18, width * 0.92, [length * 0.31, -length * 0.31])
    lamps(b, length / 2, -length / 2, width, floor + low * 0.6)
    return "car"


def truck(b: Builder) -> str:
    """A cab and a load: a box, a tank or an open bed."""
    paint, load = b.look(), b.look()
    length, width, radius = b.between(1.4, 2.2), b.between(0.8, 1.0), b.between(0.22, 0.3)
    tall, floor = b.between(0.6, 1.1), radius * 1.1
    b.box("", b.plain("dark grey", "black"), (length + 0.7, width * 0.8, 0.12), (0, 0, floor))
    b.box("cab", paint, (0.65, width, 0.8), (length / 2 + 0.05, 0, floor + 0.45))
    b.box(
        "window",
        b.plain("light blue", "dark grey", "black"),
        (0.3, width * 1.02, 0.3),
        (length / 2 + 0.24, 0, floor + 0.6),
    )
    kind, z = b.dice.pick(["container", "tank", "open bed"]), floor + 0.08
    x = -0.35
    if kind == "container":
        b.box(kind, load, (length, width * 1.02, tall), (x, 0, z + tall / 2))
    elif kind == "tank":
        b.rod(kind, load, (width * 0.48,) * 2, length, (x, 0, z + width * 0.48), (0, 90, 0))
    else:
        b.box("", load, (length, width, 0.08), (x, 0, z + 0.04))
        for side in (-1, 1):
            b.box("side board", load, (length, 0.06, 0.35), (x, side * width / 2, z + 0.2))
            b.box("", load, (0.06, width, 0.35), (x + side * length / 2, 0, z + 0.2))
    wheels(b, radius, 0.18, width * 0.95, [length / 2 + 0.05, -length * 0.3, -length * 0.62][: b.dice.between(2, 3)])
    return "truck"


def cart(b: Builder) -> str:
    """An open wooden box on two big wheels with two shafts."""
    wood, length, width, radius = b.wood(), b.between(1.0, 1.5), b.between(0.7, 0.9), b.between(0.3, 0.5)
    b.box("", wood, (length, width, 0.08), (0, 0, radius + 0.1))
    for side in (-1, 1):
        b.box("side board", wood, (length, 0.06, 0.35), (0, side * width / 2, radius + 0.28))
        b.box("end board", wood, (0.06, width, 0.35), (side * length / 2, 0, radius + 0.28))
        b.box("shaft", wood, (0.9, 0.07, 0.07), (length / 2 + 0.4, side * width * 0.35, radius + 0.08))
    wheels(b, radius, 0.1, width + 0.2, [0.0])
    load = b.plain()
    for i in range(b.dice.between(0, 4)):
        b.ball("sack", load, (0.4, 0.4, 0.34), (length * (0.3 - 0.2 * i), 0.15 * (-1) ** i, radius + 0.4))
    return "cart"


def boat(b: Builder) -> str:
    """A pointed hull, deck, and a sail or a cabin."""
    hull, length, width, deep = (
        b.dice.pick([b.wood, b.look])(),
        b.between(1.6, 2.4),
        b.between(0.6, 0.9),
        b.between(0.3, 0.45),
    )
    half = length / 2
    keel = [(-half * 0.9, 0), (half * 0.6, 0), (half * 1.1, deep), (-half, deep)]
    b.cutout("hull", hull, keel, width)
    b.box("deck", b.darker(hull), (length * 0.85, width * 0.85, 0.06), (0, 0, deep))
    if b.dice.chance(0.55):
        mast = b.between(1.2, 2.0)
        b.rod("mast", b.wood(), (0.05, 0.04), mast, (0, 0, deep + mast / 2))
        cloth = b.look("white", "beige", "red", "light blue", "orange")
        b.cutout("sail", cloth, [(0.06, deep + 0.25), (half * 0.95, deep + 0.25), (0.06, deep + mast)], 0.05)
        if b.dice.chance(0.5):
            b.cutout("sail", cloth, [(-half * 0.8, deep + 0.3), (-0.06, deep + 0.3), (-0.06, deep + mast * 0.85)], 0.05)
        return "sailing boat"
    b.box("cabin", b.plain(), (length * 0.35, width * 0.7, 0.5), (-0.1, 0, deep + 0.25))
    b.box("window", b.plain("light blue", "black"), (length * 0.2, width * 0.74, 0.18), (0, 0, deep + 0.32))
    b.rod("funnel", b.plain("red", "black", "yellow"), (0.1, 0.1), 0.4, (-0.2, 0, deep + 0.65))
    return "boat"


def rocket(b: Builder) -> str:
    """A bulging body with a nose, fins and a round window."""
    body, nose, radius, height = b.look(), b.plain(), b.between(0.3, 0.45), b.between(1.2, 2.0)
    b.turned(
        "body",
        body,
        [
            (0, 0),
            (radius * 0.75, 0),
            (radius, height * 0.35),
            (radius * 0.95, height * 0.7),
            (radius * 0.8, height),
            (0, height),
        ],
    )
    tip = [
        (0, height),
        (radius * 0.8, height),
        (radius * 0.5, height + radius),
        (0, height + radius * b.between(1.7, 2.6)),
    ]
    b.turned("nose", nose, tip)
    fin = b.plain() if b.dice.chance(0.5) else nose
    count = b.dice.between(3, 4)
    for i in range(count):
        b.cutout(
            "fin",
            fin,
            [(radius * 0.6, 0.1), (radius * 1.6, -0.3), (radius * 1.7, 0.1), (radius * 0.9, height * 0.4)],
            0.07,
            turn=(0, 0, 360 * i / count + 45),
        )
    b.rod(
        "window",
        b.plain("light blue", "white", "dark blue", "yellow"),
        (0.15, 0.13),
        0.12,
        (radius * 0.98, 0, height * 0.65),
        (0, 90, 0),
    )
    b.rod("", b.plain("orange", "dark grey"), (radius * 0.6, radius * 0.4), 0.2, (0, 0, -0.08))
    return "rocket"


def plane(b: Builder) -> str:
    """A fuselage, wings, a tail and a propeller or two jets."""
    paint, wing = b.look(), b.look()
    length, span, radius = b.between(1.6, 2.4), b.between(1.6, 2.6), b.between(0.18, 0.28)
    b.turned(
        "fuselage",
        paint,
        [
            (0, -length / 2),
            (radius * 0.4, -length / 2),
            (radius, -length * 0.1),
            (radius, length * 0.3),
            (radius * 0.6, length * 0.45),
            (0, length / 2),
        ],
        turn=(0, 90, 0),
    )
    b.box("wing", wing, (b.between(0.3, 0.5), span, 0.07), (length * 0.08, 0, b.dice.pick([-0.5, 0.0, 0.9]) * radius))
    b.box("tailplane", wing, (0.25, span * 0.35, 0.05), (-length * 0.44, 0, radius * 0.3))
    b.cutout(
        "tail fin", wing, [(-length * 0.5, 0), (-length * 0.3, 0), (-length * 0.45, 0.45), (-length * 0.52, 0.45)], 0.05
    )
    b.ball(
        "cockpit",
        b.plain("light blue", "dark grey", "black"),
        (0.5, radius * 1.3, radius * 1.3),
        (length * 0.22, 0, radius * 0.7),
    )
    if b.dice.chance(0.5):
        b.box("", b.plain("dark grey", "brown"), (0.05, 0.1, 0.9), (length * 0.51, 0, 0), (b.between(0, 90), 0, 0))
    else:
        engine = b.metal()
        for side in (-1, 1):
            b.rod("engine", engine, (0.1, 0.12), 0.45, (length * 0.08, side * span * 0.25, -radius * 0.6), (0, 90, 0))
    return "plane"


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
    for x in (-1, 1):
        for y in (-1, 1):
            b.rod("leg", fur, (0.07, 0.1), leg + 0.1, (x * length * 0.34, y * wide * 0.28, (leg + 0.1) / 2))
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
        "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3)],
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


MOVERS = (
    car, truck, cart, boat, rocket, plane, snowman, figure, animal, sword, hand_tool, ladder, chest,
    potion, crystals, symbol, shield, umbrella, dumbbell,
)  # fmt: skip
