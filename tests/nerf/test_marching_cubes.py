"""Marching cubes in PyTorch: against scikit-image's, and closed whatever the values are."""

import numpy as np
import pytest
import torch
from skimage import measure
from torch.nn import functional as F

from instant3d.nerf.marching_cubes import marching_cubes


def ball_grid(side=24, radius=0.61):
    axis = torch.linspace(-1, 1, side, dtype=torch.float64)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (radius - (x**2 + (y / 0.8) ** 2 + (z / 1.3) ** 2).sqrt()).float()


def noise_grid(seed, side=9):
    values = torch.randn(side, side, side + 2, generator=torch.Generator().manual_seed(seed))
    border = torch.ones_like(values, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    return torch.where(border, -values.abs(), values)


def volume(vertices, faces):
    a, b, c = (np.asarray(vertices, np.float64)[np.asarray(faces)[:, k]] for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_marching_cubes_finds_the_vertices_and_volume_of_scikit_image_on_a_smooth_surface():
    values = ball_grid()
    vertices, faces = marching_cubes(values)
    expected, triangles, _, _ = measure.marching_cubes(values.numpy(), 0.0, gradient_direction="ascent")
    order = [np.lexsort(np.round(points, 4).T) for points in (vertices.numpy(), expected)]
    np.testing.assert_allclose(vertices.numpy()[order[0]], expected[order[1]], atol=1e-4)
    assert len(faces) == len(triangles)
    assert volume(vertices, faces) == pytest.approx(volume(expected, triangles), rel=1e-3)
    assert volume(vertices, faces) > 0


@pytest.mark.parametrize("seed", range(4))
def test_marching_cubes_is_closed_and_oriented_on_noise_with_every_case(seed):
    values = noise_grid(seed, 14)
    vertices, faces = marching_cubes(values)
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, counts = torch.unique(directed, dim=0, return_counts=True)
    assert counts.max() == 1
    there, back = (set(map(tuple, edges.tolist())) for edges in (directed, directed.flip(1)))
    assert there == back
    assert len(vertices) == int(faces.max()) + 1


def test_marching_cubes_of_smooth_noise_encloses_what_scikit_image_encloses():
    """On white noise the two differ: the cases that a face leaves open are decided in other ways."""
    values = F.avg_pool3d(noise_grid(7, 30)[None], 5, stride=1, padding=2)[0]
    values = F.pad(values[1:-1, 1:-1, 1:-1], (1,) * 6, value=-0.1)
    expected, triangles, _, _ = measure.marching_cubes(values.numpy(), 0.0, gradient_direction="ascent")
    assert volume(*marching_cubes(values)) == pytest.approx(volume(expected, triangles), rel=0.01)


def test_marching_cubes_of_a_single_node_is_an_octahedron_around_it():
    values = -torch.ones(3, 4, 5)
    values[1, 2, 3] = 3.0
    vertices, faces = marching_cubes(values)
    assert len(vertices) == 6
    assert len(faces) == 8
    torch.testing.assert_close(
        (vertices - torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).norm(dim=-1),
        torch.full((6,), 0.75, dtype=torch.float64),
    )
    assert volume(vertices, faces) == pytest.approx(4 / 3 * 0.75**3)


def test_marching_cubes_without_a_surface_is_empty():
    vertices, faces = marching_cubes(-torch.ones(4, 4, 4))
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)
