"""Cameras around an object, by the quantities in which photos without cameras are uncertain.

A camera orbits the origin; the origin need not lie in the middle of its image, and the camera may be rolled. Focal
lengths change by one common factor, since one camera took all photos. A change of that factor moves the cameras too
(a dolly zoom), so that the object's size in the images stays and the two unknowns are almost independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras, look_at
from instant3d.utils.tensor_dataclass import TensorDataclass

COLUMNS = ("azimuth_deg", "elevation_deg", "roll_deg", "log_distance", "across", "down", "log_focal")
SHARED = COLUMNS.index("log_focal")  # one value for all cameras


@dataclass(frozen=True)
class OrbitPoses(TensorDataclass):
    """Poses and focal factor of V cameras.

    Attributes:
        values: (V, 7), the columns named by `COLUMNS`: azimuth, elevation and roll in degrees (roll turns the camera
            clockwise), logarithm of the distance, position of the origin's image from the image's centre as fractions
            of its width and height, and the logarithm of the common factor of focal length and distance.
        intrinsics: (V, 4), before that factor.
    """

    values: Tensor
    intrinsics: Tensor

    @property
    def cameras(self) -> Cameras:
        """Cameras (V,)."""
        azimuth, elevation, roll, log_distance, across, down, log_focal = self.values.unbind(-1)
        azimuth, elevation, roll = (torch.deg2rad(angle) for angle in (azimuth, elevation, roll))
        toward = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
        eye = (log_distance + log_focal).exp()[..., None] * torch.stack(toward, dim=-1)
        focal = self.intrinsics[..., :2] * log_focal.exp()[..., None]
        intrinsics = torch.cat([focal, self.intrinsics[..., 2:]], dim=-1)
        slope = (torch.stack([across, down], dim=-1) + 0.5 - intrinsics[..., 2:]) / focal
        forward = F.normalize(torch.cat([slope, torch.ones_like(slope[..., :1])], dim=-1), dim=-1)
        matrix = look_at(eye)
        turn = _rolled(roll) @ _to_z(forward)
        rotation = torch.cat([matrix[..., :3, :3] @ turn, matrix[..., :3, 3:]], dim=-1)
        return Cameras(torch.cat([rotation, matrix[..., 3:, :]], dim=-2), intrinsics)

    def report(self) -> list[dict[str, float]]:
        """Return each camera's angles, distance and field of view across its image, rounded, for a record."""
        numbers = torch.cat([self.values[:, :3], self.cameras.positions.norm(dim=-1)[:, None]], dim=-1)
        fovs = 2 * torch.rad2deg(torch.atan(0.5 / self.cameras.intrinsics[:, :1]))
        keys = ("azimuth", "elevation", "roll", "distance", "fov")
        rows = torch.cat([numbers, fovs], dim=-1).tolist()
        return [{key: round(number, 3) for key, number in zip(keys, row, strict=True)} for row in rows]

    def moved(self, change: Tensor) -> OrbitPoses:
        """Return the poses with `change` (..., V, 7) added."""
        values = self.values + change
        return OrbitPoses(values, self.intrinsics.expand(*values.shape[:-1], 4))


def orbit_poses(
    azimuths_deg: Sequence[float], elevation_deg: float, distances: Tensor, intrinsics: Tensor, centres: Tensor
) -> OrbitPoses:
    """Make poses without roll.

    Args:
        azimuths_deg: Of the V cameras.
        elevation_deg: Of all cameras.
        distances: (V,), from the origin.
        intrinsics: (V, 4).
        centres: Where the origin appears, (V, 2), as fractions of width and height.

    Returns:
        Poses (V,).
    """
    zero = torch.zeros_like(distances)
    azimuth = torch.tensor(azimuths_deg, dtype=distances.dtype)
    columns = [azimuth, zero + elevation_deg, zero, distances.log(), centres[:, 0] - 0.5, centres[:, 1] - 0.5, zero]
    return OrbitPoses(torch.stack(columns, dim=-1), intrinsics)


def in_order(poses: OrbitPoses, order: list[int]) -> OrbitPoses:
    """Return the poses of photos in another order, whose azimuths stay in the old one."""
    values = poses.values[order]
    return OrbitPoses(torch.cat([poses.values[:, :1], values[:, 1:]], dim=1), poses.intrinsics[order])


def _rolled(angle: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about the z axis by angles (...) in radians."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def _to_z(direction: Tensor) -> Tensor:
    """Smallest rotations (..., 3, 3) that turn unit vectors (..., 3), not opposite to z, to the z axis."""
    x, y, z = direction.unbind(-1)
    share = 1 / (1 + z)
    rows = [1 - x * x * share, -x * y * share, -x, -x * y * share, 1 - y * y * share, -y, x, y, z]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
