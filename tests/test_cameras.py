"""Cameras: axes, units and angles against positions worked out by hand, inverse pairs and symmetries."""

import math

import pytest
import torch
from torch import Tensor

from instant3d.cameras import Cameras, intrinsics_from_fov, look_at, orbit, random_sphere, structured_cameras, turntable


def close(got: Tensor, expected: object, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype).expand_as(got), atol=atol, rtol=0)


def turned(cameras: Cameras, degrees: float) -> Cameras:
    """The cameras carried around the z axis, from +x towards +y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return Cameras(turn @ cameras.cam_to_world, cameras.intrinsics)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "position"),
    [
        (0, 0, (2, 0, 0)),
        (90, 0, (0, 2, 0)),
        (180, 0, (-2, 0, 0)),
        (0, 90, (0, 0, 2)),
        (0, -90, (0, 0, -2)),
        (45, 0, (math.sqrt(2), math.sqrt(2), 0)),
        (0, 30, (math.sqrt(3), 0, 1)),
    ],
)
def test_orbit_azimuth_runs_from_x_towards_y_and_elevation_up(azimuth, elevation, position):
    close(orbit(azimuth, elevation, radius=2.0).positions, position)


def test_orbit_camera_on_the_x_axis_has_y_to_its_right_and_z_up():
    """Seen from +x with +z up, +y points to the right; OpenCV's second axis points down, its third forward."""
    right, down, forward = orbit(0.0, 0.0).cam_to_world[:3, :3].unbind(-1)
    close(right, (0, 1, 0))
    close(down, (0, 0, -1))
    close(forward, (-1, 0, 0))


@pytest.mark.parametrize("elevation", [-90.0, -30.0, 0.0, 20.0, 89.99, 90.0])
def test_cameras_are_right_handed_rotations(elevation):
    rotation = orbit(torch.arange(0.0, 360.0, 30.0), elevation).cam_to_world[:, :3, :3]
    close(rotation.mT @ rotation, torch.eye(3))
    close(torch.linalg.det(rotation), 1.0)


def test_look_at_from_straight_above_points_the_top_of_the_image_along_y():
    image, _ = orbit(123.0, 90.0).project(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
    close(image[0], (0.5, 0.5))
    assert image[1, 1] < 0.49
    close(image[1, 0], 0.5)


def test_project_puts_points_where_a_hand_drawn_pinhole_puts_them():
    """From (2, 0, 0) with 90 degrees across, a point in the plane x = 0 lies 2 in front, so offsets shrink by 2 * 2."""
    camera = orbit(0.0, 0.0, radius=2.0, fov_deg=90.0)
    image, depth = camera.project(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, -0.5], [3.0, 0.0, 0.0]]))
    close(image[:3], [[0.75, 0.5], [0.5, 0.25], [0.75, 0.75]])
    close(depth, [2.0, 2.0, 1.0, -1.0])


@pytest.mark.parametrize("fov", [20.0, 50.0, 90.0, 120.0])
def test_intrinsics_from_fov_reach_from_edge_to_edge_of_the_image(fov):
    camera = orbit(0.0, 0.0, fov_deg=fov)
    edges = camera.rays_through(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])).directions
    assert math.degrees(math.acos(float(edges[0] @ edges[1]))) == pytest.approx(fov, abs=1e-2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 7)])
def test_project_puts_a_point_on_a_pixels_ray_in_the_middle_of_that_pixel(height, width):
    cameras = structured_cameras()
    skew = Cameras(cameras.cam_to_world, torch.tensor([[1.1, 0.9, 0.45, 0.6]]).expand(4, 4))
    rays = skew.rays(height, width)
    points = rays.at(torch.tensor([2.5])).reshape(4, -1, 3)
    image, _ = skew.project(points)
    u = (torch.arange(width) + 0.5) / width
    v = (torch.arange(height) + 0.5) / height
    expected = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1).reshape(1, -1, 2)
    close(image, expected)


def test_rays_have_directions_of_length_one_and_depth_is_the_distance_times_the_cosine():
    camera = orbit(30.0, 10.0, fov_deg=100.0)
    rays = camera.rays(8, 8)
    close(rays.directions.norm(dim=-1), 1.0)
    _, depth = camera.project(rays.at(torch.tensor([1.5]))[..., 0, :].reshape(-1, 3))
    cosine = rays.directions.reshape(-1, 3) @ camera.cam_to_world[:3, 2]
    close(depth, 1.5 * cosine)


def test_crop_gives_rays_that_are_the_windows_part_of_the_rays():
    camera = orbit(200.0, 35.0)
    whole = camera.rays(8, 8).directions
    left, top, width, height = (torch.tensor(value / 8) for value in (2.0, 1.0, 4.0, 3.0))
    close(camera.crop(left, top, width, height).rays(3, 4).directions, whole[1:4, 2:6])


def test_project_does_not_change_when_world_and_cameras_rotate_together():
    cameras = structured_cameras()
    points = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    c, s = math.cos(math.radians(70)), math.sin(math.radians(70))
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    image, depth = cameras.project(points)
    turned_image, turned_depth = turned(cameras, 70).project(points @ turn.T)
    close(turned_image, image)
    close(turned_depth, depth)


def test_orbit_azimuth_rotates_a_camera_around_the_z_axis():
    close(turned(orbit(10.0, 25.0), 50.0).cam_to_world, orbit(60.0, 25.0).cam_to_world)


def test_look_at_puts_the_target_in_the_middle():
    eye, target = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[-0.5, 0.25, 0.75]])
    image, depth = Cameras(look_at(eye, target), intrinsics_from_fov(40.0)[None]).project(target[None])
    close(image, 0.5)
    close(depth, (eye - target).norm())


def test_structured_cameras_stand_in_the_four_quadrants_twenty_degrees_up():
    """The paper's grid: 45, 135, 225 and 315 degrees; sin 20 = 0.34202 and cos 20 / sqrt 2 = 0.66446."""
    signs = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    expected = torch.cat([0.66446 * signs, torch.full((4, 1), 0.34202)], dim=-1) * 2.7
    close(structured_cameras().positions, expected, atol=1e-4)


def test_structured_cameras_show_the_whole_unit_sphere():
    """A sphere of radius 1 at distance 2.7 spans 2 asin(1 / 2.7) = 43.5 degrees of the 50."""
    points = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    image, _ = structured_cameras().project(points)
    assert 0.0 < image.min() < 0.1
    assert 0.9 < image.max() < 1.0


def test_turntable_steps_evenly_and_does_not_repeat_its_first_frame():
    positions = turntable(4, elevation_deg=0.0, radius=1.0).positions
    close(positions, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def test_random_sphere_covers_its_band_evenly_by_area():
    """Archimedes: on a sphere, height is uniform; between -30 and 90 degrees its mean is (sin -30 + 1) / 2 = 0.25."""
    cameras = random_sphere(20000, torch.Generator().manual_seed(3), elevation_deg=(-30.0, 90.0), radius=(1.0, 1.0))
    height = cameras.positions[:, 2]
    assert height.min() >= -0.5 - 1e-5
    assert height.mean().item() == pytest.approx(0.25, abs=0.01)
    assert height.var().item() == pytest.approx(1.5**2 / 12, abs=0.01)
    close(cameras.positions[:, :2].mean(0), 0.0, atol=0.02)


def test_random_sphere_repeats_for_the_same_seed_only():
    first, again, other = (random_sphere(3, torch.Generator().manual_seed(seed)).cam_to_world for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_cameras_of_unlike_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\) and \(3, 4\)"):
        Cameras(torch.eye(4).expand(2, 4, 4), torch.ones(3, 4))
