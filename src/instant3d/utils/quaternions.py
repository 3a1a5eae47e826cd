"""Rotations given as quaternions, as in glTF files and captures."""

from __future__ import annotations

import numpy as np


def rotation_matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    """Return the rotation matrix (3, 3) of a unit quaternion with real part `w`.

    Args:
        x: First imaginary part.
        y: Second imaginary part.
        z: Third imaginary part.
        w: Real part.
    """
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
