"""Pinhole cameras and rays: conventions for axes, units and intrinsics.

World: right-handed, +z up; the field is the cube [-1, 1]^3 and objects fit its inscribed unit sphere.
Camera: OpenCV axes (x right, y down, z forward); `cam_to_world` maps camera points to world points.
Intrinsics: (fx, fy, cx, cy) as fractions of the image's width and height, so that resizing changes nothing.
Angles are degrees: azimuth from +x towards +y, elevation up from the horizon. Pixel i is centred at (i + 0.5) / W.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass

FloatOrTensor = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Rays(TensorDataclass):
    """Half-lines with unit directions, so that a distance along a ray is a world length.

    Attributes:
        origins: (..., 3).
        directions: (..., 3), unit vectors.
    """

    origins: Tensor
    directions: Tensor

    def at(self, distance: Tensor) -> Tensor:
        """Return the points (..., S, 3) at `distance` (..., S) from the origins."""
        return self.origins[..., None, :] + distance[..., None] * self.directions[..., None, :]


@dataclass(frozen=True)
class Cameras(TensorDataclass):
    """Pinhole cameras without distortion; pixels need not be square.

    Attributes:
        cam_to_world: (..., 4, 4).
        intrinsics: (..., 4), fx, fy, cx, cy as fractions of the image's width and height.

    Raises:
        ValueError: The shapes do not fit.
    """

    cam_to_world: Tensor
    intrinsics: Tensor

    @property
    def shape(self) -> torch.Size:
        """Leading shape of the cameras."""
        return self.intrinsics.shape[:-1]

    @property
    def positions(self) -> Tensor:
        """Camera centres in world coordinates, (..., 3)."""
        return self.cam_to_world[..., :3, 3]

    def __post_init__(self) -> None:
        matrix, intrinsics = self.cam_to_world.shape, self.intrinsics.shape
        if matrix[-2:] != (4, 4) or intrinsics[-1:] != (4,) or matrix[:-2] != intrinsics[:-1]:
            raise ValueError(
                "cameras need cam_to_world (..., 4, 4) and intrinsics (..., 4) of equal leading shape, "
                f"got {tuple(matrix)} and {tuple(intrinsics)}"
            )

    def crop(self, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Cameras:
        """Return the cameras of image windows.

        Args:
            left: Left edge as a fraction of the image's width, (...).
            top: Top edge as a fraction of its height, (...).
            width: Width as a fraction of the image's width, (...).
            height: Height as a fraction of its height, (...).
        """
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        inside = torch.stack([fx / width, fy / height, (cx - left) / width, (cy - top) / height], dim=-1)
        return Cameras(self.cam_to_world.expand(*inside.shape[:-1], 4, 4), inside)

    def rays(self, height: int, width: int) -> Rays:
        """Return one ray through each pixel's centre: origins and unit directions (..., height, width, 3)."""
        device, dtype = self.intrinsics.device, self.intrinsics.dtype
        u = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        v = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        return self.rays_through(*torch.meshgrid(u, v, indexing="xy"))

    def rays_through(self, u: Tensor, v: Tensor) -> Rays:
        """Return the rays (..., *S, 3) through image points (fractions) `u`, `v` of shape S."""
        fx, fy, cx, cy = (part.reshape(*self.shape, *[1] * u.dim()) for part in self.intrinsics.unbind(-1))
        x, y = (u - cx) / fx, (v - cy) / fy
        local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
        rotation = self.cam_to_world[..., :3, :3].reshape(*self.shape, *[1] * u.dim(), 3, 3)
        directions = torch.nn.functional.normalize(rotate(rotation, local), dim=-1)
        origins = self.positions.reshape(*self.shape, *[1] * u.dim(), 3)
        return Rays(origins.expand_as(directions), directions)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points (..., N, 3) to image points (..., N, 2), as fractions, and camera-z depth (..., N).

        Behind the camera the depth is not positive and the image point is meaningless.
        """
        rotation, position = self.cam_to_world[..., :3, :3], self.positions
        local = rotate(rotation.mT[..., None, :, :], points - position[..., None, :])
        depth = local[..., 2]
        focal, centre = self.intrinsics[..., None, :2], self.intrinsics[..., None, 2:]
        safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
        return focal * local[..., :2] / safe[..., None] + centre, depth


def rotate(rotation: Tensor, points: Tensor) -> Tensor:
    """Apply rotations (..., 3, 3) to points (..., 3): a matrix product that autocast leaves in full precision."""
    x, y, z = rotation.unbind(-1)
    return points[..., 0:1] * x + points[..., 1:2] * y + points[..., 2:3] * z


def intrinsics_from_fov(fov_deg: FloatOrTensor) -> Tensor:
    """Return the intrinsics (..., 4) of a square image with field of view `fov_deg` from edge to edge."""
    half = torch.deg2rad(torch.as_tensor(fov_deg, dtype=torch.float32)) / 2
    focal = 0.5 / torch.tan(half)
    centre = torch.full_like(focal, 0.5)
    return torch.stack([focal, focal, centre, centre], dim=-1)


def look_at(eye: Tensor, target: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """Return `cam_to_world` (..., 4, 4) of cameras at `eye` that look at `target`.

    Args:
        eye: Camera centres, (..., 3).
        target: Points to look at; the origin by default.
        up: Up directions; by default +z, or +y straight above or below the target, where +z gives no direction.
    """
    target = torch.zeros_like(eye) if target is None else target.expand_as(eye)
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    if up is None:
        steep = forward[..., 2:].abs() > 1 - 1e-6
        up = torch.where(steep, eye.new_tensor([0.0, 1.0, 0.0]), eye.new_tensor([0.0, 0.0, 1.0]))
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    down = torch.linalg.cross(forward, right)
    matrix = torch.zeros(*eye.shape[:-1], 4, 4, dtype=eye.dtype, device=eye.device)
    matrix[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
    matrix[..., 3, 3] = 1
    return matrix


def orbit(
    azimuth_deg: FloatOrTensor, elevation_deg: FloatOrTensor, radius: FloatOrTensor = 2.7, fov_deg: FloatOrTensor = 50.0
) -> Cameras:
    """Return cameras on a sphere around the origin, looking at it; the arguments broadcast to one shape (...).

    Args:
        azimuth_deg: From +x towards +y.
        elevation_deg: Up from the horizon.
        radius: Distance from the origin in world units.
        fov_deg: Field of view from edge to edge of a square image.
    """
    parts = [torch.as_tensor(part, dtype=torch.float32) for part in (azimuth_deg, elevation_deg, radius, fov_deg)]
    angle, lift, distance, fov = torch.broadcast_tensors(*parts)
    angle, lift = torch.deg2rad(angle), torch.deg2rad(lift)
    toward = [lift.cos() * angle.cos(), lift.cos() * angle.sin(), lift.sin()]
    return Cameras(look_at(distance[..., None] * torch.stack(toward, dim=-1)), intrinsics_from_fov(fov))


STRUCTURED_AZIMUTHS_DEG = (45.0, 135.0, 225.0, 315.0)  # row-major tiles `0 1 / 2 3` of stage 1's grid
STRUCTURED_ELEVATION_DEG = 20.0
STRUCTURED_RADIUS = 2.7
STRUCTURED_FOV_DEG = 50.0
FRONT_AZIMUTH_DEG = 270.0  # the front of an object faces -y, glTF's +z


def structured_cameras() -> Cameras:
    """Return the four views that stage 1 generates and stage 2 expects, shape (4,) (arXiv 2311.06214, section 3.1)."""
    return orbit(STRUCTURED_AZIMUTHS_DEG, STRUCTURED_ELEVATION_DEG, STRUCTURED_RADIUS, STRUCTURED_FOV_DEG)


def turntable(
    frames: int, elevation_deg: float = 20.0, radius: float = STRUCTURED_RADIUS, fov_deg: float = STRUCTURED_FOV_DEG
) -> Cameras:
    """Return cameras at even angles on a full circle around the object, shape (frames,); the first one is on +x.

    Args:
        frames: Number of cameras.
        elevation_deg: Up from the horizon.
        radius: Distance from the origin in world units.
        fov_deg: Field of view from edge to edge of a square image.
    """
    return orbit([360.0 * k / frames for k in range(frames)], elevation_deg, radius, fov_deg)


def random_sphere(
    count: int,
    generator: torch.Generator,
    *,
    elevation_deg: tuple[float, float] = (-30.0, 75.0),
    radius: tuple[float, float] = (2.4, 3.0),
    fov_deg: float = STRUCTURED_FOV_DEG,
) -> Cameras:
    """Sample cameras uniformly by area on the band of a sphere between two elevations.

    Args:
        count: Number of cameras.
        generator: Random generator.
        elevation_deg: Lowest and highest elevation.
        radius: Smallest and largest distance from the origin, uniform between them.
        fov_deg: Field of view of all cameras.

    Returns:
        Cameras (count,).
    """
    u = torch.rand(count, 3, generator=generator)
    low, high = (math.sin(math.radians(angle)) for angle in elevation_deg)
    elevation = torch.rad2deg(torch.asin(low + (high - low) * u[:, 0]))
    return orbit(360 * u[:, 1], elevation, radius[0] + (radius[1] - radius[0]) * u[:, 2], fov_deg)
