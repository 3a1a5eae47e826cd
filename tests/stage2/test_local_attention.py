"""Local windows of cross-attention: which patches a plane token attends to, and that it attends to those alone."""

import dataclasses

import balls
import pytest
import torch

from instant3d.cameras import Cameras, structured_cameras
from instant3d.modules.transformer import Attention
from instant3d.stage2.local_attention import WINDOW, projection_mask
from instant3d.stage2.network import Architecture, Reconstructor

SIDE, PATCHES = 8, 16  # tokens a side of a plane, patches a side of a view


def token(plane, row, column):
    return (plane * SIDE + row) * SIDE + column


def test_columns_along_z_project_to_upright_lines_of_patches():
    mask = projection_mask(structured_cameras()[None], SIDE, PATCHES, PATCHES)[0].unflatten(-1, (4, PATCHES, PATCHES))
    middle = mask[[token(0, row, column) for row in (3, 4) for column in (3, 4)]]  # plane xy, beside the z axis
    columns = middle.any(2).nonzero()[:, 2]
    assert middle.any(-1).any(-1).all(), "every view shows them"
    assert int((columns - 7.5).abs().ceil().max()) <= 4, "0.18 from the axis and a window around"
    assert middle.any(-1).sum(-1).min() > PATCHES / 2


def test_mask_has_the_patch_that_the_pinhole_equation_names_and_its_neighbours():
    cameras = Cameras(torch.eye(4)[None, None].clone(), torch.tensor([[[1.0, 1.0, 0.5, 0.5]]]))
    cameras.cam_to_world[..., 2, 3] = -3.0  # looks along z from z = -3: a column along z is nearly a point
    mask = projection_mask(cameras, SIDE, PATCHES, PATCHES)[0].unflatten(-1, (PATCHES, PATCHES))
    x, y = (6 + 0.5) / 4 - 1, (1 + 0.5) / 4 - 1
    at = mask[token(0, 1, 6)].nonzero()
    for z in (-0.9, 0.0, 0.9):
        column, row = (int(PATCHES * (0.5 + place / (z + 3))) for place in (x, y))
        assert mask[token(0, 1, 6), row, column]
    near, far = (PATCHES * (0.5 + torch.tensor([y, x]) / depth) for depth in (2.0, 4.0))
    assert (at >= torch.minimum(near, far).floor() - WINDOW // 2).all()
    assert (at <= torch.maximum(near, far).floor() + WINDOW // 2).all()


def test_token_that_no_view_shows_attends_to_everything():
    cameras = structured_cameras()[None]
    away = Cameras(cameras.cam_to_world @ torch.diag(torch.tensor([1.0, -1, -1, 1])), cameras.intrinsics)
    assert projection_mask(away, SIDE, PATCHES, PATCHES).all()
    extra = projection_mask(cameras, SIDE, PATCHES, PATCHES, extra=1).unflatten(-1, (4, -1))
    assert extra[..., 0].all(), "class tokens are attended to"
    assert not extra.all()


def test_masked_attention_equals_attention_to_the_rest_alone():
    torch.manual_seed(0)
    attention = Attention(16, 2, 8)
    tokens, context = torch.randn(1, 3, 16), torch.randn(1, 10, 8)
    mask = torch.rand(1, 3, 10) > 0.5
    found = attention(tokens, context, mask)
    for k in range(3):
        alone = attention(tokens[:, k : k + 1], context[:, mask[0, k]])
        torch.testing.assert_close(found[:, k : k + 1], alone)


def architecture(**changes):
    return Architecture(
        image_size=32, encoder="plucker", encoder_width=32, encoder_depth=0, encoder_heads=2, patch=8, width=32,
        depth=1, heads=2, token_side=4, plane_side=8, channels=6, decoder_width=16, decoder_layers=3, **changes,
    )  # fmt: skip


def test_network_with_local_attention_has_the_same_weights_and_other_planes():
    torch.manual_seed(0)
    everywhere = Reconstructor(architecture()).eval()
    nearby = Reconstructor(architecture(local_attention=True)).eval()
    nearby.load_state_dict(everywhere.state_dict())
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    assert (nearby.triplane(views).planes - everywhere.triplane(views).planes).abs().max() > 1e-4
    nearby.checkpointing = True
    nearby.triplane(views).planes.sum().backward()
    assert nearby.blocks[0].cross.query.weight.grad.abs().max() > 0


def test_local_attention_refuses_another_order_of_planes():
    with pytest.raises(ValueError, match="xy xz yz"):
        dataclasses.replace(architecture(), local_attention=True, plane_order="xy xz zy")
