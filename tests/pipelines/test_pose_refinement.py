"""Cameras of photos: their parameters against `orbit` and projection, their refinement on objects with a formula."""

import math
from dataclasses import replace

import pytest
import torch
from analytic_fields import Formula

from instant3d.cameras import intrinsics_from_fov, orbit
from instant3d.nerf.occupancy_render import render
from instant3d.nerf.visual_hull import VisualHull
from instant3d.pipelines.orbit_poses import OrbitPoses, in_order, orbit_poses
from instant3d.pipelines.photo_agreement import SIZE, disagreement, measure_agreement, show_one_side
from instant3d.pipelines.pose_refinement import guess_order, refine
from instant3d.views import Views

pytestmark = pytest.mark.slow

AZIMUTHS = [270.0, 0.0, 90.0, 180.0]


def start(azimuths=AZIMUTHS, elevation=20.0, distance=2.7) -> OrbitPoses:
    count = len(azimuths)
    middle = torch.full((count, 2), 0.5)
    return orbit_poses(
        azimuths, elevation, torch.full((count,), distance), intrinsics_from_fov(torch.full((count,), 50.0)), middle
    )


def blocks(points: torch.Tensor) -> torch.Tensor:
    """A long body with a tower on one end and a bar across the other, with soft edges: no two sides are alike."""
    body = block(points, (0.0, 0.0, -0.2), (0.25, 0.7, 0.2))
    tower = block(points, (0.1, 0.5, 0.25), (0.15, 0.15, 0.3))
    bar = block(points, (-0.1, -0.55, 0.0), (0.45, 0.12, 0.12))
    return 40.0 * torch.maximum(torch.maximum(body, tower), bar)


def block(points: torch.Tensor, middle: tuple[float, ...], half: tuple[float, ...]) -> torch.Tensor:
    inside = points.new_tensor(half) - (points - points.new_tensor(middle)).abs()
    return torch.sigmoid(inside / 0.02).prod(-1)


def ellipsoid(points: torch.Tensor) -> torch.Tensor:
    return 40.0 * ((points / points.new_tensor([0.8, 0.4, 0.3])).norm(dim=-1) < 1).float()


def photographed(poses: OrbitPoses, density=blocks) -> Views:
    return render(Formula(density), poses.cameras, 48, 48)


def known(views: Views) -> Formula:
    """Stands for a network: the object itself, whatever the cameras."""
    return Formula(blocks)


def rendered(field, photos: Views) -> Views:
    return render(field, photos.cameras, SIZE, SIZE)


def hull(views: Views) -> VisualHull:
    return VisualHull(views, side=48)


def test_poses_in_the_middle_and_without_roll_are_those_of_orbit():
    ours, theirs = start().cameras, orbit(AZIMUTHS, 20.0, 2.7, 50.0)
    torch.testing.assert_close(ours.cam_to_world, theirs.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.intrinsics, theirs.intrinsics)


def test_poses_show_the_origin_where_they_say_and_the_z_axis_rolled():
    change = torch.zeros(4, 7)
    change[:, 2], change[:, 4], change[:, 5] = 10.0, 0.1, -0.05
    cameras = start(elevation=0.0).moved(change).cameras
    image, depth = cameras.project(torch.tensor([[0.0, 0, 0], [0, 0, 0.01]]).expand(4, -1, -1))
    torch.testing.assert_close(image[:, 0], torch.tensor([[0.6, 0.45]]).expand(4, -1))
    up = image[:, 1] - image[:, 0]
    angle = torch.rad2deg(torch.atan2(up[:, 0], -up[:, 1]))  # of what is up in the world, clockwise in the image
    torch.testing.assert_close(angle, torch.full((4,), -10.0), atol=0.5, rtol=0)  # a camera turned clockwise
    assert (depth > 0).all()


def test_poses_keep_the_size_of_the_object_when_the_focal_length_changes():
    change = torch.zeros(4, 7)
    change[:, 6] = 0.3
    points = torch.tensor([[0.0, 0, 0.01]]).expand(4, -1, -1)
    before, after = (poses.cameras.project(points)[0] for poses in (start(), start().moved(change)))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_refinement_at_least_halves_the_error_of_azimuths():
    change = torch.zeros(4, 7)
    change[:, 0], change[:, 1] = torch.tensor([8.0, -6.0, 5.0, -7.0]), torch.tensor([-4.0, 5.0, 4.0, -5.0])
    photos = photographed(start())
    found = refine(known, photos, start().moved(change))
    left = found.poses.values - start().values
    assert left[:, 0].abs().mean() < 0.5 * change[:, 0].abs().mean()
    assert found.error.sum() < found.error_before.sum()


def stretched(views: Views) -> Formula:
    """Stands for a network that follows wrong elevations: it flattens the object by half of what they are wrong."""
    mean = torch.asin(torch.nn.functional.normalize(views.cameras.positions, dim=-1)[:, 2]).mean()
    factor = 1 + 2 * (mean - math.radians(20.0))
    return Formula(lambda points: blocks(points * torch.stack([torch.ones(()), torch.ones(()), factor])))


def test_refinement_at_least_halves_an_error_of_all_elevations_that_the_reconstruction_follows():
    change = torch.zeros(4, 7)
    change[:, 1] = 6.0
    found = refine(stretched, photographed(start()), start().moved(change))
    assert (found.poses.values - start().values)[:, 1].abs().mean() < 3.0


def test_guess_finds_the_order_of_shuffled_photos():
    photos = photographed(start())
    shuffled = [0, 2, 3, 1]  # front, back, left, right
    guess = guess_order(known, photos[torch.tensor(shuffled)], start())
    assert [shuffled[k] for k in guess.order] == [0, 1, 2, 3]
    assert guess.note("abcd") is None


def test_guess_has_an_alternative_for_an_object_with_two_equal_sides():
    grey = Formula(ellipsoid, lambda points: torch.full_like(points, 0.5))
    photos = render(grey, start().cameras, 48, 48)
    guess = guess_order(lambda views: grey, photos, start())
    assert sorted([guess.order, guess.alternative]) == [[0, 1, 2, 3], [0, 3, 2, 1]]
    note = guess.note("abcd")
    assert "a, b, c, d" in note
    assert "a, d, c, b" in note


def test_poses_in_another_order_keep_their_azimuths_and_exchange_the_rest():
    poses = start().moved(torch.arange(4.0)[:, None] * torch.tensor([0.0, 1, 0, 0, 0, 0, 0]))
    other = in_order(poses, [0, 2, 3, 1])
    assert other.values[:, 0].tolist() == AZIMUTHS
    assert other.values[:, 1].tolist() == [20.0, 22.0, 23.0, 21.0]


def test_agreement_is_full_for_the_object_itself():
    photos = photographed(start(), ellipsoid)
    agreement = measure_agreement(rendered(Formula(ellipsoid), photos), photos)
    assert agreement.mask_iou.min() > 0.95
    assert disagreement(agreement, hull, photos, "abcd") is None


def test_disagreement_names_the_photo_of_another_object():
    tall = photographed(start(), lambda p: ellipsoid(p[..., [2, 1, 0]]))
    flat = photographed(start(), ellipsoid)
    photos = Views.cat([flat[:2], tall[2:3], flat[3:]])
    problem = disagreement(
        measure_agreement(rendered(hull(photos), photos), photos), hull, photos, ("a", "b", "c.jpg", "d")
    )
    assert problem is not None
    assert "without c.jpg" in problem


def test_disagreement_of_four_photos_of_one_side_says_that_they_are_alike():
    backs = photographed(start([88.0, 90.0, 91.0, 93.0]))
    photos = replace(backs, cameras=start().cameras)  # given as front, right, back and left
    agreement = measure_agreement(rendered(hull(photos), photos), photos)
    problem = disagreement(agreement, hull, photos, "abcd")
    assert problem is not None
    assert "all photos seem to show the same side" in problem
    near = start([270.0, 272.0, 275.0, 278.0])
    assert not show_one_side(photographed(near))  # from one side, but that is what was given
    assert not show_one_side(photographed(start()))
    assert not show_one_side(photographed(start(), ellipsoid))
    assert not show_one_side(photographed(start(), lambda p: 40.0 * (p.norm(dim=-1) < 0.6).float()))  # a ball
