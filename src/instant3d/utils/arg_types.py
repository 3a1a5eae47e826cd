"""Single words of a command line to values, or a sentence on what was expected. Knows no command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Literal

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def frame_numbers(text: str) -> list[int] | Literal["all"]:
    """Frame numbers such as 0,1,2,3, or all."""
    if text == "all":
        return "all"
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of frame numbers such as 0,1,2,3")
    return [int(part) for part in text.split(",")]


def comma_separated(text: str) -> list[str]:
    """Words between commas, in lower case."""
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def nonempty_path(text: str) -> Path:
    """A file or folder; an empty text, such as a shell makes of an unset variable, is none."""
    return Path(nonempty(text))


def nonempty(text: str) -> str:
    """A name of a file, a folder or a model, not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a file or folder, or leave the option out")
    return text


def positive_int(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def nonnegative_int(text: str) -> int:
    """A whole number from 0."""
    if not re.fullmatch(r"\d{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 that leaves room to count up."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 with at most 18 digits")
    return int(text)


def byte_size(text: str) -> int:
    """Bytes, from an amount of memory such as 512M or 2G."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory such as 512M or 2G")
    return int(float(match[1]) * UNITS[match[2]])
