"""Sizes that no golden set has: sizes come from tensors, and second implementations compute the same."""

import dataclasses

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from golden_sets import FAMILIES, Golden

from instant3d.modules.transformer import Attention, Block
from instant3d.pipelines import convert
from instant3d.pipelines.convert import parts, triposr
from instant3d.pipelines.convert.rules import folded
from instant3d.stage2.encoder import resized_positions
from instant3d.stage2.network import Reconstructor

ODD = {
    "encoder_width": 60, "encoder_depth": 2, "encoder_heads": 5, "encoder_feed": 77, "position_side": 7, "patch": 8,
    "width": 96, "depth": 4, "heads": 3, "feed": 130, "token_side": 5, "plane_side": 20, "channels": 7,
    "decoder_width": 24, "decoder_layers": 6,
}  # fmt: skip


HEADS = {"vit": {"num_attention_heads": 4, "num_heads": 4}, "lrm": {"transformer_heads": 4, "heads": 4}}


def architecture(family):
    tensors = {key.removeprefix("lrm_generator."): value for key, value in Golden(family).weights.items()}
    return convert.to_native(family, tensors, HEADS).architecture


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_architecture_reads_every_size_from_the_tensors(family):
    camera = {"instantmesh": 60, "openlrm": 44, "triposr": 0}[family]
    torch.manual_seed(0)
    odd = Reconstructor(dataclasses.replace(architecture(family), **ODD, camera_width=camera, image_size=40))
    for parameter in odd.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    again = convert.to_native(family, convert.to_original(family, odd), convert.original_config(family, odd))
    assert again.architecture == odd.architecture
    views = Golden(family).views.map(
        lambda tensor: tensor[..., :40, :56] if tensor.shape[-1] > 100 else tensor
    )  # oblong
    with torch.no_grad():
        planes = odd.triplane(views).planes
        torch.testing.assert_close(again.triplane(views).planes, planes, atol=1e-4, rtol=1e-4)
    assert planes.shape == (1, 3, 7, 20, 20)


def test_block_that_is_gated_is_diffusers_own():
    torch.manual_seed(0)
    theirs = BasicTransformerBlock(36, 3, 12, cross_attention_dim=20, activation_fn="geglu").eval()
    ours = Block(36, 3, 20, self_first=True, gated=True, out_bias=True)
    weights = {f"backbone.transformer_blocks.0.{key}": value for key, value in theirs.state_dict().items()}
    small = dataclasses.replace(architecture("triposr"), depth=1)
    rules = [rule for rule in triposr.rules(small) if rule.theirs[0].startswith("backbone.transformer_blocks.0.")]
    mine = {key.removeprefix("blocks.0."): value for key, value in folded(rules, weights).items()}
    ours.load_state_dict(mine)
    tokens, context = torch.randn(2, 9, 36), torch.randn(2, 5, 20)
    torch.testing.assert_close(ours(tokens, context), theirs(tokens, encoder_hidden_states=context))


def test_lrms_attention_is_torchs_own():
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(24, 4, kdim=15, vdim=15, bias=False, batch_first=True)
    ours = Attention(24, 4, 15)
    weights = {f"x.0.cross_attn.{key}": value for key, value in theirs.state_dict().items()}
    rules = [rule for rule in parts.lrm_transformer("x", 1) if rule.theirs[0].startswith("x.0.cross_attn")]
    ours.load_state_dict({key.removeprefix("blocks.0.cross."): value for key, value in folded(rules, weights).items()})
    tokens, context = torch.randn(2, 9, 24), torch.randn(2, 5, 15)
    torch.testing.assert_close(ours(tokens, context), theirs(tokens, context, context)[0])


def test_positions_are_sampled_at_the_places_that_dinos_scale_says():
    """Place i of n is read at (i + 0.5) * side / (n + 0.1) - 0.5: a table that is linear shows where."""
    side, count = 14, 10
    line = torch.arange(side, dtype=torch.float32)
    table = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(1, side * side, 2)
    rows, columns = resized_positions(table, count, 12).unflatten(1, (count, 12))[0].unbind(-1)
    where = (torch.arange(count) + 0.5) * side / (count + 0.1) - 0.5
    assert (rows[2:-2, 5] - where[2:-2]).abs().max() < 0.12, "torch's cubic bends a line a little"
    step = columns[5, 2:-2].diff().mean()
    assert abs(float(step) - side / 12.1) < 0.005
    assert (rows[:, 3] - rows[:, 8]).abs().max() < 1e-5
