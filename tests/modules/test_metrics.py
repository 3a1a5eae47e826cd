"""Metrics against closed forms, symmetries and scikit-image."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from instant3d.modules.metrics import chamfer, depth_error, f_score, mask_iou, normal_error, psnr, ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_an_error_of_a_tenth_is_20_db_and_of_a_hundredth_40():
    grey = torch.full((2, 3, 16, 16), 0.5)
    shift = torch.tensor([0.1, -0.01])[:, None, None, None]
    torch.testing.assert_close(psnr(grey + shift, grey), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)


def test_psnr_averages_the_error_before_the_logarithm():
    target = torch.zeros(3, 8, 8)
    shown = target.clone()
    shown[:, :4] = 0.2  # half of the pixels are off by 0.2: mean square 0.02
    assert psnr(shown, target).item() == pytest.approx(-10 * math.log10(0.02), abs=1e-4)


def test_psnr_of_equal_images_is_finite():
    assert psnr(noise(3, 8, 8), noise(3, 8, 8)).item() == 100


@pytest.mark.parametrize("amount", [0.02, 0.3, 1.0])
def test_ssim_agrees_with_scikit_image(amount):
    target = noise(3, 40, 33).cumsum(-1).remainder(1)
    shown = (target + amount * (noise(3, 40, 33, seed=1) - 0.5)).clamp(0, 1)
    theirs = structural_similarity(
        *(np.moveaxis(image.numpy().astype(np.float64), 0, -1) for image in (shown, target)),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=1.0,
    )
    assert ssim(shown, target).item() == pytest.approx(theirs, abs=2e-5)


def test_ssim_of_flat_images_is_its_luminance_term():
    a, b = torch.full((4, 3, 12, 12), 0.8), torch.full((4, 3, 12, 12), 0.2)
    expected = (2 * 0.8 * 0.2 + 1e-4) / (0.8**2 + 0.2**2 + 1e-4)
    torch.testing.assert_close(ssim(a, b), torch.full((4,), expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(ssim(b, b), torch.ones(4))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(noise(3, 10, 40), noise(3, 10, 40))


def test_mask_iou_of_two_half_overlapping_masks_is_a_third():
    a, b = torch.zeros(1, 4, 6), torch.zeros(1, 4, 6)
    a[..., 0:4], b[..., 2:6] = 1, 0.9
    assert mask_iou(a, b).item() == pytest.approx(1 / 3)
    assert mask_iou(a * 0.4, b).item() == 0
    assert mask_iou(a * 0, b * 0).item() == 1


def test_depth_error_compares_only_pixels_where_both_have_a_surface():
    target = torch.tensor([[[2.0, 2.0], [0.0, 3.0]]])
    shown = torch.tensor([[[2.5, 0.0], [9.0, 2.75]]])
    assert depth_error(shown, target).item() == pytest.approx((0.5 + 0.25) / 2)
    assert depth_error(shown, 0 * target).isnan()


def test_chamfer_of_a_plane_of_points_moved_along_its_normal_is_the_step():
    plane = torch.cat([noise(400, 2), torch.zeros(400, 1)], dim=1)
    moved = plane + torch.tensor([0.0, 0.0, 0.03])
    assert chamfer(moved, plane) == pytest.approx(0.03, rel=1e-5)
    assert chamfer(plane, moved) == chamfer(moved, plane)
    assert f_score(moved, plane, 0.031) == 1
    assert f_score(moved, plane, 0.029) == 0


def test_chamfer_and_f_score_count_both_directions():
    reference = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]])
    half = reference[:1]  # exact, but it misses the second point: precision 1, recall 1/2
    assert chamfer(half, reference) == pytest.approx((0 + 0.5) / 2)
    assert f_score(half, reference, 0.01) == pytest.approx(2 / 3)


def test_chamfer_refuses_an_empty_surface():
    with pytest.raises(ValueError, match="points on both sides"):
        chamfer(torch.zeros(0, 3), torch.zeros(1, 3))


def test_normal_error_is_the_angle_between_normals_where_both_are_known():
    up = torch.tensor([0.0, 0.0, 1.0])
    tilted = torch.tensor([0.5, 0.0, 3**0.5 / 2])  # by 30 degrees
    rendered = torch.stack([up, tilted, 2 * up, 0 * up], -1)[:, None]  # (3, 1, 4): a row of four pixels
    target = torch.stack([up, up, -up, up], -1)[:, None]
    assert normal_error(rendered, target).item() == pytest.approx((0 + 30 + 180) / 3, abs=0.05)
    assert normal_error(0 * rendered, target).isnan()
