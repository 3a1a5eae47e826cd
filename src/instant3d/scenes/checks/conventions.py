"""Camera conventions of `transform_matrix`, and their conversion to the format's convention.

The format requires camera-to-world matrices with OpenGL's camera axes (x right, y up, z backward).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.scenes import transforms
from instant3d.utils.atomic import write_bytes

GIVEN = "camera-to-world, OpenGL"
_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # y down, z forward
_FROM_PYTORCH3D = np.diag([-1.0, 1.0, -1.0, 1.0])  # x left, y up, z forward
# name: (whether the matrix is world-to-camera, conversion from OpenGL's camera axes to its)
READINGS: dict[str, tuple[bool, np.ndarray]] = {
    GIVEN: (False, np.eye(4)),
    "camera-to-world, OpenCV": (False, _FROM_OPENCV),
    "world-to-camera, OpenGL": (True, np.eye(4)),
    "world-to-camera, OpenCV": (True, _FROM_OPENCV),
    "camera-to-world, PyTorch3D": (False, _FROM_PYTORCH3D),
}
KEPT = ".before-doctor"


def reread(document: transforms.Document, reading: str) -> transforms.Document:
    """Convert a document whose matrices were written in the convention `reading` to the format's convention."""
    frames = [_reread(entry, reading) for entry in document.content["frames"]]
    return transforms.Document(document.where, {**document.content, "frames": frames})


def repair(file: Path, reading: str) -> Path:
    """Rewrite `file` with converted matrices.

    Args:
        file: A `transforms.json`.
        reading: The convention in which its matrices were written, a key of `READINGS`.

    Returns:
        Path of the backup of the old file.
    """
    document = transforms.parse(file.read_bytes(), str(file))
    text = json.dumps(reread(document, reading).content, indent=1, allow_nan=False) + "\n"
    kept = _free_name(file)
    shutil.copy2(file, kept)
    write_bytes(file, text.encode())
    return kept


def _reread(entry: Any, reading: str) -> Any:
    """Convert a frame's entry; one without a matrix is left unchanged."""
    inverse, axes = READINGS[reading]
    try:
        given = np.asarray(entry["transform_matrix"], np.float64)
    except (TypeError, KeyError, ValueError):
        return entry
    if given.shape not in ((3, 4), (4, 4)):
        return entry
    matrix = np.eye(4)
    matrix[: len(given)] = given
    meant = (_inverse(matrix) if inverse else matrix) @ axes
    return {**entry, "transform_matrix": (meant + 0.0).tolist()}  # + 0.0: no "-0.0" in the file


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert a rigid transformation, without the rounding of a general inverse."""
    result = np.eye(4)
    result[:3, :3] = matrix[:3, :3].T
    result[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return result


def _free_name(file: Path) -> Path:
    kept = file.with_name(file.name + KEPT)
    number = 1
    while kept.exists():
        number += 1
        kept = file.with_name(f"{file.name}{KEPT}.{number}")
    return kept
