"""Baked textures, against a square and a ball whose colours are known at every place."""

import dataclasses

import numpy as np
import pytest
import torch
from analytic_fields import Formula, ball, place_colour

from instant3d.cameras import orbit
from instant3d.mesh import Mesh
from instant3d.nerf.texture_baking import bake_texture, color_vertices, surface_colors
from instant3d.views import Views

SIZE = 64
# a square in the plane x = 0.5 that fills the middle half of its texture
SQUARE = Mesh(
    np.array([[0.5, -0.5, -0.5], [0.5, 0.5, -0.5], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5]], np.float32),
    np.array([[0, 1, 2], [0, 2, 3]]),
    uv=np.array([[0.25, 0.75], [0.75, 0.75], [0.75, 0.25], [0.25, 0.25]], np.float32),
    normals=np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (4, 1)),
)
PLACES = Formula(lambda points: torch.ones(points.shape[:-1]), place_colour)
GREY = Formula(lambda points: torch.ones(points.shape[:-1]), lambda points: torch.full_like(points, 0.5))


def test_bake_texture_gives_texels_the_field_s_colour_at_their_place():
    texture = bake_texture(PLACES, SQUARE, SIZE).texture / 255
    row, column = 20, 41  # texel centres at (41.5, 20.5) of 64: y from -0.5 at u = 0.25, z from 0.5 at v = 0.25
    y, z = (41.5 / 64 - 0.25) * 2 - 0.5, 0.5 - (20.5 / 64 - 0.25) * 2
    np.testing.assert_allclose(texture[row, column, :3], [0.75, (y + 1) / 2, (z + 1) / 2], atol=0.005)


def test_bake_texture_gives_the_gutter_around_a_chart_the_colours_of_its_edge():
    texture = bake_texture(PLACES, SQUARE, SIZE).texture.astype(int)
    inside, outside = texture[20:44, 16], texture[20:44, 15]  # the chart's first column is 16
    assert abs(inside - outside)[:, :3].max() <= 5  # the next column of the chart differs by 4


def test_bake_texture_leaves_no_texel_empty_even_far_from_charts():
    texture = bake_texture(PLACES, SQUARE, SIZE).texture
    assert (texture[..., 3] == 255).all()
    corner = texture[0, 0, :3] / 255
    np.testing.assert_allclose(corner, [0.75, 0.25, 0.75], atol=0.26)  # some colour of the square, not black


def test_bake_texture_takes_a_view_s_pixels_where_it_looks_squarely():
    stripes = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    views = Views(stripes, torch.ones(1, 1, 64, 64), orbit([0.0], 0.0, 2.5))
    texture = bake_texture(GREY, SQUARE, 128, views).texture[..., 0] / 255
    middle = texture[48:80, 48:80]
    assert middle.min() < 0.1  # the field alone is grey everywhere
    assert middle.max() > 0.9


def test_bake_texture_ignores_a_view_from_behind():
    views = Views(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 64, 64), orbit([180.0], 0.0, 2.5))
    assert np.array_equal(bake_texture(GREY, SQUARE, SIZE, views).texture, bake_texture(GREY, SQUARE, SIZE).texture)


def test_surface_colors_lie_between_the_field_s_and_the_view_s():
    views = Views(torch.ones(1, 3, 64, 64), torch.ones(1, 1, 64, 64), orbit([40.0], 0.0, 2.5))
    colors = surface_colors(GREY, SQUARE, SQUARE.vertices * np.float32([1, 0.5, 0.5]), SQUARE.normals, views)
    assert ((colors > 0.5) & (colors < 1)).all()


def test_bake_texture_needs_texture_coordinates_and_color_vertices_normals():
    with pytest.raises(ValueError, match="unwrap it first"):
        bake_texture(PLACES, dataclasses.replace(SQUARE, uv=None), SIZE)
    with pytest.raises(ValueError, match="it has none"):
        color_vertices(ball(1.0), dataclasses.replace(SQUARE, normals=None))
