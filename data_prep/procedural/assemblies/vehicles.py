"""Vehicles, boats and aircraft. Each function builds one and returns its noun."""

from __future__ import annotations

from ..builder import Builder


def wheels(b: Builder, radius: float, wide: float, track: float, places: list[float]) -> None:
    """Add a pair of wheels with hubs, which stand on z = 0, at each place along x.

    Args:
        b: Builder of the object.
        radius: Radius of the wheels.
        wide: Width of a wheel, along y.
        track: Distance between the two wheels of a pair, centre to centre.
        places: x of each pair.
    """
    tyre, hub = b.plain("black", "dark grey"), b.plain("light grey", "grey", "white", "yellow")
    b.sides = max(b.sides, 10)
    for x in places:
        for side in (-1, 1):
            b.rod("wheel", tyre, (radius, radius), wide, (x, side * track / 2, radius), (90, 0, 0))
            b.rod("", hub, (radius * 0.5,) * 2, wide * 1.1, (x, side * track / 2, radius), (90, 0, 0))


def lamps(b: Builder, front: float, rear: float, track: float, height: float) -> None:
    """Add two headlights and two tail lights.

    Args:
        b: Builder of the object.
        front: x of the headlights.
        rear: x of the tail lights.
        track: Width of the vehicle; the lamps are 0.34 of it to either side.
        height: z of the lamps' centres.
    """
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


VEHICLES = (car, truck, cart, boat, rocket, plane)
