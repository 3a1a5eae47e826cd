"""Image encoders against timm and against the symmetries of geometry."""

import pytest
import timm
import torch

from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.stage2.encoder import IMAGENET_MEAN, IMAGENET_STD, DinoEncoder, PluckerEncoder, camera_vector, plucker
from instant3d.views import Views

TINY = {"embed_dim": 48, "depth": 3, "num_heads": 3, "patch_size": 16}


def some_views(count=3, size=64, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cameras = random_sphere(batch * count, generator)
    cameras = cameras.map(lambda tensor: tensor.unflatten(0, (batch, count)))
    shape = (batch, count)
    return Views(
        torch.rand(*shape, 3, size, size, generator=generator),
        torch.rand(*shape, 1, size, size, generator=generator),
        cameras,
    )


@pytest.mark.parametrize("size", [224, 64, 96])
def test_dino_encoder_with_zero_modulation_gives_exactly_timms_tokens(size):
    torch.manual_seed(0)
    encoder = DinoEncoder(**TINY).eval()
    independent = timm.create_model("vit_base_patch16_224.dino", num_classes=0, dynamic_img_size=True, **TINY).eval()
    independent.load_state_dict(encoder.vit.state_dict())
    views = some_views(count=2, size=size)
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    images = ((views.composite(1.0) - mean) / std).flatten(0, 1)
    expected = independent.forward_features(images).unflatten(0, (2, 2)).flatten(1, 2)
    assert torch.equal(encoder(views), expected)


def test_dino_encoder_modulation_makes_tokens_depend_on_their_own_camera_only():
    torch.manual_seed(0)
    encoder = DinoEncoder(**TINY).eval()
    for modulation in encoder.modulations:
        torch.nn.init.normal_(modulation.linear.weight, std=0.1)
    views = some_views()
    matrix = views.cameras.cam_to_world.clone()
    matrix[:, 1, :3, 3] += 0.5
    moved = Views(views.rgb, views.alpha, Cameras(matrix, views.cameras.intrinsics))
    change = (encoder(moved) - encoder(views)).abs().amax(-1).unflatten(1, (3, -1)).amax((0, 2))
    assert change[1] > 1e-3
    assert change[0] == change[2] == 0


def test_dino_encoder_keeps_pretrained_weights_at_its_zero_start():
    encoder = DinoEncoder(**TINY)
    assert all(parameter.abs().max() == 0 for parameter in encoder.modulations.parameters())
    assert encoder.vit.patch_embed.proj.weight.abs().max() > 0


def test_dino_encoder_orders_tokens_by_view():
    torch.manual_seed(0)
    encoder = DinoEncoder(**TINY).eval()
    views = some_views()
    backwards = encoder(views[:, [2, 1, 0]]).unflatten(1, (3, -1)).flip(1).flatten(1, 2)
    torch.testing.assert_close(backwards, encoder(views))


def test_plucker_coordinates_are_the_same_for_every_point_on_the_ray():
    views = some_views()
    moment, direction = plucker(views).split(3, dim=2)
    rays = views.cameras.rays(views.height, views.width)
    elsewhere = (rays.origins + 3.7 * rays.directions).movedim(-1, 2)
    torch.testing.assert_close(moment, torch.linalg.cross(elsewhere, direction, dim=2), atol=1e-5, rtol=1e-5)
    assert (moment * direction).sum(2).abs().max() < 1e-6


def test_plucker_encoder_does_not_depend_on_the_order_of_views():
    torch.manual_seed(0)
    encoder = PluckerEncoder(width=32, depth=2, heads=2, patch=16).eval()
    views = some_views(count=5)
    order = [3, 1, 4, 0, 2]
    shuffled = encoder(views[:, order]).unflatten(1, (5, -1))
    torch.testing.assert_close(shuffled, encoder(views).unflatten(1, (5, -1))[:, order], atol=1e-5, rtol=1e-4)


def test_camera_vector_of_a_structured_view_is_its_matrix_and_intrinsics():
    vector = camera_vector(structured_cameras())
    assert vector.shape == (4, 16)
    position = vector[:, [3, 7, 11]]
    torch.testing.assert_close(position.norm(dim=-1), torch.full((4,), 2.7))
    torch.testing.assert_close(vector[:, 12:], torch.tensor([1.0723, 1.0723, 0.5, 0.5]).expand(4, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [lambda: DinoEncoder(**TINY), lambda: PluckerEncoder(32, 1, 2, 16)])
def test_check_patches_refuses_a_size_that_patches_do_not_divide(make):
    with pytest.raises(ValueError, match="50 x 50"):
        make()(some_views(size=50))
