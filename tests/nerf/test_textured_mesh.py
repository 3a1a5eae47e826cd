"""Light textured meshes, against fields with a formula: what colour each place has is known."""

import dataclasses

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import ball

from instant3d.cameras import structured_cameras
from instant3d.mesh.unwrap import unwrap
from instant3d.nerf.mesh_extraction import extract_surface
from instant3d.nerf.textured_mesh import build_mesh
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

FIELD = ball(200.0, radius=0.6, softness=0.004)


@pytest.fixture(scope="module")
def surface():
    return extract_surface(FIELD, 48)


@pytest.mark.slow
def test_build_mesh_gives_a_glb_whose_colour_at_each_place_names_the_place(surface, tmp_path):
    """World (x, y, z) is (x, z, -y) in the file, and its colour (x + 1) / 2, ...: a mirrored texture would differ."""
    made = build_mesh(FIELD, surface, MeshOptions(faces=1000, texture=256, origin="world"))
    made.mesh.save(tmp_path / "x.glb")
    (read,) = trimesh.load_scene(tmp_path / "x.glb", process=False).geometry.values()
    centres = read.triangles_center @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    uv = read.visual.uv[read.faces].mean(1)
    image = np.asarray(read.visual.material.baseColorTexture.convert("RGB")) / 255
    column, row = (uv[:, 0] * 256).astype(int), ((1 - uv[:, 1]) * 256).astype(int)  # trimesh counts v upwards
    assert abs(image[row.clip(0, 255), column.clip(0, 255)] - (centres + 1) / 2).max() < 0.03
    assert len(read.faces) <= 1000
    assert read.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.06)


def test_normals_of_a_simplified_ball_point_away_from_its_centre():
    soft = ball(200.0, radius=0.6, softness=0.02)  # a field that is a slope, as those of networks are
    mesh = build_mesh(soft, extract_surface(soft, 48), MeshOptions(faces=500, texture=None, origin="world")).mesh
    outward = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (mesh.normals * outward).sum(1).min() > 0.99


def test_build_mesh_takes_a_views_colour_where_it_shows_the_surface_and_the_fields_elsewhere(surface):
    camera = structured_cameras()[:1]
    green = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 64, 64)[None]
    views = Views(green.clone(), torch.ones(1, 1, 64, 64), camera)
    mesh = build_mesh(FIELD, surface, MeshOptions(faces=500, texture=None, origin="world"), views).mesh
    toward = mesh.vertices @ torch.nn.functional.normalize(camera.positions[0], dim=0).numpy() / 0.6
    assert abs(mesh.colors[toward > 0.95] - (0, 1, 0)).max() < 0.2
    assert abs(mesh.colors[toward < 0] - (mesh.vertices[toward < 0] + 1) / 2).max() < 0.01


def test_build_mesh_stands_on_the_ground(surface):
    mesh = build_mesh(FIELD, surface, MeshOptions(faces=500, texture=None)).mesh
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=1e-6)
    assert mesh.vertices[:, 2].max() == pytest.approx(1.2, abs=0.03)


def test_unwrap_into_squares_of_two_faces_each_has_no_overlap(surface):
    uv = unwrap(surface, 1024, seconds=0).mesh
    corners = uv.uv[uv.faces].astype(np.float64)
    side = int(np.ceil(np.sqrt(np.ceil(len(uv.faces) / 2))))
    square = np.floor(corners * side)
    assert (square == square[:, :1]).all()  # no triangle leaves its square
    assert np.bincount((square[:, 0, 1] * side + square[:, 0, 0]).astype(int)).max() == 2


@pytest.mark.parametrize(("name", "value"), [("faces", 0), ("faces", 10_000_000), ("texture", 100_000)])
def test_mesh_options_refuse_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"got {value}"):
        dataclasses.replace(MeshOptions(), **{name: value})
