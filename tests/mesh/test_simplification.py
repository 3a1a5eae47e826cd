"""Simplification, judged by trimesh and by solids whose volume is known."""

import numpy as np
import pytest
import trimesh

from instant3d.mesh import Mesh
from instant3d.mesh.simplification import simplify


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def simplified(shape: trimesh.Trimesh, faces: int) -> trimesh.Trimesh:
    return as_trimesh(simplify(Mesh(shape.vertices, shape.faces), faces))


@pytest.mark.parametrize("faces", [100, 500, 2000])
def test_simplify_keeps_a_sphere_closed_within_its_faces_and_near_its_volume(faces):
    sphere = simplified(trimesh.creation.icosphere(5), faces)
    assert len(sphere.faces) <= faces
    assert sphere.is_watertight
    assert sphere.is_winding_consistent
    assert sphere.volume == pytest.approx(4 / 3 * np.pi, rel=12 / faces)


def test_simplify_of_a_cube_in_many_triangles_is_the_cube_itself():
    cube = trimesh.creation.box()
    for _ in range(4):
        cube = cube.subdivide()
    few = simplified(cube, 200)
    assert len(few.faces) <= 200
    assert few.volume == pytest.approx(1, abs=1e-5)
    assert few.area == pytest.approx(6, abs=1e-5)
    assert abs(abs(few.vertices).max(1) - 0.5).max() < 1e-5  # each vertex lies on a side


def test_simplify_keeps_the_boundary_of_an_open_square():
    line = np.linspace(0, 1, 33)
    x, y = np.meshgrid(line, line)
    vertices = np.stack([x, y, 0.05 * np.sin(6 * x)], -1).reshape(-1, 3)
    corner = (np.arange(32)[:, None] * 33 + np.arange(32)).reshape(-1, 1)
    faces = np.concatenate([corner + np.array([0, 1, 34]), corner + np.array([0, 34, 33])])
    few = simplified(trimesh.Trimesh(vertices, faces, process=False), 200)
    assert len(few.faces) <= 200
    np.testing.assert_allclose(few.bounds[:, :2], [(0, 0), (1, 1)], atol=1e-3)
    flat = trimesh.Trimesh(few.vertices * (1, 1, 0), few.faces, process=False)
    assert flat.area == pytest.approx(1, abs=0.02)  # almost nothing of the border is bitten off


def test_simplify_refuses_fewer_than_four_faces():
    sphere = trimesh.creation.icosphere(1)
    with pytest.raises(ValueError, match="at least 4 triangles, got 3"):
        simplify(Mesh(sphere.vertices, sphere.faces), 3)
