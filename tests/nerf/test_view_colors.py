"""Colours from views: which view counts at a point of a sphere or of a box is known from geometry."""

import pytest
import torch
import trimesh
from torch.nn import functional as F

from instant3d.cameras import orbit
from instant3d.mesh import Mesh
from instant3d.nerf.view_colors import depth_map, view_colors
from instant3d.views import Views

RED, GREEN = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
DISTANCE = 2.5


def solid(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(shape.vertices.astype("float32"), shape.faces)


SPHERE = solid(trimesh.creation.icosphere(subdivisions=4, radius=0.6))


def opaque(colors: torch.Tensor, azimuths: list[float], side: int = 64) -> Views:
    """Images of one colour each, opaque up to their borders, from cameras on the equator."""
    rgb = colors[:, :, None, None].expand(-1, 3, side, side)
    return Views(rgb, torch.ones(len(rgb), 1, side, side), orbit(azimuths, 0.0, DISTANCE))


def at_azimuths(degrees: torch.Tensor) -> torch.Tensor:
    """Unit vectors (N, 3) on the equator."""
    angles = degrees.deg2rad()
    return torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], -1)


def test_view_colors_of_the_point_nearest_to_a_camera_are_its_with_weight_one():
    normals = at_azimuths(torch.tensor([40.0]))
    colors, weight = view_colors(SPHERE, 0.6 * normals, normals, opaque(GREEN[None], [40.0]))
    assert weight.item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(colors[0], GREEN)


def test_view_colors_weigh_less_with_the_angle_and_nothing_where_a_view_grazes():
    normals = at_azimuths(torch.tensor([0.0, 20.0, 40.0, 60.0, 75.0, 120.0, 180.0]))
    _, weight = view_colors(SPHERE, 0.6 * normals, normals, opaque(GREEN[None], [0.0]))
    assert (weight[:4].diff() < 0).all()
    assert weight[3] < 0.1
    # at 75 degrees a ray from 2.5 meets the sphere at 90: the silhouette is at acos(0.6 / 2.5) = 76 degrees
    assert weight[4:].tolist() == [0, 0, 0]


def test_view_colors_between_two_views_are_more_of_the_one_that_looks_more_squarely():
    normals = at_azimuths(torch.tensor([30.0, 45.0, 60.0]))
    colors, _ = view_colors(SPHERE, 0.6 * normals, normals, opaque(torch.stack([RED, GREEN]), [0.0, 90.0]))
    assert colors[0, 0] > 0.8
    torch.testing.assert_close(colors[1, :2], torch.tensor([0.5, 0.5]), atol=0.02, rtol=0)
    assert colors[2, 1] > 0.8


def test_view_colors_of_a_point_behind_another_part_have_no_weight_though_it_faces_the_camera():
    screen = trimesh.creation.box((0.1, 0.5, 0.5), trimesh.transformations.translation_matrix([0.7, 0, 0]))
    wall = trimesh.creation.box((0.1, 1.2, 1.2), trimesh.transformations.translation_matrix([-0.5, 0, 0]))
    points = torch.tensor([[-0.45, 0.0, 0.0], [-0.45, 0.0, 0.5], [0.75, 0.0, 0.0]])  # behind, beside and on it
    normals = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
    _, weight = view_colors(solid(screen + wall), points, normals, opaque(GREEN[None], [0.0]))
    assert weight[0] == 0
    assert weight[1] > 0.5
    assert weight[2] > 0.5


def test_view_colors_of_translucent_pixels_have_no_weight():
    views = opaque(GREEN[None], [0.0])
    alpha = views.alpha.clone()
    alpha[..., 32:, :] = 0.5  # the lower half of the image
    faint = Views(views.rgb, alpha, views.cameras)
    normals = F.normalize(torch.tensor([[1.0, 0.0, 0.3], [1.0, 0.0, -0.3]]), dim=-1)
    _, weight = view_colors(SPHERE, 0.6 * normals, normals, faint)
    assert weight[0] > 0.5
    assert weight[1] == 0


def test_view_colors_of_a_point_outside_the_image_have_no_weight():
    camera = orbit([0.0], 0.0, DISTANCE)
    zoomed = camera.intrinsics.clone()
    zoomed[..., :2] *= 4  # shows the middle of the sphere alone
    views = opaque(GREEN[None], [0.0])
    views = Views(views.rgb, views.alpha, type(camera)(camera.cam_to_world, zoomed))
    normals = at_azimuths(torch.tensor([0.0, 40.0]))
    _, weight = view_colors(SPHERE, 0.6 * normals, normals, views)
    assert weight[0] > 0.9
    assert weight[1] == 0


def test_depth_map_of_a_sphere_is_nearest_in_its_middle_and_infinite_beside_it():
    depths = depth_map(SPHERE, orbit([0.0], 0.0, DISTANCE)[0], 65)
    assert depths[32, 32].item() == pytest.approx(DISTANCE - 0.6, abs=0.01)
    assert depths[0, 0].isinf()
