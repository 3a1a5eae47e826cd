"""Views that pass a VAE: which of them change, and to what."""

from types import SimpleNamespace

import pytest
import torch
from balls import position_coloured_ball
from tiny_sdxl import tiny_sdxl_folder
from torch import nn
from torch.nn import functional as F

from instant3d.cameras import structured_cameras
from instant3d.modules import vae_blur
from instant3d.modules.vae_blur import VaeBlur
from instant3d.views import Views


class Halving(nn.Module):
    """A VAE whose latents are the image at half its side."""

    def encode(self, images):
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: F.avg_pool2d(images, 2)))

    def decode(self, latents, return_dict):
        return (F.interpolate(latents, scale_factor=2),)


@pytest.fixture
def blur(monkeypatch):
    """Makes a `VaeBlur` with that VAE."""
    monkeypatch.setattr(vae_blur.Components, "load", lambda source, parts: SimpleNamespace(vae=Halving()))
    return lambda probability: VaeBlur("anything", probability)


def objects(count):
    return Views.stack([position_coloured_ball(structured_cameras(), size=32)] * count)


def test_vae_blur_decodes_the_views_on_white_and_keeps_alpha_and_cameras(blur):
    views = objects(1)
    found = blur(1.0)(views, torch.Generator().manual_seed(0))
    expected = F.interpolate(F.avg_pool2d(views.composite(1.0)[0], 2), scale_factor=2)
    solid = (views.alpha[0] == 1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found.rgb[0][solid], expected[solid])
    assert torch.equal(found.rgb[0][~solid], views.rgb[0][~solid])
    assert torch.equal(found.alpha, views.alpha)
    assert torch.equal(found.cameras.cam_to_world, views.cameras.cam_to_world)


def test_vae_blur_changes_all_views_of_its_share_of_the_objects(blur):
    views = objects(100)
    found = blur(0.3)(views, torch.Generator().manual_seed(0))
    changed = (found.rgb != views.rgb).flatten(2).any(2)
    assert torch.equal(changed.any(1), changed.all(1))
    assert 15 < int(changed.all(1).sum()) < 45


@pytest.mark.slow
def test_vae_blur_takes_the_vae_of_a_model_and_trains_none_of_it(tmp_path):
    blur = VaeBlur(str(tiny_sdxl_folder(tmp_path)), 1.0)
    found = blur(objects(1), torch.Generator().manual_seed(0))
    assert found.rgb.shape == (1, 4, 3, 32, 32)
    assert not [parameter for parameter in blur.parameters() if parameter.requires_grad]
    assert blur.state_dict() == {}


def test_vae_blur_refuses_a_probability_above_one(blur):
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5"):
        blur(1.5)
