"""Initial images and latents of sampling, against their formulas."""

import math

import pytest
import torch
from tiny_sdxl import SIZES

from instant3d.modules.diffusion.noise_process import add_noise
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.stage1.grid import unpack
from instant3d.stage1.initial_noise import start_image, start_latents


def dark(kind: str, size: int, sigma: float = 0.1) -> torch.Tensor:
    """How dark each pixel of each tile is, (4, 3, S, S)."""
    return 1 - unpack(start_image(kind, size, sigma))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_blob_is_a_gaussian_of_the_tile(sigma):
    tile = dark("blob", 256, sigma)[3, 1].double()
    line = (torch.arange(128, dtype=torch.float64) + 0.5) / 128 - 0.5
    spread = ((tile * line**2).sum() / tile.sum()).sqrt()
    cut = math.exp(-1 / (8 * sigma**2)) / sigma / math.sqrt(2 * math.pi)  # the part beyond the tile is cut off
    assert spread.item() == pytest.approx(sigma, rel=1e-4 + cut)
    assert tile.max().item() == pytest.approx(1, abs=1e-2)
    # one sigma from the centre, e^(-1/2) of the peak
    assert tile[64, round((0.5 + sigma) * 128)].item() == pytest.approx(math.exp(-0.5), abs=0.05)


def test_blob_is_in_the_middle_of_every_tile():
    tiles = dark("blob", 64)
    assert torch.equal(tiles, tiles[:1].expand(4, 3, 32, 32))
    assert torch.equal(tiles, tiles.flip(-1))
    assert torch.equal(tiles, tiles.mT)
    assert tiles[0, 0, 15:17, 15:17].min() == tiles.max()
    assert start_image("blob", 64)[:, [0, -1]].min() > 0.999, "and white around it"


@pytest.mark.parametrize("size", [64, 96, 256])
@pytest.mark.parametrize("sigma", [0.07, 0.1])
def test_square_darkens_as_much_as_the_blob_at_full_contrast(size, sigma):
    square, blob = dark("square", size, sigma)[0, 0], dark("blob", size, sigma)[0, 0]
    torch.testing.assert_close(square.sum(), blob.sum(), rtol=1e-3, atol=0)
    torch.testing.assert_close(square.mean().item(), 2 * math.pi * sigma**2, rtol=1e-3, atol=0)
    within = square[size // 4]
    assert (within == 1).sum() >= within.sum() - 2, "only its outline is grey"


def test_noise_start_has_no_image():
    assert start_image("noise", 64) is None
    noise = torch.randn(2, 4, 8, 8)
    assert torch.equal(start_latents(None, noise, build_scheduler(SIZES["scheduler"], "ddim")), noise)


@pytest.mark.parametrize(
    ("kind", "size", "sigma", "message"),
    [("ring", 64, 0.1, "got 'ring'"), ("blob", 63, 0.1, "even size"), ("blob", 64, 0.0, "positive sigma")],
)
def test_start_image_refuses_unknown_kinds_and_sizes(kind, size, sigma, message):
    with pytest.raises(ValueError, match=message):
        start_image(kind, size, sigma)


def ready(name: str, steps: int = 10):
    scheduler = build_scheduler({**SIZES["scheduler"], "timestep_spacing": "trailing"}, name)
    scheduler.set_timesteps(steps)
    return scheduler


def test_start_latents_are_the_blob_under_noise_of_the_first_timestep():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # SDXL's
    abar = (1 - betas).prod().float()
    assert abar.sqrt().item() == pytest.approx(0.0683, abs=1e-4)  # 1 / sqrt(1 + 14.61^2)
    clean = torch.randn(4, 8, 8)
    noise = torch.randn(5000, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = start_latents(clean, noise, ready("ddim"))
    torch.testing.assert_close(x, add_noise(clean.expand_as(noise), noise, abar.expand(5000)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x.mean(0), abar.sqrt() * clean, atol=0.06, rtol=0)  # four standard errors
    torch.testing.assert_close(x.var(0).mean(), 1 - abar, rtol=0.01, atol=0)


def test_start_latents_of_ddim_and_euler_are_one_state_in_two_scalings():
    clean, noise = torch.randn(4, 8, 8), torch.randn(3, 4, 8, 8)
    ddim, euler = ready("ddim"), ready("euler")
    abar = ddim.alphas_cumprod[-1]
    torch.testing.assert_close(
        start_latents(clean, noise, euler) * abar.sqrt(), start_latents(clean, noise, ddim), atol=1e-5, rtol=1e-5
    )
