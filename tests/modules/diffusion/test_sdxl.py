"""SDXL's released sizes, built on the meta device: parameter counts are the published ones."""

import pytest
import torch

from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.sdxl import SIZES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("unet", 2_567_463_684),
        ("vae", 83_653_863),
        ("text_encoder", 123_060_480),
        ("text_encoder_2", 694_659_840),
    ],
)
def test_sdxl_component_has_as_many_parameters_as_the_released_one(name, count):
    with torch.device("meta"):
        network = build_part(name, SIZES[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_sdxl_noise_at_the_last_timestep_is_14_6_times_the_signal():
    last = build_part("scheduler", SIZES["scheduler"]).alphas_cumprod[-1]
    assert ((1 - last) / last).sqrt() == pytest.approx(14.6146, abs=1e-3)
