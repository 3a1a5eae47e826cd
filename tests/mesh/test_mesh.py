"""The noun itself, its place and size, and what is done to a surface."""

import numpy as np
import pytest
import torch
import trimesh

from instant3d.mesh import (
    Mesh,
    clean,
    decimate,
    face_normals,
    linear_from_srgb,
    merged,
    normalized,
    sample_points,
    srgb_from_linear,
    vertex_colors,
)

CORNER = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)  # of area 1/2 in the plane z = 0


def ball(subdivisions=3, **look):
    sphere = trimesh.creation.icosphere(subdivisions)
    return Mesh(sphere.vertices, sphere.faces, **look)


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        ({"vertices": CORNER * np.nan}, "3 of 3 vertices are not finite"),
        ({"vertices": CORNER * 1e300}, "2 of 3 vertices are not finite"),
        ({"faces": [[0, 1, 3]]}, "there are 3"),
        ({"faces": [[0, 1, -1]]}, "there are 3"),
        ({"vertices": CORNER[:, :2]}, r"vertices \(V, 3\)"),
        ({"colors": np.zeros((2, 3))}, r"colors must be \(3, 3\)"),
        ({"uv": np.full((3, 2), np.inf)}, "uv hold numbers that are not finite"),
        ({"texture": np.zeros((2, 2, 4), np.uint8)}, "needs uv"),
        ({"texture": np.zeros((2, 2, 3), np.uint8), "uv": np.zeros((3, 2))}, r"\(H, W, 4\) uint8"),
        ({"wrap": ("repeat", "stretch")}, "wraps by one of"),
        ({"base_color": (1, 1, 1)}, "four finite numbers"),
    ],
)
def test_mesh_refuses_invalid_arrays(arguments, because):
    with pytest.raises(ValueError, match=because):
        Mesh(**{"vertices": CORNER, "faces": [[0, 1, 2]]} | arguments)


def test_colorspace_srgb_and_linear_light_are_inverse_and_meet_the_standard():
    steps = np.arange(256) / 255
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(steps)), steps, atol=1e-7)
    np.testing.assert_allclose(linear_from_srgb(np.array([0.5, 0.04])), [0.21404114, 0.04 / 12.92], rtol=1e-6)


def test_normalized_parts_touch_the_unit_sphere_as_one():
    parts = [ball(), Mesh(CORNER + np.array([9, -2, 4]), [[0, 1, 2]])]
    # bounds are (-1, -2, -1) and (10, 1, 4): hence the centre; (10, -2, 4) is the farthest vertex
    centre, farthest = np.array([4.5, -0.5, 1.5]), np.linalg.norm([5.5, 1.5, 2.5])
    for before, after in zip(parts, normalized(parts), strict=True):
        np.testing.assert_allclose(after.vertices, (before.vertices - centre) / farthest, atol=1e-6)


def test_normalized_ignores_vertices_that_no_face_uses():
    vertices = np.vstack([CORNER, [[100, 100, 100]]])
    (mesh,) = normalized([Mesh(vertices, [[0, 1, 2]])])
    np.testing.assert_allclose(mesh.vertices[:3], (CORNER - [0.5, 0.5, 0]) / np.sqrt(0.5), atol=1e-6)


def test_face_normals_of_counter_clockwise_faces_point_outwards():
    mesh = ball()
    assert (face_normals(mesh) * mesh.vertices[mesh.faces].mean(1)).sum(1).min() > 0.9
    np.testing.assert_array_equal(face_normals(Mesh(CORNER, [[0, 1, 2]])), [[0, 0, 1]])


def test_clean_joins_corners_and_drops_small_pieces():
    sphere, speck = ball(), Mesh(CORNER * 0.1 + 5, [[0, 1, 2]])
    loose = sphere.vertices[sphere.faces].reshape(-1, 3)  # every face with corners of its own
    whole = np.vstack([loose, speck.vertices, CORNER])
    faces = np.vstack([np.arange(len(whole) - 3).reshape(-1, 3), [[0, 0, 1]]])
    tidy = clean(Mesh(whole, faces))
    assert len(tidy.vertices) == len(sphere.vertices)
    assert trimesh.Trimesh(tidy.vertices, tidy.faces, process=False).is_watertight
    kept = clean(Mesh(whole, faces), smallest_share=0.0)
    assert len(kept.faces) == len(sphere.faces) + 1


def test_clean_keeps_a_seam_where_colours_differ_but_not_its_piece_apart():
    # Two triangles share an edge in place, but not in colour; alone, the small one would be a speck.
    vertices = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 9, 0], [9, 0, 0], [5, 5, 0]], float)
    colors = np.repeat([[1.0, 0, 0], [0, 1, 0]], 3, axis=0)
    tidy = clean(Mesh(vertices, [[0, 1, 2], [3, 4, 5]], colors=colors), smallest_share=0.2)
    assert tidy.faces.shape == (2, 3)
    assert len(tidy.vertices) == 6


def test_decimate_keeps_the_shape_and_the_place_of_colours():
    red_above = np.where(ball(5).vertices[:, 2:] > 0, [[1.0, 0, 0]], [[0, 0, 1.0]])
    few = decimate(ball(5, colors=red_above), 500)
    assert 400 <= len(few.faces) <= 510
    volume = trimesh.Trimesh(few.vertices, few.faces, process=False).volume
    assert volume == pytest.approx(4 / 3 * np.pi, rel=0.03)
    clear = np.abs(few.vertices[:, 2]) > 0.1
    np.testing.assert_array_equal(few.colors[clear, 0] > 0.5, few.vertices[clear, 2] > 0)


def test_decimate_does_not_tear_along_seams():
    sphere = ball(4)
    loose = sphere.vertices[sphere.faces].reshape(-1, 3)  # every face with corners of its own
    few = decimate(Mesh(loose, np.arange(len(loose)).reshape(-1, 3)), 400)
    assert trimesh.Trimesh(few.vertices, few.faces, process=False).is_watertight


def test_decimate_leaves_a_small_mesh_alone():
    mesh = ball(1)
    assert decimate(mesh, 80) is mesh
    with pytest.raises(ValueError, match="at least 4"):
        decimate(mesh, 3)


def test_sample_points_fall_by_area_and_on_the_surface():
    small, large = Mesh(CORNER, [[0, 1, 2]]), Mesh(CORNER * 3 + [0, 0, 5], [[0, 1, 2]])  # 1 : 9
    points = sample_points([small, large], 20_000, torch.Generator().manual_seed(0)).numpy()
    assert (points[:, 2] < 2.5).mean() == pytest.approx(0.1, abs=0.01)
    assert (points[points[:, 2] < 2.5].sum(1) <= 1 + 1e-6).all()
    upper = points[points[:, 2] > 2.5]
    np.testing.assert_allclose(upper.mean(0), [1, 1, 5], atol=0.02)  # a triangle's centroid
    np.testing.assert_allclose(np.cov(upper[:, :2].T), [[0.5, -0.25], [-0.25, 0.5]], atol=0.02)  # 9 / 18, -9 / 36


def test_sample_points_repeat_for_the_same_generator():
    first, second = (sample_points(ball(), 50, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="has an area"):
        sample_points(Mesh(CORNER * 0, [[0, 1, 2]]), 5, torch.Generator())


def test_vertex_colors_multiply_all_colours_in_linear_light():
    texture = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [188, 188, 188, 255]]], np.uint8)
    uv = [[0.75, 0.75], [1.25, 0.25], [-0.25, 0.25]]  # lower right; upper left and upper right by repetition
    mesh = Mesh(CORNER, [[0, 1, 2]], uv=uv, texture=texture, colors=np.full((3, 3), 0.5), base_color=(1, 1, 0.5, 1))
    grey = 0.5028865 * 0.2140411  # of sRGB bytes 188 and of sRGB 0.5, both in linear light
    light = [[grey, grey, grey / 2], [0.2140411, 0, 0], [0, 0.2140411, 0]]
    np.testing.assert_allclose(linear_from_srgb(vertex_colors(mesh)), light, atol=1e-5)


def test_merged_parts_keep_their_faces_and_looks():
    red, green = (
        Mesh(CORNER + k, [[0, 1, 2]], base_color=color) for k, color in ((0, (1, 0, 0, 1)), (5, (0, 1, 0, 1)))
    )
    whole = merged([red, green])
    np.testing.assert_array_equal(whole.vertices[whole.faces[1]], CORNER + 5)
    np.testing.assert_array_equal(whole.colors, np.repeat([[1, 0, 0], [0, 1, 0]], 3, axis=0))
