"""All triangles of an object in flat arrays, the input of both fast renderers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instant3d.mesh import Mesh, face_normals, linear_from_srgb, srgb_from_linear

# "soft" light is fixed in the world, so that every view has the same shading: white from everywhere, more from above,
# and some from one side. It multiplies the linear colour and stays below 1.
SOFT_AMBIENT, SOFT_SKY, SOFT_KEY = 0.40, 0.35, 0.25
SOFT_KEY_DIRECTION = (0.48, -0.64, 0.60)


@dataclass(frozen=True, eq=False)
class Group:
    """A run of triangles that share a texture."""

    first: int
    count: int
    texture: np.ndarray | None  # (H, W, 4) uint8, sRGB
    wrap: tuple[str, str]
    cutoff: float  # of the texture's own alpha; 0 keeps everything


@dataclass(frozen=True, eq=False)
class TriangleSoup:
    """T triangles by their corners, sorted into groups."""

    positions: np.ndarray  # (T, 3, 3) float32, world
    normals: np.ndarray  # (T, 3, 3) float32, on the side from which the triangle winds counter-clockwise
    colors: np.ndarray  # (T, 3, 3) float32, linear light, base colour included
    uv: np.ndarray  # (T, 3, 2) float32, v downwards
    groups: tuple[Group, ...]


def flatten(meshes: Sequence[Mesh], texture_side: int) -> TriangleSoup:
    """All parts as one soup; textures are halved until a side is below twice `texture_side` (see `halved`)."""
    kept = sorted((mesh for mesh in meshes if _visible(mesh)), key=_group_key)
    if not kept:
        raise ValueError("there is no triangle to render; every part is empty or transparent")
    groups: list[Group] = []
    shrunk: dict[int, np.ndarray] = {}
    first = 0
    for k, mesh in enumerate(kept):
        if k and _group_key(mesh) == _group_key(kept[k - 1]):
            groups[-1] = _longer(groups[-1], len(mesh.faces))
        else:
            texture = mesh.texture
            if texture is not None:
                texture = shrunk.setdefault(id(texture), halved(texture, texture_side))
            groups.append(Group(first, len(mesh.faces), texture, mesh.wrap, _texture_cutoff(mesh)))
        first += len(mesh.faces)
    parts = [_corners(mesh) for mesh in kept]
    positions, normals, colors, uv = (np.concatenate(part) for part in zip(*parts, strict=True))
    return TriangleSoup(positions, normals, colors, uv, tuple(groups))


def _visible(mesh: Mesh) -> bool:
    """Without a texture the alpha is one number for the whole part."""
    return len(mesh.faces) > 0 and (mesh.alpha_cutoff <= 0 or mesh.base_color[3] >= mesh.alpha_cutoff)


def _texture_cutoff(mesh: Mesh) -> float:
    if mesh.texture is None or mesh.alpha_cutoff <= 0 or mesh.texture[..., 3].min() == 255:
        return 0.0
    return mesh.alpha_cutoff / max(mesh.base_color[3], 1e-6)


def _group_key(mesh: Mesh) -> tuple[int, tuple[str, str], float]:
    if mesh.texture is None:
        return 0, ("", ""), 0.0
    return id(mesh.texture), mesh.wrap, mesh.alpha_cutoff / max(mesh.base_color[3], 1e-6)


def _longer(group: Group, count: int) -> Group:
    return Group(group.first, group.count + count, group.texture, group.wrap, group.cutoff)


def _corners(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    faces = mesh.faces
    colors = np.ones((len(faces), 3, 3)) if mesh.colors is None else linear_from_srgb(mesh.colors)[faces]
    uv = np.zeros((len(faces), 3, 2)) if mesh.uv is None else mesh.uv[faces]
    shaded = _corner_normals(mesh)
    parts = mesh.vertices[faces], shaded, colors * np.asarray(mesh.base_color[:3]), uv
    positions, normals, colors, uv = (np.asarray(part, dtype=np.float32) for part in parts)
    return positions, normals, colors, uv


def _corner_normals(mesh: Mesh) -> np.ndarray:
    """Shading normals (F, 3, 3), turned to the side that the winding calls outside."""
    flat = np.repeat(face_normals(mesh)[:, None], 3, axis=1)
    if mesh.normals is None:
        return flat
    shaded = mesh.normals[mesh.faces]
    side = np.where((shaded * flat).sum((1, 2)) < 0, -1, 1)[:, None, None]
    lost = np.linalg.norm(shaded, axis=-1, keepdims=True) < 0.5
    return np.where(lost, flat, shaded * side)


def halved(texture: np.ndarray, side: int) -> np.ndarray:
    """Average 2 x 2 pixels, in linear light and weighted by alpha, until the longer side is below twice `side`.

    Sampling is bilinear without mip levels, so a texture much finer than the image would only shimmer.
    """
    if max(texture.shape[:2]) < 2 * side:
        return texture
    high, wide = texture.shape[0] // 2 * 2, texture.shape[1] // 2 * 2
    if min(high, wide) == 0:
        return texture
    blocks = texture[:high, :wide].reshape(high // 2, 2, wide // 2, 2, 4)
    alpha = blocks[..., 3:].astype(np.float32) + 1e-3
    light = (_LINEAR[blocks[..., :3]] * alpha).sum((1, 3)) / alpha.sum((1, 3))
    small = np.empty((high // 2, wide // 2, 4), np.uint8)
    small[..., :3] = _SRGB[(light * (len(_SRGB) - 1)).astype(np.int32)]
    small[..., 3] = np.rint(blocks[..., 3].mean((1, 3)))
    return halved(small, side)


def _srgb_table() -> np.ndarray:
    """sRGB bytes by linear light in steps fine enough for the darkest bytes."""
    return np.rint(srgb_from_linear((np.arange(2**14) + 0.5) / 2**14) * 255).astype(np.uint8)


_LINEAR = linear_from_srgb(np.arange(256) / 255).astype(np.float32)
_SRGB = _srgb_table()
