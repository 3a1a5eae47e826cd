"""Smoothing: noise goes, size and edges stay; measured against the shapes that the noise was added to."""

import numpy as np
import pytest
import trimesh

from instant3d.mesh import Mesh, clean, smooth, smooth_within_edges

NOISE = 0.01


def noisy(solid):
    """The shape with its vertices moved by `NOISE` in random directions."""
    chance = np.random.default_rng(0)
    return Mesh(solid.vertices + NOISE * chance.standard_normal(solid.vertices.shape), solid.faces)


def roughness(mesh):
    """Root mean square distance from the unit sphere."""
    return float(np.sqrt(np.square(np.linalg.norm(mesh.vertices, axis=1) - 1).mean()))


def cube():
    """Of side 2, each side of 32 x 32 x 2 triangles or so."""
    solid = trimesh.creation.box((2, 2, 2))
    for _ in range(5):
        solid = solid.subdivide()
    return solid


def from_cube(mesh):
    """Root mean square distance of vertices from the nearest plane of the cube, and the mean of the eight corners'."""
    outside = np.abs(mesh.vertices).max(axis=1) - 1
    corners = [
        mesh.vertices[(mesh.vertices * sign).sum(axis=1).argmax()]
        for sign in np.array(list(np.ndindex(2, 2, 2))) * 2 - 1
    ]
    return float(np.sqrt(np.square(outside).mean())), float(np.mean(np.abs(corners)))


def test_smooth_takes_most_of_a_spheres_noise_and_none_of_its_size():
    sphere = trimesh.creation.icosphere(4)
    after = smooth(noisy(sphere), 10)
    assert roughness(after) < 0.5 * roughness(noisy(sphere))
    volume = trimesh.Trimesh(after.vertices, after.faces).volume
    assert volume == pytest.approx(sphere.volume, rel=0.01)


def test_smooth_within_edges_flattens_a_cube_and_keeps_its_corners():
    rough, _ = from_cube(noisy(cube()))
    flat, kept = from_cube(smooth_within_edges(noisy(cube()), 10))
    _, rounded = from_cube(smooth(noisy(cube()), 10))
    assert flat < 0.6 * rough
    assert abs(kept - 1) < 0.03
    assert abs(kept - 1) < abs(rounded - 1)


@pytest.mark.parametrize("step", [smooth, smooth_within_edges])
def test_smooth_moves_both_sides_of_a_seam_alike(step):
    solid = noisy(trimesh.creation.icosphere(2))
    split = Mesh(solid.vertices[solid.faces].reshape(-1, 3), np.arange(3 * len(solid.faces)).reshape(-1, 3))
    np.testing.assert_allclose(step(split).vertices[split.faces], step(solid).vertices[solid.faces], atol=1e-6)


def test_clean_removes_a_floater_of_less_than_the_smallest_share():
    sphere = trimesh.creation.icosphere(2)
    parts = [sphere, sphere.copy().apply_scale(0.05).apply_translation((2, 0, 0))]  # a 400th of the area
    both = trimesh.util.concatenate(parts)
    assert len(clean(Mesh(both.vertices, both.faces)).faces) == len(sphere.faces)
