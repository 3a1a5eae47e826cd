"""Types for argparse options: each function converts one word of a command line or raises a clear error.

Every function raises `argparse.ArgumentTypeError`, which argparse prints with the option's name.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Literal

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def frame_numbers(text: str) -> list[int] | Literal["all"]:
    """Parse comma-separated frame numbers such as `0,1,2,3`, or the word `all`."""
    if text == "all":
        return "all"
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of frame numbers such as 0,1,2,3")
    return [int(part) for part in text.split(",")]


def comma_separated(text: str) -> list[str]:
    """Split a text at commas into stripped, lower-case, non-empty words."""
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def finite_floats(text: str) -> list[float]:
    """Parse comma-separated finite numbers such as `0,90,180.5`."""
    if not re.fullmatch(r"-?\d{1,6}(\.\d*)?(,-?\d{1,6}(\.\d*)?)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,90,180.5")
    return [float(word) for word in text.split(",")]


def nonempty_path(text: str) -> Path:
    """Parse a path; an empty text, such as a shell makes of an unset variable, is refused."""
    return Path(nonempty(text))


def nonempty(text: str) -> str:
    """Accept the name of a file, a folder or a model; refuse an empty text."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a file or folder, or leave the option out")
    return text


def positive_int(text: str) -> int:
    """Parse a whole number of 1 or more, of at most 6 digits."""
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def nonnegative_int(text: str) -> int:
    """Parse a whole number of 0 or more, of at most 6 digits."""
    if not re.fullmatch(r"\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    if not re.fullmatch(r"\d(\.\d{0,9})?|\.\d{1,9}", text) or float(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return float(text)


def seed(text: str) -> int:
    """Parse a random seed: a whole number of 0 or more, small enough that adding an index still fits 64 bits."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 with at most 18 digits")
    return int(text)


def byte_size(text: str) -> int:
    """Parse an amount of memory such as `512M` or `2G` (powers of 1024) into bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory such as 512M or 2G")
    return int(float(match[1]) * UNITS[match[2]])
