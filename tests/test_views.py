"""Views: blending and resizing against closed forms; a resized image must still agree with its camera."""

import pytest
import torch

from instant3d.cameras import Cameras, orbit, structured_cameras
from instant3d.views import Views


def views(height: int = 4, width: int = 4, **extra: torch.Tensor) -> Views:
    generator = torch.Generator().manual_seed(0)
    rgb, alpha = (
        torch.rand(4, 3, height, width, generator=generator),
        torch.rand(4, 1, height, width, generator=generator),
    )
    return Views(rgb, alpha, structured_cameras(), **extra)


def test_composite_blends_straight_colour_with_the_background():
    red = Views(
        torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), torch.full((1, 1, 1, 1), 0.25), structured_cameras()[:1]
    )
    assert red.composite(1.0).flatten().tolist() == [1.0, 0.75, 0.75]
    assert red.composite(torch.tensor([[0.0, 0.0, 1.0]])).flatten().tolist() == [0.25, 0.0, 0.75]


@pytest.mark.parametrize("side", [1, 3, 8])
def test_resized_keeps_a_constant_image_constant(side):
    flat = Views(torch.full((4, 3, 4, 4), 0.3), torch.full((4, 1, 4, 4), 0.6), structured_cameras()).resized(side, side)
    torch.testing.assert_close(flat.rgb, torch.full((4, 3, side, side), 0.3))
    torch.testing.assert_close(flat.alpha, torch.full((4, 1, side, side), 0.6))


def test_resized_smaller_keeps_a_linear_ramp_where_it_was():
    """Pixel centres (i + 0.5) / W: a ramp u over the image is still u at the new pixels' centres, edges apart."""
    u = (torch.arange(32) + 0.5) / 32
    ramp = Views(u.expand(1, 3, 32, 32), torch.ones(1, 1, 32, 32), structured_cameras()[:1]).resized(8, 8)
    torch.testing.assert_close(ramp.rgb[0, 0, 4, 2:6], (torch.arange(2, 6) + 0.5) / 8, atol=1e-5, rtol=0)


def test_resized_lets_no_colour_of_invisible_pixels_bleed_into_the_object():
    rgb = torch.zeros(1, 3, 4, 4)
    rgb[..., :2] = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    rgb[:, 1, :, 2:] = 1.0  # green, but unseen
    alpha = (torch.arange(4) < 2).float().expand(1, 1, 4, 4)
    small = Views(rgb, alpha, structured_cameras()[:1]).resized(1, 1)
    torch.testing.assert_close(small.alpha.item(), 0.5, atol=1e-5, rtol=0)
    torch.testing.assert_close(small.rgb.flatten(), torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_resized_then_composite_is_composite_then_resized():
    original = views(16, 16)
    small = original.resized(4, 4)
    opaque = Views(original.composite(0.5), torch.ones_like(original.alpha), original.cameras).resized(4, 4)
    torch.testing.assert_close(small.composite(0.5), opaque.rgb, atol=1e-5, rtol=0)


def test_resized_picks_depth_and_normals_without_averaging():
    depth = torch.where(torch.arange(8) < 4, 2.0, 0.0).expand(4, 1, 8, 8)
    normals = torch.nn.functional.normalize(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    small = views(8, 8, depth=depth, normals=normals).resized(5, 5)
    assert set(small.depth.unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(small.normals.norm(dim=1), torch.ones(4, 5, 5))


def test_resized_shows_a_point_at_the_same_place():
    """A bright blob drawn where the camera projects a point must still be there, in fractions, in the small image."""
    camera = orbit(torch.tensor([30.0]), 20.0)
    image, _ = camera.project(torch.tensor([[[0.4, 0.3, 0.2]]]))
    u, v = ((torch.arange(64) + 0.5) / 64 for _ in range(2))
    blob = torch.exp(-((u[None] - image[0, 0, 0]) ** 2 + (v[:, None] - image[0, 0, 1]) ** 2) / (2 * 0.08**2))
    small = Views(torch.ones(1, 3, 64, 64), blob[None, None], camera).resized(16, 24)
    weight = small.alpha[0, 0]
    across, down = ((torch.arange(n) + 0.5) / n for n in (24, 16))
    centre = torch.stack([(weight.sum(0) * across).sum(), (weight.sum(1) * down).sum()]) / weight.sum()
    torch.testing.assert_close(centre, image[0, 0], atol=5e-3, rtol=0)


def test_resized_to_the_same_size_gives_the_same_views():
    original = views()
    assert original.resized(4, 4) is original


@pytest.mark.parametrize("lead", [(), (2,), (2, 4)])
def test_resized_accepts_any_leading_shape(lead):
    eye = Cameras(torch.eye(4).expand(*lead, 4, 4), torch.ones(*lead, 4))
    original = Views(torch.rand(*lead, 3, 6, 6), torch.rand(*lead, 1, 6, 6), eye, torch.rand(*lead, 1, 6, 6))
    small = original.resized(2, 3)
    assert small.rgb.shape == (*lead, 3, 2, 3)
    assert small.depth.shape == (*lead, 1, 2, 3)


def test_views_refuse_images_without_matching_cameras():
    with pytest.raises(ValueError, match=r"views of shape \(3,\) came with cameras of shape \(4,\)"):
        Views(torch.rand(3, 3, 2, 2), torch.rand(3, 1, 2, 2), structured_cameras())


def test_views_refuse_alpha_of_another_size():
    with pytest.raises(ValueError, match="views need rgb"):
        Views(torch.rand(4, 3, 2, 2), torch.rand(4, 1, 3, 2), structured_cameras())
