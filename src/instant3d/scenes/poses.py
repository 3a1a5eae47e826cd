"""Camera poses from untrusted numbers: a rotation and a position, as (4, 4) matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from instant3d.scenes.json_values import numbers

ROTATION_TOLERANCE = 2.5e-3  # of R^T R against the identity: rounding to three decimals leaves up to 1.8e-3
ROUNDED = 5e-2  # a larger deviation is not due to rounding
EXACT = 1e-5  # up to this deviation, a matrix is used as given
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
FloatArray = np.ndarray


def rigid_pose(value: Any, where: str) -> FloatArray:
    """Return a rotation and a position as (4, 4) float64; any other matrix is a `ValueError` that names `where`."""
    matrix = numbers(value, None, f"transform_matrix of {where}")
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise ValueError(f"transform_matrix of {where} has shape {matrix.shape}; expected (4, 4)")
    rotation = matrix[:3, :3]
    deviation = rotation_deviation(rotation)
    if deviation > ROTATION_TOLERANCE:
        kind, advice = _not_a_rotation(rotation, deviation)
        raise ValueError(f"transform_matrix of {where} is {kind}; {advice}")
    if np.linalg.det(rotation) < 0:
        raise ValueError(
            f"transform_matrix of {where} is mirrored; its axes must be right-handed (x right, y up, z backward)"
        )
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"transform_matrix of {where} ends in the row {matrix[3].tolist()}; expected [0, 0, 0, 1]")
    return orthonormalised(matrix)


def rotation_deviation(rotation: FloatArray) -> float:
    """Return the largest element of R^T R - I for a matrix R (3, 3)."""
    return float(np.abs(rotation.T @ rotation - np.eye(3)).max())


def orthonormalised(matrix: FloatArray) -> FloatArray:
    """Return a pose (4, 4) with the rotation that is nearest to its own (polar decomposition).

    One that deviates by no more than `EXACT` is returned as it is.
    """
    if rotation_deviation(matrix[:3, :3]) <= EXACT:
        return matrix
    left, _, right = np.linalg.svd(matrix[:3, :3])
    result = matrix.copy()
    result[:3, :3] = left @ right
    return result


def _not_a_rotation(rotation: FloatArray, deviation: float) -> tuple[str, str]:
    """Describe what is wrong with a matrix, and what to do."""
    advice = "write the camera's camera-to-world matrix without scaling"
    if abs(np.linalg.det(rotation)) < 1e-6:
        return "singular", advice
    if deviation < ROUNDED:
        return f"off a rotation by {deviation:.1g}, as if rounded to too few digits", "write at least four decimals"
    return "not a rotation (its columns must be unit vectors at right angles)", advice
