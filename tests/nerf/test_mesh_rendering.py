"""The software renderer of meshes, against known places and against the renderer that makes the training data."""

import dataclasses

import numpy as np
import pytest
import torch
import trimesh

from data_prep.rendering.rasterizer import render_views
from instant3d.cameras import orbit
from instant3d.mesh import Mesh
from instant3d.nerf.mesh_rendering import nearest_surface, render_mesh, shade

# seen from -y (azimuth 270): x to the right, z up
SQUARE = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # the image upright
TEXELS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
FRONT = orbit([270.0], 0.0, 2.5)


def ball(**extra) -> Mesh:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
    vertices = np.asarray(sphere.vertices, np.float32) * (1, 0.6, 1.2)  # no mirror image looks the same
    return Mesh(vertices, sphere.faces, colors=np.clip(vertices + 0.5, 0, 1), **extra)


def test_render_mesh_shows_a_texture_upright_and_unmirrored():
    texture = np.dstack([TEXELS.repeat(8, 0).repeat(8, 1), np.full((16, 16), 255, np.uint8)])
    rgb = render_mesh(Mesh(SQUARE, FACES, uv=UV, texture=texture), FRONT, 64).rgb[0]
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        place = rgb[:, 26 + 12 * row, 26 + 12 * column]
        np.testing.assert_allclose(place, TEXELS[row, column] / 255, atol=0.01)


def test_nearest_surface_has_the_depth_of_the_square():
    found = nearest_surface(Mesh(SQUARE, FACES), FRONT[0], 32)
    np.testing.assert_allclose(found.depth, 2.5, rtol=1e-5)
    side = 32 * (0.5 / np.tan(np.deg2rad(25))) / 2.5  # pixels of one unit at that distance
    assert len(found.pixel) == pytest.approx(side**2, rel=0.1)


def test_render_mesh_agrees_with_the_renderer_of_the_training_data():
    cameras = orbit([20.0, 140.0, 260.0], [20.0, -30.0, 60.0])
    ours = render_mesh(ball(), cameras, 64, supersample=3)
    theirs = render_views([ball()], cameras, 64, supersample=3)
    solid, other = ours.alpha > 0.5, theirs.alpha > 0.5
    assert (solid & other).sum() / (solid | other).sum() > 0.99
    inside = ((ours.alpha > 0.99) & (theirs.alpha > 0.99)).expand_as(ours.rgb)
    assert (ours.rgb - theirs.rgb)[inside].abs().max() < 0.02
    assert (ours.alpha - theirs.alpha).abs().mean() < 0.01


def test_render_mesh_shows_the_front_of_open_and_of_closed_surfaces_alike():
    whole = ball()
    behind = whole.vertices[whole.faces].mean(1)[:, 1].argmax()  # far side, seen from -y
    opened = dataclasses.replace(whole, faces=np.delete(whole.faces, behind, 0))
    torch.testing.assert_close(render_mesh(opened, FRONT, 48).rgb, render_mesh(whole, FRONT, 48).rgb)


def test_shade_lights_from_above_and_keeps_alpha():
    views = render_mesh(dataclasses.replace(ball(), colors=None), orbit([0.0], 0.0), 64)
    lit = shade(views)
    assert torch.equal(lit.alpha, views.alpha)
    top, bottom = lit.rgb[0, 0, :32], lit.rgb[0, 0, 32:]
    assert top[views.alpha[0, 0, :32] > 0.9].mean() > bottom[views.alpha[0, 0, 32:] > 0.9].mean() + 0.1


def test_shade_refuses_views_without_normals():
    views = dataclasses.replace(render_mesh(ball(), FRONT, 8), normals=None)
    with pytest.raises(ValueError, match="render them with normals"):
        shade(views)
