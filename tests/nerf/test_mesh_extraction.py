"""Meshes of fields against closed forms, with axes that cannot be swapped or mirrored unnoticed."""

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import Formula, ball, fog, place_colour
from torch import Tensor

from benchmarks import textbook
from instant3d.mesh import Mesh
from instant3d.nerf import mesh_extraction
from instant3d.nerf.field import normals
from instant3d.nerf.mesh_extraction import extract_mesh
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField

CENTRE, RADIUS = np.array([0.2, -0.3, 0.1]), 0.45


def solid(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def errors_in_voxels(mesh: Mesh, resolution: int) -> np.ndarray:
    return np.abs(np.linalg.norm(mesh.vertices - CENTRE, axis=1) - RADIUS) * (resolution - 1) / 2


def boxes(*bounds: tuple[tuple[float, float, float], tuple[float, float, float]], sigma: float = 60.0) -> Formula:
    parts = [fog(sigma, low, high) for low, high in bounds]
    return Formula(lambda points: torch.stack([part.density(points) for part in parts]).amax(0))


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [31, 64, 130, 200])
@pytest.mark.parametrize("softness", [0.05, 1e-6])
def test_extract_mesh_of_a_sphere_lies_where_its_density_halves_to_a_tenth_of_a_voxel(resolution, softness):
    mesh = extract_mesh(ball(80.0, CENTRE.tolist(), RADIUS, softness), resolution, threshold=40.0)
    assert errors_in_voxels(mesh, resolution).max() < 0.1
    assert solid(mesh).is_watertight
    assert solid(mesh).volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.02)  # positive: faces look outward


@pytest.mark.parametrize("resolution", [30, 61])
def test_extract_mesh_on_the_whole_grid_is_that_around_the_surface(resolution, monkeypatch):
    field = ball(80.0, CENTRE.tolist(), RADIUS, 0.05)
    around = extract_mesh(field, resolution, threshold=40.0)
    monkeypatch.setattr(mesh_extraction, "_on_gpu", lambda field: True)
    whole = extract_mesh(field, resolution, threshold=40.0)
    assert errors_in_voxels(whole, resolution).max() < 0.1
    assert solid(whole).is_watertight
    assert len(whole.faces) == len(around.faces)
    order = [np.lexsort(np.round(mesh.vertices, 5).T) for mesh in (whole, around)]
    np.testing.assert_allclose(whole.vertices[order[0]], around.vertices[order[1]], atol=2e-4)


def test_extract_mesh_on_the_whole_grid_closes_a_solid_at_the_border_by_the_cube(monkeypatch):
    monkeypatch.setattr(mesh_extraction, "_on_gpu", lambda field: True)
    mesh = extract_mesh(boxes(((-1.5, -0.5, -0.5), (0.5, 0.5, 0.5))), 33)
    assert solid(mesh).is_watertight
    assert mesh.vertices[:, 0].min() == pytest.approx(-1, abs=1e-6)
    assert solid(mesh).volume == pytest.approx(1.5, rel=0.02)


def test_extract_mesh_face_normals_agree_with_the_fields():
    field = ball(80.0, CENTRE.tolist(), RADIUS, 0.05)
    mesh = extract_mesh(field, 48, threshold=40.0)
    with torch.no_grad():
        outward = normals(field, torch.from_numpy(mesh.vertices[mesh.faces].mean(1))).numpy()
    areas = solid(mesh).area_faces
    assert ((solid(mesh).face_normals * outward).sum(1) > 0.9)[areas > 0.2 * np.median(areas)].all()


def test_extract_mesh_of_an_object_without_symmetry_keeps_its_axes_and_colours():
    low, high = np.array([-0.7, -0.2, 0.1]), np.array([0.5, 0.4, 0.3])
    mesh = extract_mesh(boxes((tuple(low), tuple(high))), 128)
    np.testing.assert_allclose(mesh.vertices.min(0), low, atol=2e-3)
    np.testing.assert_allclose(mesh.vertices.max(0), high, atol=2e-3)
    expected = place_colour(torch.from_numpy(mesh.vertices)).numpy()
    np.testing.assert_allclose(mesh.colors, expected, atol=1e-5)


def test_extract_mesh_vertices_lie_on_the_given_threshold_of_the_field():
    field = ball(100.0, CENTRE.tolist(), RADIUS, 0.1)
    for threshold in (20.0, 70.0):
        mesh = extract_mesh(field, 64, threshold=threshold)
        density = field.density(torch.from_numpy(mesh.vertices))
        assert (density - threshold).abs().max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("thickness", [0.03, 0.06])
def test_extract_mesh_follows_a_thin_blade_that_hangs_on_a_body_to_its_end(thickness):
    body = ((-0.8, -0.3, -0.3), (-0.3, 0.3, 0.3))
    blade = ((-0.4, -0.2, 0.011), (0.85, 0.15, 0.011 + thickness))
    mesh = extract_mesh(boxes(body, blade), 200)  # nodes of the coarse grid are 0.04 apart, of the fine one 0.01
    assert solid(mesh).is_watertight
    assert mesh.vertices[:, 0].max() == pytest.approx(0.85, abs=2e-3)
    volume = 0.5 * 0.6 * 0.6 + 1.15 * 0.35 * thickness
    assert solid(mesh).volume == pytest.approx(volume, rel=0.02)


def labyrinth(thickness: float) -> Formula:
    """A gyroid: one connected, curved sheet that fills a box, thinner than the gaps between its layers."""

    def density(points: Tensor) -> Tensor:
        x, y, z = (6 * points + 0.3).unbind(-1)
        level = x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()
        return 60 * torch.sigmoid((thickness - level.abs()) / 0.02) * (points.abs().amax(-1) < 0.9)

    return Formula(density)


@pytest.mark.slow
@pytest.mark.parametrize("coarsest", [6, 12])
@pytest.mark.parametrize("thickness", [0.03, 0.1])
def test_extract_mesh_finds_a_labyrinth_whole_however_coarse_the_search_starts(monkeypatch, thickness, coarsest):
    field = labyrinth(thickness)
    monkeypatch.setattr(mesh_extraction, "COARSEST", 97)  # no halvings: the dense grid
    dense = extract_mesh(field, 97, threshold=30.0)
    monkeypatch.setattr(mesh_extraction, "COARSEST", coarsest)  # three or four halvings
    found = extract_mesh(field, 97, threshold=30.0)
    assert solid(found).is_watertight
    assert len(found.vertices) == pytest.approx(len(dense.vertices), rel=0.006)  # crumbs at the box's edge are missed
    assert solid(found).volume == pytest.approx(solid(dense).volume, rel=0.006)


def test_extract_mesh_closes_a_solid_that_reaches_the_border_by_the_cube():
    mesh = extract_mesh(boxes(((-2.0, -0.5, -0.5), (0.0, 0.5, 2.0))), 60)
    assert solid(mesh).is_watertight
    assert mesh.vertices[:, 0].min() == -1
    assert mesh.vertices[:, 2].max() == 1
    assert solid(mesh).volume == pytest.approx(1.0 * 1.0 * 1.5, rel=0.02)


def test_automatic_threshold_parts_matter_from_haze_at_every_resolution():
    def density(points: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(points - torch.tensor(CENTRE, dtype=points.dtype), dim=-1)
        return 2.0 + 88.0 * torch.sigmoid((RADIUS - distance) / 0.005)

    for resolution in (40, 100):
        mesh = extract_mesh(Formula(density), resolution)
        assert errors_in_voxels(mesh, resolution).max() < 1


def test_automatic_threshold_finds_a_faint_object_too():
    mesh = extract_mesh(ball(1.5, CENTRE.tolist(), RADIUS, 0.005), 64)
    assert errors_in_voxels(mesh, 64).max() < 1


def test_extract_mesh_does_not_depend_on_the_memory_allowed():
    field = ball(80.0, CENTRE.tolist(), RADIUS, 0.02)
    whole, pieces = (extract_mesh(field, 64, max_memory=memory) for memory in (2**30, 2**22))
    np.testing.assert_array_equal(whole.vertices, pieces.vertices)
    np.testing.assert_array_equal(whole.faces, pieces.faces)
    np.testing.assert_array_equal(whole.colors, pieces.colors)


@pytest.mark.slow
def test_extract_mesh_of_a_triplane_is_the_textbook_mesh_to_half_a_voxel():
    side = 24
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    planes = torch.zeros(3, 2, side, side)
    planes[0, 0] = (axis[None] - 0.2).square() + 2 * (axis[:, None] + 0.1).square()
    planes[1, 0] = 3 * (axis[:, None] - 0.1).square()
    decoder = Decoder(DecoderConfig(2, width=8, layers=3, density_bias=0.0))
    with torch.no_grad():
        for layer in (decoder.first, *decoder.hidden, decoder.last):
            layer.weight.zero_()
        decoder.first.weight[0, [0, 2]] = 1.0
        decoder.hidden[0].weight.copy_(torch.eye(8))
        decoder.last.weight[0, 0], decoder.last.bias[0] = -150.0, 60.0
    ours = extract_mesh(TriplaneField(Triplane(planes), decoder), 97, threshold=20.0)
    theirs = textbook.extract(textbook.TextbookField(Triplane(planes), decoder), 97, 20.0)
    nearest = trimesh.proximity.ProximityQuery(solid(theirs)).vertex(ours.vertices)[0]
    assert nearest.mean() * 48 < 0.1
    assert len(ours.vertices) == pytest.approx(len(theirs.vertices), rel=0.01)
    np.testing.assert_allclose(ours.vertices.mean(0), theirs.vertices.mean(0), atol=0.01)
    assert solid(ours).volume == pytest.approx(solid(theirs).volume, rel=0.01)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_extract_mesh_names_an_empty_field(sigma):
    with pytest.raises(ValueError, match=r"field is empty: nowhere in the cube is it denser than 0(\.2)? "):
        extract_mesh(ball(sigma, CENTRE.tolist()), 32)


def test_extract_mesh_names_a_field_nowhere_above_the_threshold_empty():
    with pytest.raises(ValueError, match=r"empty: .* denser than 5 .* more than 9"):
        extract_mesh(fog(5.0, (-0.5,) * 3, (0.5,) * 3), 32, threshold=9.0)


@pytest.mark.parametrize("threshold", ["auto", 3.0])
def test_extract_mesh_names_a_full_field(threshold):
    with pytest.raises(ValueError, match="field is full: everywhere in the cube it is denser than"):
        extract_mesh(Formula(lambda points: 50.0 + points[..., 0]), 32, threshold=threshold)


def test_extract_mesh_names_a_field_with_damaged_weights():
    with pytest.raises(ValueError, match="not finite"):
        extract_mesh(Formula(lambda points: points[..., 0] / 0), 32)


def test_extract_mesh_refuses_a_grid_beyond_the_memory_allowed_before_the_work():
    with pytest.raises(ValueError, match="lower the resolution"):
        extract_mesh(ball(80.0), 1000, max_memory=2**30)


@pytest.mark.parametrize(("resolution", "threshold", "message"), [(1, "auto", "at least 2"), (32, 0.0, "above 0")])
def test_extract_mesh_refuses_senseless_settings(resolution, threshold, message):
    with pytest.raises(ValueError, match=message):
        extract_mesh(ball(80.0), resolution, threshold=threshold)
