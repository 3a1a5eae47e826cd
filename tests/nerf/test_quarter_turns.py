"""Turned assets against the definition of a rotation: the same field at turned points."""

import pytest
import torch

from instant3d.cameras import orbit
from instant3d.nerf.asset import Asset
from instant3d.nerf.quarter_turns import turned
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane
from instant3d.views import Views

QUARTER = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y


def asset(aggregate="concat"):
    generator = torch.Generator().manual_seed(0)
    planes = torch.randn(3, 4, 6, 6, generator=generator)
    views = Views(torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4), orbit([10.0, 120.0], 20.0))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        decoder = Decoder(DecoderConfig(4, width=8, layers=3, aggregate=aggregate))
    return Asset(Triplane(planes), decoder, views=views)


@pytest.mark.parametrize("aggregate", ["concat", "mean"])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1, 5])
def test_turned_field_is_the_same_at_turned_points(aggregate, quarters):
    before, points = asset(aggregate), torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    rotation = torch.linalg.matrix_power(QUARTER, quarters % 4)
    density, rgb = before.field(points)
    density_after, rgb_after = turned(before, quarters).field(points @ rotation.T)
    torch.testing.assert_close(density_after, density, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rgb_after, rgb, atol=1e-5, rtol=1e-5)


def test_turned_cameras_are_those_at_the_turned_azimuths():
    cameras = turned(asset(), 3).views.cameras
    torch.testing.assert_close(cameras.cam_to_world, orbit([280.0, 30.0], 20.0).cam_to_world, atol=1e-6, rtol=0)
