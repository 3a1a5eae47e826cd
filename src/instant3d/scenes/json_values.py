"""Checked values of an untrusted JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

FloatArray = np.ndarray


def numbers(value: Any, shape: tuple[int, ...] | None, what: str) -> FloatArray:
    """Return finite numbers as a float64 array.

    Args:
        value: A list of numbers, or of such lists.
        shape: The expected shape; None accepts any list.
        what: Name of the value for error messages.

    Raises:
        ValueError: It is missing, not made of finite numbers, or of another shape.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{what} is missing or not made of numbers") from error
    if array.ndim == 0 or (shape is not None and array.shape != shape):
        raise ValueError(f"{what} is missing or not a list of the right length")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds a number that is not finite (NaN or infinite)")
    return array


def number(value: Any, what: str) -> float:
    """Return a finite number; `what` names it in the `ValueError` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{what} is {brief(value)}; expected a finite number")
    return float(value)


def brief(value: Any) -> str:
    """A scalar as it is, at most 40 characters; of a list or object, which may be nested deeply, its type."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.40}"


def positive(value: Any, what: str) -> float:
    """Return a number above 0; `what` names it in the `ValueError` for anything else."""
    if number(value, what) <= 0:
        raise ValueError(f"{what} is {value}; expected a number above 0")
    return float(value)


def file_name(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return the file name at a key of a frame's entry, with forward slashes; None if it is absent or empty.

    Args:
        entry: The JSON object.
        key: Its key.
        where: Name of the frame for error messages.

    Raises:
        ValueError: The value is not a text.
    """
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} of {where} is {brief(value)}; expected a file name")
    return value.replace("\\", "/") if value else None


def stem(path: str) -> str:
    """Return the last part of a path without its extension."""
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] or name
