"""Solids: closed or not, how large, and made fit for a printer; measured by trimesh and by formulas."""

import numpy as np
import pytest
import trimesh

from instant3d.mesh import Mesh, fill_holes, geometry_report, printable


def box(extents=(1, 1, 1), at=(0, 0, 0), **look):
    solid = trimesh.creation.box(extents)
    return Mesh(solid.vertices + at, solid.faces, **look)


def ball(radius=1.0, at=(0, 0, 0), subdivisions=3):
    sphere = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(sphere.vertices + at, sphere.faces)


def together(*meshes):
    offsets = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = np.vstack([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=False)])
    return Mesh(np.vstack([mesh.vertices for mesh in meshes]), faces)


def by_trimesh(mesh):
    return trimesh.Trimesh(mesh.vertices, mesh.faces)  # which merges vertices of equal place


def test_geometry_report_of_two_boxes_has_the_sizes_they_were_made_with():
    report = geometry_report(together(box((1, 2, 3)), box(at=(5, 0, 0))))
    assert report.as_dict() == {
        "faces": 24,
        "vertices": 16,
        "closed": True,
        "components": 2,
        "size": [6.0, 2.0, 3.0],  # from -0.5 to 5.5 along x
        "volume": 7.0,
    }


def test_geometry_report_of_a_surface_with_a_face_missing_is_open_and_without_volume():
    whole = box()
    report = geometry_report(Mesh(whole.vertices, whole.faces[1:]))
    assert (report.closed, report.volume, report.faces) == (False, None, 11)


def test_geometry_report_finds_a_surface_with_seams_of_a_texture_closed():
    whole = box()
    split = Mesh(whole.vertices[whole.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    report = geometry_report(split)
    assert (report.closed, report.components, report.vertices) == (True, 1, 36)


def test_holes_are_filled_so_that_trimesh_finds_a_closed_surface_of_the_same_volume():
    whole = box((2, 2, 2))
    top, side = ((whole.vertices[whole.faces][..., axis] > 0.99).all(1) for axis in (2, 0))
    filled = by_trimesh(fill_holes(Mesh(whole.vertices, whole.faces[~(top | side)])))
    assert filled.is_watertight
    assert filled.is_winding_consistent
    assert by_trimesh(fill_holes(Mesh(whole.vertices, whole.faces[~top]))).volume == pytest.approx(8)


def test_holes_with_longer_rims_than_asked_for_stay_open():
    whole = ball()
    around = (whole.faces == 0).any(1)  # a rim of 5 edges
    low = whole.vertices[whole.faces][..., 2].max(1) < -0.3
    torn = Mesh(whole.vertices, whole.faces[~(around | low)])
    rims = len(by_trimesh(torn).outline().entities)
    assert (rims, len(by_trimesh(fill_holes(torn, max_edges=5)).outline().entities)) == (2, 1)
    assert len(fill_holes(torn, max_edges=5).faces) == len(torn.faces) + 5


def test_printable_solid_is_the_largest_part_without_its_cavity():
    hollow = ball(0.5)
    parts = together(ball(), Mesh(hollow.vertices, hollow.faces[:, ::-1]), ball(0.3, at=(3, 0, 0)))
    solid = by_trimesh(printable(parts))
    assert solid.is_volume
    assert solid.body_count == 1
    assert solid.volume == pytest.approx(by_trimesh(ball()).volume, rel=1e-5)


def test_printable_solid_is_made_of_an_open_inside_out_surface():
    whole = box((2, 2, 2))
    top = (whole.vertices[whole.faces][..., 2] > 0.99).all(1)
    solid = by_trimesh(printable(Mesh(whole.vertices, whole.faces[~top][:, ::-1])))
    assert solid.is_volume
    assert solid.volume == pytest.approx(8)


def test_printable_flat_bottom_is_the_disc_of_the_cut_sphere():
    solid = by_trimesh(printable(ball(subdivisions=5), flat_bottom=True))
    assert solid.is_volume
    flat = solid.face_normals[:, 2] < -0.999999
    np.testing.assert_allclose(solid.triangles[flat][..., 2], -0.96, atol=1e-5)  # a fiftieth of the height of 2
    assert solid.area_faces[flat].sum() == pytest.approx(np.pi * (1 - 0.96**2), rel=0.02)


def test_printable_keeps_colours_and_texture_and_the_cut_takes_those_of_its_rim():
    sphere = ball()
    colors = np.repeat(sphere.vertices[:, 2:] / 2 + 0.5, 3, axis=1)
    look = {"uv": sphere.vertices[:, :2], "texture": np.zeros((2, 2, 4), np.uint8), "normals": sphere.vertices}
    solid = printable(Mesh(sphere.vertices, sphere.faces, colors=colors, **look), flat_bottom=True)
    np.testing.assert_allclose(solid.colors[:, 0], solid.vertices[:, 2] / 2 + 0.5, atol=1e-3)
    assert solid.texture is look["texture"]
    down = solid.normals[:, 2] < -0.9999
    assert down.sum() > 4
    assert len(np.unique(solid.uv[down & (solid.vertices[:, 2] < -0.9599)], axis=0)) == 1


def test_printable_refuses_a_sheet_without_volume():
    with pytest.raises(ValueError, match="encloses no volume"):
        printable(Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]))
    with pytest.raises(ValueError, match="no triangle"):
        geometry_report(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)))
