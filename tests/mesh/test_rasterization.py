"""Covered pixels, against a point-in-triangle test of every pixel by cross products."""

import numpy as np

from instant3d.mesh.rasterization import nearest_of, rasterize


def covered_by_cross_products(triangle, width, height):
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(triangle, np.roll(triangle, -1, axis=0), strict=True)
    ]
    return np.flatnonzero(np.all([side > 0 for side in sides], 0) | np.all([side < 0 for side in sides], 0))


def test_rasterize_covers_the_pixels_whose_centres_lie_inside():
    corners = np.random.default_rng(0).uniform(-10, 50, (40, 3, 2))
    pixel, face, weights = rasterize(corners, 40, 30)
    for k in range(len(corners)):
        np.testing.assert_array_equal(np.sort(pixel[face == k]), covered_by_cross_products(corners[k], 40, 30))
    centres = np.stack([pixel % 40, pixel // 40], 1) + 0.5
    np.testing.assert_allclose((corners[face] * weights[..., None]).sum(1), centres, atol=1e-9)


def test_rasterize_includes_centres_on_an_edge_and_leaves_out_triangles_without_area():
    corners = np.array([[(0.5, 0.5), (2.5, 0.5), (0.5, 2.5)], [(0, 0), (3, 3), (1, 1)]], float)
    pixel, face, _ = rasterize(corners, 4, 4)
    assert sorted(pixel) == [0, 1, 2, 4, 5, 8]
    assert set(face) == {0}


def test_rasterize_with_a_margin_covers_as_far_beyond_the_edges():
    square = np.array([[(4, 4), (8, 4), (8, 8)], [(4, 4), (8, 8), (4, 8)]], float)
    pixel = rasterize(square, 12, 12, margin=1.4)[0]  # the next centres outside are 0.5 and 1.5 away
    assert set(pixel) == {12 * y + x for x in range(3, 9) for y in range(3, 9)}


def test_nearest_of_takes_the_lowest_rank_of_each_pixel():
    chosen = nearest_of(np.array([2, 0, 2, 2]), np.array([0.5, 3.0, 0.25, 0.75]), 4)
    assert chosen.tolist() == [1, -1, 2, -1]
