"""Density regularisers, by hand and on fields in closed form."""

import math

import pytest
import torch
from analytic_fields import Formula, ball
from torch.nn import functional as F

from instant3d.cameras import Rays, orbit
from instant3d.direct.regularisers import entropy, field_orientation, opacity, orientation
from instant3d.nerf.field import finite_difference_normals
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField


def test_opacity_is_a_tenth_for_empty_pixels_and_rises_to_one():
    assert opacity(torch.zeros(2, 3)).item() == pytest.approx(0.1)
    assert opacity(torch.tensor([1.0, 0.0])).item() == pytest.approx((math.sqrt(1.01) + 0.1) / 2)
    alpha = torch.tensor([0.5], requires_grad=True)
    opacity(alpha).backward()
    assert alpha.grad.item() == pytest.approx(0.5 / math.sqrt(0.26))


def test_entropy_is_one_bit_at_a_half_and_zero_at_the_ends():
    assert entropy(torch.tensor([0.5])).item() == pytest.approx(1)
    assert entropy(torch.tensor([0.25])).item() == pytest.approx(2 - 0.75 * math.log2(3))
    assert entropy(torch.tensor([0.0, 1.0])).item() < 3e-4
    assert entropy(torch.tensor([0.3])).item() == pytest.approx(entropy(torch.tensor([0.7])).item())


def test_entropy_pushes_opacity_away_from_a_half_and_is_finite_at_the_ends():
    alpha = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], requires_grad=True)
    entropy(alpha).backward()
    assert alpha.grad.isfinite().all()
    assert alpha.grad.sign().tolist() == [0, 1, 0, -1, 0]  # descent goes against the gradient


def test_orientation_is_zero_facing_the_camera_and_the_squared_cosine_facing_away():
    direction = torch.tensor([[0.0, 0.0, 1.0]] * 2)
    normal = torch.tensor([[[0.0, 0, -1], [0.6, 0, 0.8]], [[1.0, 0, 0], [0, 0, 1]]])
    weight = torch.tensor([[0.5, 0.25], [0.3, 0.7]])
    assert orientation(weight, normal, direction).item() == pytest.approx((0.25 * 0.64 + 0.7) / 2)


def test_orientation_turns_normals_and_does_not_hide_surfaces():
    weight = torch.full((1, 1), 0.5, requires_grad=True)
    normal = torch.tensor([[[0.6, 0.0, 0.8]]], requires_grad=True)
    orientation(weight, normal, torch.tensor([[0.0, 0.0, 1.0]])).backward()
    assert weight.grad is None
    torch.testing.assert_close(normal.grad, torch.tensor([[[0.0, 0.0, 2 * 0.5 * 0.8]]]))


def rays() -> Rays:
    return orbit([0.0, 80.0], [20.0, -10.0], radius=1.9, fov_deg=75.0).rays(6, 6).map(lambda part: part.flatten(0, -2))


def test_orientation_of_a_ball_is_zero_from_outside_and_positive_in_a_hollow():
    solid = field_orientation(ball(200.0, radius=0.5, softness=0.02), rays(), samples=96)
    hollow = Formula(lambda p: 200 * torch.sigmoid((torch.linalg.vector_norm(p, dim=-1) - 0.5) / 0.02))
    inside_rays = Rays(
        torch.zeros(40, 3), F.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    )
    assert solid < 1e-3
    # rays from the middle of the hollow meet its wall at a right angle; density rises along them: n = -d
    assert field_orientation(hollow, inside_rays, samples=96) < 1e-3
    # on rays from the middle of a soft ball, which is opaque, all normals face away from the camera
    assert field_orientation(ball(40.0, radius=0.5, softness=0.2), inside_rays, samples=96).item() == pytest.approx(
        1, abs=0.01
    )


def blob_field(dtype: torch.dtype = torch.float32) -> TriplaneField:
    """A decoder as it begins, with the blob of the released code: raw density is -34 and less at the box's corners."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(DecoderConfig(8, width=16, blob=10.0 * 1.75, blob_radius=0.343)).to(dtype)
        return TriplaneField(Triplane(0.1 * torch.randn(3, 8, 16, 16, dtype=dtype)), decoder)


def test_finite_difference_normals_of_a_ball_point_outward():
    points = 0.5 * F.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = finite_difference_normals(ball(200.0, radius=0.5, softness=0.05), points)
    torch.testing.assert_close(found, 2 * points, atol=1e-3, rtol=0)


def test_orientation_with_the_blob_on_is_small_finite_and_never_negative_at_the_start():
    corners = orbit([45.0, 135.0], 35.0, radius=2.0, fov_deg=80.0).rays(8, 8).map(lambda part: part.flatten(0, -2))
    field = blob_field()
    raw = field.density(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    assert raw[0] < 1e-9 < 1 < raw[1]  # the blob is dense
    for generator in (None, torch.Generator().manual_seed(0)):
        assert 0 <= field_orientation(field, corners, generator=generator).item() < 1


def test_orientation_gradient_reaches_the_decoder():
    field = blob_field()
    field_orientation(field, rays()).backward()
    gradients = [parameter.grad for parameter in field.decoder.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) > 0
