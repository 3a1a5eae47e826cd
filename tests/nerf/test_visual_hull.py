"""The visual hull against spheres: what silhouettes must keep, what they must cut, and whose colour goes where."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras, orbit, structured_cameras
from instant3d.nerf.visual_hull import VisualHull, carve
from instant3d.views import Views

RADIUS = 0.8


def ball(
    cameras: Cameras, size: int = 96, centre: tuple[float, float, float] = (0, 0, 0), radius: float = RADIUS
) -> Views:
    """Exact images of a sphere whose colour is (x, y, z) / 2 + 1/2 of its unit normal."""
    rays = cameras.rays(size, size)
    origins = rays.origins - torch.tensor(centre)
    along = (origins * rays.directions).sum(-1)
    beneath = along**2 - (origins**2).sum(-1) + radius**2
    hit = beneath > 0
    normal = (origins + (-along - beneath.clamp(min=0).sqrt())[..., None] * rays.directions) / radius
    rgb = (normal / 2 + 0.5).clamp(0, 1) * hit[..., None]
    return Views(rgb.movedim(-1, -3), hit[..., None, :, :].float(), cameras)


def directions(count: int = 2000) -> Tensor:
    return F.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.slow
def test_visual_hull_holds_its_object():
    inside = directions() * torch.linspace(0, 0.97 * RADIUS, 2000)[:, None]
    assert (VisualHull(ball(structured_cameras())).density(inside) == 40.0).all()


@pytest.mark.slow
def test_visual_hull_leaves_a_point_beside_the_object_in_one_image_empty():
    cameras = structured_cameras()
    # just outside the tangent cone of the first camera, along its image's x axis, but inside the other three's
    graze = RADIUS / math.sqrt(1 - (RADIUS / 2.7) ** 2)
    points = torch.stack([cameras.cam_to_world[0, :3, 0] * graze * factor for factor in (0.96, 1.04)])
    assert VisualHull(ball(cameras, 192)).density(points).tolist() == [40.0, 0.0]


@pytest.mark.slow
def test_visual_hull_finds_an_off_centre_ball_where_it_is_and_not_at_its_mirror_images():
    centre = (0.3, -0.2, 0.15)
    hull = VisualHull(ball(structured_cameras(), centre=centre, radius=0.2))
    mirrored = [[-0.3, -0.2, 0.15], [0.3, 0.2, 0.15], [0.3, -0.2, -0.15], [-0.2, 0.3, 0.15]]
    assert hull.density(torch.tensor([centre, *mirrored])).tolist() == [40.0, 0, 0, 0, 0]


@pytest.mark.slow
def test_carve_volume_of_many_views_nears_the_ball_from_above():
    golden = 180 * (3 - math.sqrt(5))
    azimuth = [golden * k for k in range(40)]
    elevation = [math.degrees(math.asin((2 * k + 1) / 40 - 1)) for k in range(40)]
    ticks = (torch.arange(48) + 0.5) / 24 - 1
    points = torch.cartesian_prod(ticks, ticks, ticks)
    full = 4 / 3 * math.pi * RADIUS**3
    few = carve(ball(structured_cameras())[None], points)[0].mean().item() * 8
    many = carve(ball(orbit(azimuth, elevation))[None], points)[0].mean().item() * 8
    assert full * 0.98 < many < full * 1.03 < few


@pytest.mark.slow
def test_visual_hull_surface_takes_the_colour_that_the_ball_has_there():
    points = directions()
    points = points[points[:, 2].abs() < 0.4]
    _, rgb = VisualHull(ball(structured_cameras()))(0.98 * RADIUS * points)
    assert (rgb - (points / 2 + 0.5)).abs().mean() < 0.02


@pytest.mark.slow
def test_visual_hull_takes_no_colour_from_a_view_that_another_part_occludes():
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 0.0)
    near, far = ball(cameras, centre=(0.5, 0, 0), radius=0.3), ball(cameras, centre=(-0.5, 0, 0), radius=0.3)
    red, blue = torch.tensor([1.0, 0, 0])[:, None, None], torch.tensor([0.0, 0, 1.0])[:, None, None]
    rgb = near.alpha * red + (1 - near.alpha) * far.alpha * blue
    rgb[2] = far.alpha[2] * blue + (1 - far.alpha[2]) * near.alpha[2] * red  # from -x, blue stands in front
    views = Views(rgb, torch.maximum(near.alpha, far.alpha), cameras)
    # where blue's inner face meets its left side, camera 0 faces it, but only red is visible in front
    _, colour = VisualHull(views)(torch.tensor([[-0.24, 0.31, 0.0], [0.24, 0.31, 0.0]]))
    assert colour[0, 2] > 0.9
    assert colour[1, 0] > 0.9


def test_carve_treats_a_batch_like_its_members_and_agrees_with_projection_pixel_by_pixel():
    cameras = Cameras.stack([structured_cameras(), orbit([10.0, 95.0, 40.0, 300.0], [40.0, -20.0, 10.0, 60.0])])
    views = ball(cameras, size=64, centre=(0.1, 0.2, -0.1), radius=0.5)
    points = 1.2 * directions(500)
    occupancy, rgb = carve(views, points)
    where, _ = cameras.project(points.expand(2, 4, 500, 3))
    pixel = (where * 64).floor().long()
    inside = ((pixel >= 0) & (pixel < 64)).all(-1)
    pixel = pixel.clamp(0, 63)
    group = torch.arange(2)[:, None, None], torch.arange(4)[:, None]
    alpha = views.alpha[:, :, 0][*group, pixel[..., 1], pixel[..., 0]] * inside
    sure = (occupancy == occupancy.round()) & (rgb.isfinite().all(-1))
    assert sure.float().mean() > 0.8
    assert (occupancy == alpha.amin(1))[sure].float().mean() > 0.98
    for k in range(2):
        one = carve(views[k : k + 1], points)
        torch.testing.assert_close((occupancy[k], rgb[k]), (one[0][0], one[1][0]))


def test_carve_leaves_what_lies_behind_a_camera_or_outside_its_frame_empty():
    views = Views(torch.ones(1, 1, 3, 8, 8), torch.ones(1, 1, 1, 8, 8), orbit([[0.0]], 0.0, 2.0))
    points = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [0, 1.5, 0], [0, 0, -1.5]])
    assert carve(views, points)[0].tolist() == [[1, 0, 0, 0]]


def test_visual_hull_refuses_a_batch():
    with pytest.raises(ValueError, match="views of one object"):
        VisualHull(ball(structured_cameras())[None])
