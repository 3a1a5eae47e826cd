"""Line charts over a logarithmic x axis, written as PNG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 36, 56  # room for numbers and names
FINER = 3  # supersampling factor: Pillow draws lines without antialiasing
Colour = tuple[int, int, int]
INK, FAINT = (50, 50, 50), (222, 222, 222)
HUES = ((31, 119, 180), (214, 96, 20), (44, 140, 60), (170, 50, 120), (110, 90, 200), (120, 120, 120))


@dataclass(frozen=True)
class Line:
    """A named line through points (x > 0, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axes:
    """Mapping from data to page: logarithmic x, linear y, in the enlarged pixels that are drawn.

    Attributes:
        ticks: All x values, increasing.
        levels: Grid lines of y, increasing.
    """

    ticks: Sequence[float]
    levels: Sequence[float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the page position of a data point, in enlarged pixels."""
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        along = (math.log(x) - low) / (high - low) if high > low else 0.5
        up = (y - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return (
            FINER * (LEFT + along * (WIDTH - LEFT - RIGHT)),
            FINER * (HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)),
        )


def line_chart(lines: Sequence[Line], path: str | Path, *, across: str, up: str) -> None:
    """Draw lines with their names at the right and a tick below every x; points that are not finite are left out.

    Args:
        lines: The lines; x must be positive.
        path: PNG file to write.
        across: Label of the x axis.
        up: Label of the y axis.

    Raises:
        ValueError: There is no finite point.
    """
    kept = [Line(line.name, [(x, y) for x, y in sorted(line.points) if math.isfinite(y)]) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        raise ValueError("a chart needs at least one point whose value is a number")
    values = [y for line in kept for _, y in line.points]
    frame = Axes(sorted({x for line in kept for x, _ in line.points}), levels(min(values), max(values)))
    page = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), "white")
    pen = ImageDraw.Draw(page)
    _axes(pen, frame, across, up)
    for line, hue in zip(kept, itertools.cycle(HUES), strict=False):
        _draw(pen, frame, line, hue)
    _names(pen, frame, kept)
    page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(path, "PNG")


def levels(low: float, high: float) -> list[float]:
    """Return about five round numbers, evenly spaced, that enclose the range from `low` to `high`."""
    rough = max(high - low, abs(high) * 1e-3, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def _axes(pen: ImageDraw.ImageDraw, frame: Axes, across: str, up: str) -> None:
    for level in frame.levels:
        _, y = frame.at(frame.ticks[0], level)
        pen.line([(FINER * LEFT, y), (FINER * (WIDTH - RIGHT), y)], fill=FAINT, width=FINER)
        _print(pen, f"{level:g}", (FINER * LEFT - 8 * FINER, y), "rm")
    for tick in frame.ticks:
        x, y = frame.at(tick, frame.levels[0])
        pen.line([(x, y), (x, y + 5 * FINER)], fill=INK, width=FINER)
        _print(pen, f"{tick:g}", (x, y + 8 * FINER), "ma")
    _print(pen, across, (FINER * (LEFT + WIDTH - RIGHT) / 2, FINER * (HEIGHT - 8)), "mb")
    _print(pen, up, (FINER * 8, FINER * 4), "la")


def _draw(pen: ImageDraw.ImageDraw, frame: Axes, line: Line, hue: Colour) -> None:
    places = [frame.at(x, y) for x, y in line.points]
    pen.line(places, fill=hue, width=2 * FINER, joint="curve")
    for x, y in places:
        pen.ellipse((x - 4 * FINER, y - 4 * FINER, x + 4 * FINER, y + 4 * FINER), fill=hue)


def _names(pen: ImageDraw.ImageDraw, frame: Axes, lines: Sequence[Line]) -> None:
    """Write each name beside its line's last point, moved down where it would overlap the one above."""
    ends = sorted(zip((frame.at(*line.points[-1])[1] for line in lines), range(len(lines)), strict=True))
    free = 0.0
    for y, k in ends:
        y = max(y, free)
        _print(pen, lines[k].name, (FINER * (WIDTH - RIGHT + 12), y), "lm", HUES[k % len(HUES)])
        free = y + 17 * FINER


def _print(pen: ImageDraw.ImageDraw, text: str, place: tuple[float, float], anchor: str, fill: Colour = INK) -> None:
    pen.text(place, text, fill=fill, font=ImageFont.load_default(13 * FINER), anchor=anchor)
