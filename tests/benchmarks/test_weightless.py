"""Costs found without weights, beside counts by hand and by another way of counting."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.sdxl import building, step
from benchmarks.weightless import cost
from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.sdxl import SIZES

pytestmark = pytest.mark.slow

BATCH, TEXT, WIDE = 2, 77, 2048  # a guided step: with the prompt and without; tokens of text and their width


def nothing(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


@pytest.fixture(scope="module")
def unet():
    with building("meta", torch.bfloat16):
        return build_part("unet", SIZES["unet"])


@pytest.mark.parametrize(("where", "tokens", "width"), [("down", 64 * 64, 640), ("mid", 32 * 32, 1280)])
def test_cost_of_a_transformer_block_is_what_its_formula_says(unet, where, tokens, width):
    side = unet.down_blocks[1] if where == "down" else unet.mid_block
    block = side.attentions[0].transformer_blocks[0]
    found = cost(block, lambda: block(nothing(BATCH, tokens, width), encoder_hidden_states=nothing(BATCH, TEXT, WIDE)))
    within = 4 * tokens * width**2 + 2 * tokens**2 * width  # four projections, scores, sum of values
    across = 2 * tokens * width**2 + 2 * TEXT * WIDE * width + 2 * tokens * TEXT * width
    forward = tokens * width * 8 * width + tokens * 4 * width * width  # gated: twice four times as wide, and back
    assert found.operations == 2 * BATCH * (within + across + forward)
    attention = 2 * tokens**2 * width
    assert found.shares["attention"] == pytest.approx(attention / (within + across + forward), rel=0.1)


def test_cost_of_a_residual_block_is_what_its_formula_says(unet):
    block, side = unet.down_blocks[1].resnets[0], 64
    found = cost(block, lambda: block(nothing(BATCH, 320, side, side), nothing(BATCH, 1280)))
    maps = side**2 * (9 * 320 * 640 + 9 * 640 * 640 + 320 * 640)  # two convolutions and a shortcut
    assert found.operations == 2 * BATCH * (maps + 1280 * 640)
    assert found.shares["convolution"] == pytest.approx(maps / (maps + 1280 * 640))


@pytest.fixture(scope="module")
def whole(unet):
    """The cost of a step of the whole UNet, the operations that its layers count, and its attentions."""
    counted = 0

    def layer(module, _, result):
        nonlocal counted
        inputs = module.weight[0].numel()  # products for each number of the result
        counted += 2 * result.numel() * inputs

    def attention(module, inputs, keywords, _):
        nonlocal counted
        seen = inputs[0] if inputs else keywords["hidden_states"]
        other = keywords.get("encoder_hidden_states")
        counted += 4 * seen.numel() * (seen if other is None else other).shape[1]

    hooks = [each.register_forward_hook(layer) for each in unet.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    attentions = [each for name, each in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    hooks += [each.register_forward_hook(attention, with_kwargs=True) for each in attentions]
    found = cost(unet, step(unet))
    for hook in hooks:
        hook.remove()
    return found, counted, attentions


def test_cost_of_the_whole_unet_is_the_sum_of_its_layers(whole):
    found, counted, attentions = whole
    assert len(attentions) == 2 * (2 * 2 + 2 * 10 + 10 + 3 * 10 + 3 * 2)  # down, down, middle, up, up
    assert found.operations == counted
    assert found.weights == 2 * 2_567_463_684


def test_cost_in_operations_and_memory_grows_with_the_number_of_grids(unet, whole):
    one, four = whole[0], cost(unet, step(unet, grids=4))
    assert four.operations == 4 * one.operations
    assert four.activations == pytest.approx(4 * one.activations, rel=0.01)


def test_cost_in_memory_of_results_counts_as_long_as_they_are_needed():
    numbers = nothing(1000, dtype=torch.float32)
    chain = nn.Sequential(*(nn.ReLU() for _ in range(5)))
    assert cost(chain, lambda: chain(numbers)).activations == 2 * 4000  # what is read and what is written
    assert cost(chain, lambda: [numbers + k for k in range(5)]).activations == 5 * 4000
    assert cost(chain, lambda: torch.relu_(numbers)).activations == 0
    assert cost(chain, lambda: numbers.view(10, 100).T).activations == 0


def test_cost_in_memory_of_activations_does_not_contain_weights():
    with torch.device("meta"):
        layer = nn.Linear(100, 50, bias=False)
    rows = nothing(3, 100, dtype=torch.float32)
    found = cost(layer, lambda: layer(rows))
    assert (found.operations, found.weights, found.activations) == (2 * 3 * 100 * 50, 4 * 100 * 50, 4 * 3 * 50)


@pytest.mark.parametrize("tokens", [128, 4096])
def test_cost_of_attention_counts_its_matrix_as_work_but_not_as_memory(tokens):
    q = nothing(1, 2, tokens, 64)
    found = cost(nn.Identity(), lambda: F.scaled_dot_product_attention(q, q, q))
    assert found.operations == 4 * 2 * tokens**2 * 64
    matrix, result = 2 * 2 * tokens**2, q.nbytes
    if tokens == 4096:
        assert result <= found.activations < 1.2 * result < matrix


def test_cost_that_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="found on the meta device"):
        cost(nn.Linear(2, 2), lambda: None)
    q, mask = nothing(1, 2, 4096, 64), nothing(4096, 4096)
    with pytest.raises(ValueError, match="mask is not known to be fused"):
        cost(nn.Identity(), lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
