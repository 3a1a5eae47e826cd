"""Vertex colours as a texture, for formats and programs that show no vertex colours."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from instant3d.mesh.mesh import Mesh
from instant3d.mesh.processing import vertex_colors

CORNERS = np.array([[0, 0], [1, 0], [0, 1]])  # of a triangle in its block of 2 x 2 texels: column, row


def with_color_texture(mesh: Mesh) -> Mesh:
    """The mesh with its vertex colours in a texture, one block of 2 x 2 texels a face.

    Bilinear filtering between a face's texels gives the colours that a renderer would interpolate between its corners,
    exactly where the fourth texel holds no clipped channel. A mesh with a texture, or without vertex colours, comes
    back as it is.
    """
    if mesh.texture is not None or mesh.colors is None:
        return mesh
    corners = mesh.faces.reshape(-1)
    blocks = math.ceil(math.sqrt(len(mesh.faces)))
    number = np.arange(len(mesh.faces))
    texel = 2 * np.stack([number % blocks, number // blocks], axis=1)[:, None] + CORNERS
    return dataclasses.replace(
        mesh,
        vertices=mesh.vertices[corners],
        faces=np.arange(len(corners)).reshape(-1, 3),
        normals=None if mesh.normals is None else mesh.normals[corners],
        colors=None,
        uv=((texel + 0.5) / (2 * blocks)).reshape(-1, 2),
        texture=_blocks(vertex_colors(mesh)[mesh.faces], blocks),
        wrap=("clamp", "clamp"),
        base_color=(1.0, 1.0, 1.0, mesh.base_color[3]),
    )


def _blocks(colors: np.ndarray, blocks: int) -> np.ndarray:
    """Corner colours (F, 3, 3) as pixels (H, W, 4); the fourth texel continues the plane through the other three."""
    fourth = colors[:, 1] + colors[:, 2] - colors[:, 0]
    rgb = np.concatenate([colors, fourth[:, None]], axis=1)
    four = np.full((blocks * blocks, 4, 4), 255, np.uint8)
    four[: len(rgb), :, :3] = np.rint(np.clip(rgb, 0, 1) * 255)
    grid = four.reshape(blocks, blocks, 2, 2, 4)  # row, column, row in the block, column in it, channel
    return np.ascontiguousarray(grid.swapaxes(1, 2).reshape(2 * blocks, 2 * blocks, 4))
