"""The choice of a threshold: a ball that thins outwards has a sphere of known radius for each density."""

import math

import pytest
import torch
from analytic_fields import Formula
from ball_views import ball

from instant3d.cameras import orbit
from instant3d.nerf.mesh_extraction import extract_surface
from instant3d.nerf.silhouette_threshold import highest_densities, silhouette_threshold
from instant3d.views import Views

pytestmark = pytest.mark.slow

SOFT = Formula(lambda points: (40 * (1 - points.norm(dim=-1))).clamp(min=0))  # density 40 (1 - r)
VIEWS = ball(orbit([0.0, 90.0, 210.0], [0.0, 20.0, 40.0]), size=96)  # of radius 0.7, where the density is 12


def test_silhouette_threshold_is_the_density_of_the_sphere_that_the_views_show():
    assert silhouette_threshold(SOFT, VIEWS, [24.0, 18.0, 12.0, 8.0, 4.0]) == 12


def test_silhouette_threshold_of_equal_silhouettes_is_the_highest():
    step = Formula(lambda points: 40.0 * (points.norm(dim=-1) < 0.7))
    assert silhouette_threshold(step, VIEWS, [5.0, 20.0, 10.0]) == 20


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_silhouette_threshold_of_views_without_a_silhouette_is_none(alpha):
    views = Views(VIEWS.rgb, torch.full_like(VIEWS.alpha, alpha), VIEWS.cameras)
    assert silhouette_threshold(SOFT, views, [12.0]) is None


def test_highest_densities_on_a_ray_through_the_middle_is_that_of_the_middle():
    peaks = highest_densities(SOFT, orbit([30.0], 10.0))
    assert peaks.max() == pytest.approx(40, abs=1.5)
    assert peaks[0, 0, 0] == 0


def test_extract_surface_with_views_has_their_radius_and_without_them_otsus():
    with_views, without = (extract_surface(SOFT, 48, views=views) for views in (VIEWS, None))
    radii = [torch.from_numpy(mesh.vertices).norm(dim=-1).mean().item() for mesh in (with_views, without)]
    assert abs(radii[0] - 0.7) < abs(radii[1] - 0.7) / 2
    assert math.isclose(radii[0], 0.7, abs_tol=0.06)  # the densities that are tried are factors of 1.4 apart
