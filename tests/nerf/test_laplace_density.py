"""Density of a signed distance: VolSDF's Laplace distribution, in decoders and their files."""

import math

import pytest
import torch

from instant3d.modules.losses import eikonal_loss, gradient_loss
from instant3d.nerf.baked_field import bake
from instant3d.nerf.compositing import rendering_weights
from instant3d.nerf.mesh_extraction import extract_surface
from instant3d.nerf.triplane import Decoder, DecoderConfig, LaplaceDensity, Triplane, TriplaneField
from instant3d.nerf.triplane_file import read_triplane, write_triplane


@pytest.mark.parametrize("beta", [0.02, 0.5])
def test_laplace_density_is_torchs_cumulative_distribution_over_its_scale(beta):
    inside = torch.linspace(-1, 1, 201)
    expected = torch.distributions.Laplace(0.0, beta).cdf(inside) / beta
    torch.testing.assert_close(LaplaceDensity(beta)(inside), expected, rtol=1e-4, atol=1e-5)


def test_laplace_density_of_a_ball_becomes_a_hard_surface_as_beta_vanishes():
    edges = torch.linspace(0, 4, 4001)
    middle = (edges[1:] + edges[:-1]) / 2
    hit, miss = torch.zeros(4000), torch.full((4000,), 0.6)  # distance of the ray from the centre of a ball of 0.5
    alphas, spreads = [], []
    for beta in (0.1, 0.01, 0.001):
        density = LaplaceDensity(beta)
        inside = 0.5 - torch.stack([(middle - 2).hypot(hit), (middle - 2).hypot(miss)])
        weight = rendering_weights(density(inside), edges).detach()
        alphas.append(weight.sum(-1))
        mean = float((weight[0] * middle).sum() / weight[0].sum())
        spreads.append(abs(mean - 1.5))  # the ray enters the ball at 2 - 0.5
    torch.testing.assert_close(alphas[-1], torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] < 0.005


class Distance:
    """Field whose raw density is a multiple of the distance inside a ball of radius 0.5."""

    def __init__(self, factor):
        self.factor, self.activation = factor, LaplaceDensity(0.02)

    def raw_density(self, points):
        return self.factor * (0.5 - points.norm(dim=-1))

    @torch.no_grad()
    def density(self, points):
        return self.activation(self.raw_density(points))

    def __call__(self, points):
        return self.density(points), torch.full_like(points, 0.5)


def test_eikonal_loss_is_zero_for_a_distance_and_one_for_its_double():
    points = 2 * torch.rand(2, 100, 3, generator=torch.Generator().manual_seed(0)) - 1
    points = points[points.norm(dim=-1) > 0.1][None]
    assert float(eikonal_loss(Distance(1.0), points)) == pytest.approx(0, abs=1e-4)
    assert float(eikonal_loss(Distance(2.0), points)) == pytest.approx(1, abs=1e-2)


def test_surface_of_a_distance_lies_where_the_distance_is_zero():
    surface = extract_surface(Distance(1.0), 48)
    radius = torch.as_tensor(surface.vertices).norm(dim=-1)
    assert float((radius - 0.5).abs().max()) < 0.03


def laplace_decoder(channels=4):
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(channels, 16, 3, density="laplace", density_bias=-0.1))
    with torch.no_grad():
        decoder.density_activation.log_beta.fill_(math.log(0.05))
    return decoder


def test_decoder_with_a_trained_sharpness_is_baked_and_stored_with_it(tmp_path):
    decoder, triplane = laplace_decoder(), Triplane(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)))
    points = 2 * torch.rand(200, 3, generator=torch.Generator().manual_seed(2)) - 1
    field = TriplaneField(triplane, decoder)
    expected = field.density(points).detach()
    torch.testing.assert_close(bake(field, exact=True).density(points), expected, rtol=1e-4, atol=1e-4)
    write_triplane(triplane, decoder, tmp_path / "a.safetensors")
    stored, again = read_triplane(tmp_path / "a.safetensors")
    assert float(again.density_activation.log_beta) == pytest.approx(math.log(0.05), abs=2e-3)
    torch.testing.assert_close(TriplaneField(stored, again).density(points), expected, rtol=0.1, atol=0.1)


def test_gradient_loss_sees_edges_and_no_constant_difference():
    ramp = torch.linspace(0, 1, 11).expand(1, 3, 11, 11)  # 0.1 from pixel to pixel along one axis
    assert float(gradient_loss(ramp + 0.3, ramp)) == pytest.approx(0, abs=1e-6)
    assert float(gradient_loss(ramp, torch.zeros_like(ramp))) == pytest.approx(0.05)
