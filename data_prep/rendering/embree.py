"""Ray casting of a triangle soup with Embree: slower than OpenGL, but installed by pip alone; same results.

Every sample is a ray from the camera whose direction has camera depth 1, so that Embree's distance is the depth.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instant3d.mesh import linear_from_srgb, srgb_from_linear

from .triangle_soup import SOFT_AMBIENT, SOFT_KEY, SOFT_KEY_DIRECTION, SOFT_SKY, Group, TriangleSoup

MAX_LAYERS = 64  # of cut-out surface that a ray passes through before it is given up
LINEAR = linear_from_srgb(np.arange(256) / 255).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RayHits:
    """The first hits of rays; only of those N that hit something."""

    ray: np.ndarray  # (N,) which ray
    face: np.ndarray  # (N,) which triangle of the soup
    weights: np.ndarray  # (N, 3) of its corners
    depth: np.ndarray  # (N,)

    def take(self, keep: np.ndarray) -> RayHits:
        """The hits that `keep` selects: a mask (N,), or indices into the hits."""
        return RayHits(self.ray[keep], self.face[keep], self.weights[keep], self.depth[keep])


def draw(
    soup: TriangleSoup,
    world_to_cam: np.ndarray,
    intrinsics: np.ndarray,
    size: int,
    *,
    soft: bool,
    supersample: int,
    maps: Sequence[str],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render a soup.

    Args:
        soup: Triangles in world coordinates.
        world_to_cam: (V, 4, 4), OpenCV axes.
        intrinsics: (V, 4): fx, fy, cx, cy as fractions of the image.
        size: S, pixels a side.
        soft: Whether to use the fixed soft light; else colours are unlit.
        supersample: Samples a side of a pixel.
        maps: Some of "depth" and "normals".

    Returns:
        Images (V, S, S, 4) uint8, and by name the maps, float32: depth (V, S, S, 1), world normals (V, S, S, 3).
    """
    caster, cameras = _Caster(soup), list(zip(world_to_cam, intrinsics, strict=True))
    pixels = np.stack([_image(caster, *camera, size, soft, supersample) for camera in cameras])
    surfaces = [_surface(caster, *camera, size, maps) for camera in cameras] if maps else []
    return pixels, {name: np.stack([surface[name] for surface in surfaces]) for name in maps}


def available() -> bool:
    """Whether embreex is installed."""
    return importlib.util.find_spec("embreex") is not None


def library() -> tuple[Any, Any]:
    """Import embreex: its scene class and its triangle mesh class; ValueError without it."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise ValueError(
            f"the embree back end cannot render here ({error}); pip install embreex, or use OpenGL"
        ) from error
    return EmbreeScene, TriangleMesh


def _image(
    caster: _Caster, matrix: np.ndarray, intrinsics: np.ndarray, size: int, soft: bool, supersample: int
) -> np.ndarray:
    fine = size * supersample
    place, origin, directions = _rays(caster.soup, matrix, intrinsics, fine)
    hits = caster.first_hits(origin, directions)
    light = caster.albedo(hits)
    if soft:
        light *= _soft_light(caster.normals(hits, directions))
    samples = np.zeros((fine * fine, 4), np.float32)
    samples[place[hits.ray]] = np.hstack([light, np.ones_like(light[:, :1])])
    mean = samples.reshape(size, supersample, size, supersample, 4).mean((1, 3))
    straight = mean[..., :3] / np.maximum(mean[..., 3:], 1e-6)
    return np.rint(np.dstack([srgb_from_linear(straight), mean[..., 3]]) * 255).astype(np.uint8)


def _surface(
    caster: _Caster, matrix: np.ndarray, intrinsics: np.ndarray, size: int, maps: Sequence[str]
) -> dict[str, np.ndarray]:
    place, origin, directions = _rays(caster.soup, matrix, intrinsics, size)
    hits = caster.first_hits(origin, directions)
    found = {}
    for name in maps:
        values = hits.depth[:, None] if name == "depth" else caster.normals(hits, directions)
        found[name] = np.zeros((size, size, values.shape[1]), np.float32)
        found[name].reshape(size * size, -1)[place[hits.ray]] = values
    return found


def _rays(
    soup: TriangleSoup, world_to_cam: np.ndarray, intrinsics: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat pixel numbers (N,) of the window around the object, the rays' origin (3,) and directions (N, 3)."""
    cam_to_world = np.linalg.inv(world_to_cam)
    left, top, right, bottom = _window(soup, world_to_cam, intrinsics, size)
    columns, rows = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    fx, fy, cx, cy = intrinsics
    x, y = ((columns + 0.5) / size - cx) / fx, ((rows + 0.5) / size - cy) / fy
    local = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    directions = (local @ cam_to_world[:3, :3].T).astype(np.float32)
    return (rows * size + columns).reshape(-1), cam_to_world[:3, 3].astype(np.float32), directions


def _window(soup: TriangleSoup, matrix: np.ndarray, intrinsics: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of the object's bounding box; the whole image if the camera is inside."""
    corners = soup.positions.reshape(-1, 3)
    box = np.stack(np.meshgrid(*zip(corners.min(0), corners.max(0), strict=True)), -1).reshape(-1, 3)
    local = box @ matrix[:3, :3].T + matrix[:3, 3]
    if local[:, 2].min() <= 1e-6:
        return 0, 0, size, size
    image = (intrinsics[:2] * local[:, :2] / local[:, 2:] + intrinsics[2:]) * size
    left, top = np.clip(np.floor(image.min(0)) - 1, 0, size).astype(int)
    right, bottom = np.clip(np.ceil(image.max(0)) + 1, 0, size).astype(int)
    return left, top, right, bottom


def _soft_light(normals: np.ndarray) -> np.ndarray:
    key = np.asarray(SOFT_KEY_DIRECTION) / np.linalg.norm(SOFT_KEY_DIRECTION)
    light = SOFT_AMBIENT + SOFT_SKY * (0.5 + 0.5 * normals[:, 2]) + SOFT_KEY * np.maximum(normals @ key, 0)
    return light[:, None].astype(np.float32)


class _Caster:
    """One soup in Embree's memory."""

    def __init__(self, soup: TriangleSoup) -> None:
        scene, mesh = library()
        self.soup, self.scene = soup, scene()
        self.mesh = mesh(self.scene, np.ascontiguousarray(soup.positions))
        edges = soup.positions[:, 1:] - soup.positions[:, :1]
        self.winding = np.cross(edges[:, 0], edges[:, 1])  # (T, 3), along the outside normal
        self.group = np.repeat(np.arange(len(soup.groups)), [group.count for group in soup.groups])

    def first_hits(self, origin: np.ndarray, directions: np.ndarray) -> RayHits:
        """The first surface on each ray that is not cut out."""
        hits = self._cast(np.arange(len(directions)), origin, directions, np.zeros(len(directions), np.float32))
        found = []
        for _ in range(MAX_LAYERS):
            solid = self._solid(hits)
            found.append(hits.take(solid))
            hits = hits.take(~solid)
            if not len(hits.ray):
                break
            hits = self._cast(hits.ray, origin, directions[hits.ray], hits.depth * (1 + 1e-6) + 1e-7)
        return RayHits(
            *(np.concatenate([getattr(part, name) for part in found]) for name in RayHits.__dataclass_fields__)
        )

    def _cast(self, ray: np.ndarray, origin: np.ndarray, directions: np.ndarray, start: np.ndarray) -> RayHits:
        if not len(ray):
            return RayHits(ray, ray, np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
        origins = np.ascontiguousarray(origin + directions * start[:, None])
        answer = self.scene.run(origins, np.ascontiguousarray(directions), output=True)
        met = np.flatnonzero(answer["primID"] >= 0)
        u, v = answer["u"][met], answer["v"][met]
        return RayHits(ray[met], answer["primID"][met], np.stack([1 - u - v, u, v], 1), (answer["tfar"] + start)[met])

    def _solid(self, hits: RayHits) -> np.ndarray:
        keep = np.ones(len(hits.ray), dtype=bool)
        for index, group in enumerate(self.soup.groups):
            if group.cutoff > 0:
                mine = np.flatnonzero(self.group[hits.face] == index)
                keep[mine] = self._texels(group, hits.take(mine))[:, 3] >= group.cutoff
        return keep

    def albedo(self, hits: RayHits) -> np.ndarray:
        """Linear colour (N, 3)."""
        light = _blend(self.soup.colors, hits)
        for index, group in enumerate(self.soup.groups):
            if group.texture is not None:
                mine = np.flatnonzero(self.group[hits.face] == index)
                light[mine] *= self._texels(group, hits.take(mine))[:, :3]
        return light

    def normals(self, hits: RayHits, directions: np.ndarray) -> np.ndarray:
        """Unit normals (N, 3) in world axes, on the side that the ray came from."""
        normal = _blend(self.soup.normals, hits)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        away = (self.winding[hits.face] * directions[hits.ray]).sum(1, keepdims=True) > 0
        return np.where(away, -normal, normal)

    def _texels(self, group: Group, hits: RayHits) -> np.ndarray:
        """Linear colour and alpha (N, 4), interpolated between four pixels of the texture."""
        assert group.texture is not None
        high, wide = group.texture.shape[:2]
        uv = _blend(self.soup.uv, hits)
        x0, x1, right = _neighbours(uv[:, 0], wide, group.wrap[0])
        y0, y1, down = _neighbours(uv[:, 1], high, group.wrap[1])
        right, down = right[:, None], down[:, None]
        above = _decoded(group.texture[y0, x0]) * (1 - right) + _decoded(group.texture[y0, x1]) * right
        below = _decoded(group.texture[y1, x0]) * (1 - right) + _decoded(group.texture[y1, x1]) * right
        return above * (1 - down) + below * down


def _blend(corners: np.ndarray, hits: RayHits) -> np.ndarray:
    """Values (T, 3, C) at the corners, interpolated at the hits: (N, C)."""
    return np.einsum("nk,nkc->nc", hits.weights, corners[hits.face])


def _neighbours(coordinate: np.ndarray, size: int, wrap: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels whose centres enclose a coordinate, and how far towards the second it lies."""
    if wrap == "mirror":
        coordinate = 1 - np.abs(coordinate % 2 - 1)
    place = (coordinate % 1 if wrap == "repeat" else coordinate) * size - 0.5
    first = np.floor(place)
    step = (place - first).astype(np.float32)
    index = first.astype(np.int64)
    if wrap == "repeat":
        return index % size, (index + 1) % size, step
    return index.clip(0, size - 1), (index + 1).clip(0, size - 1), step


def _decoded(texels: np.ndarray) -> np.ndarray:
    """Linear colour and alpha from sRGB bytes (N, 4)."""
    return np.concatenate([LINEAR[texels[:, :3]], texels[:, 3:].astype(np.float32) / 255], axis=1)
