"""Fields of stage 2 with and without derivatives."""

import dataclasses

import torch
from ball_views import ball

from instant3d.cameras import Cameras, structured_cameras
from instant3d.pipelines.views_to_3d import ViewsTo3D
from instant3d.stage2.network import Architecture, Reconstructor

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=1,
    heads=2, token_side=4, plane_side=16, channels=12, decoder_width=16, decoder_layers=3, lift_side=16, lift_width=16,
)  # fmt: skip


def test_differentiable_field_is_the_field_and_moves_with_the_cameras():
    torch.manual_seed(0)
    network = Reconstructor(TINY).requires_grad_(False)
    network.precise = True
    model = ViewsTo3D(network)
    views = dataclasses.replace(ball(structured_cameras()), depth=None, normals=None)
    matrix = views.cameras.cam_to_world.clone().requires_grad_()
    field = model.differentiable_field(dataclasses.replace(views, cameras=Cameras(matrix, views.cameras.intrinsics)))
    points = 2 * torch.rand(50, 3) - 1
    torch.testing.assert_close(field.density(points), model.field(views).density(points))
    (slope,) = torch.autograd.grad(field.density(points).sum(), matrix)
    assert slope.isfinite().all()
    assert slope.abs().amax((1, 2)).min() > 0, "every view counts"
