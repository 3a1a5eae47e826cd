"""Rotation matrices from angles and from random numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .portable_rng import PortableRandom

Vectors = NDArray[np.float64]


def euler(x_deg: float, y_deg: float, z_deg: float) -> Vectors:
    """Rotation matrix (3, 3) about x, then y, then z (fixed axes).

    Args:
        x_deg: Angle about x in degrees.
        y_deg: Angle about y.
        z_deg: Angle about z.
    """
    cx, cy, cz = np.cos(np.radians([x_deg, y_deg, z_deg]))
    sx, sy, sz = np.sin(np.radians([x_deg, y_deg, z_deg]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def random_rotation(dice: PortableRandom) -> Vectors:
    """Rotation matrix (3, 3), uniform over all rotations (Shoemake 1992)."""
    a, b, c = dice.uniforms(3)
    angles = 2 * np.pi * np.array([b, c])
    x, y = np.sqrt(1 - a) * np.array([np.sin(angles[0]), np.cos(angles[0])])
    z, w = np.sqrt(a) * np.array([np.sin(angles[1]), np.cos(angles[1])])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
