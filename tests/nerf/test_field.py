"""Normals of fields against closed forms."""

import torch
from analytic_fields import Formula, ball
from torch.nn import functional as F

from instant3d.nerf.field import normals


def test_normals_of_a_sphere_point_outward_whatever_its_centre():
    centre = torch.tensor([0.2, -0.3, 0.1])
    outward = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = normals(ball(30.0, centre.tolist(), 0.4, 0.05), centre + 0.4 * outward)
    torch.testing.assert_close(found, outward, rtol=1e-3, atol=1e-3)


def test_normals_of_a_slope_give_the_axis_along_which_density_falls():
    falling_along_y = Formula(lambda points: 5 - 2 * points[..., 1])
    found = normals(falling_along_y, torch.zeros(4, 3))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.0]).expand(4, 3))


def test_normals_are_zero_where_density_is_constant():
    even = Formula(lambda points: 3.0 + 0 * points[..., 0])
    assert normals(even, torch.rand(5, 3)).abs().max() == 0


def test_normals_are_found_even_where_gradients_are_off():
    with torch.no_grad():
        found = normals(ball(30.0), torch.tensor([[0.0, 0.0, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.0]]))
