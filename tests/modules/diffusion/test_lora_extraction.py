"""LoRA weights from the change of a whole UNet: changes of known rank, and numpy's singular values."""

import copy

import numpy as np
import pytest
import torch
from tiny_sdxl import tiny_sdxl

from instant3d.modules.diffusion.lora import Lora, fuse
from instant3d.modules.diffusion.lora_extraction import extract_lora, save_extracted
from instant3d.modules.diffusion.lora_names import lora_layers

pytestmark = pytest.mark.slow

LAYERS = ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.1.conv1")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return tiny_sdxl(tmp_path_factory.mktemp("tokenizer"))


def changed(unet, rank, layers=None):
    """A copy of a UNet whose layers have changed by random matrices of a rank."""
    after, random = copy.deepcopy(unet), torch.Generator().manual_seed(0)
    for path, layer in lora_layers(after):
        if layers is None or path in layers:
            rows = layer.weight.detach().flatten(1)
            up, down = (torch.randn(*shape, generator=random) for shape in ((len(rows), rank), (rank, rows.shape[1])))
            layer.weight.data += 0.1 * (up @ down).reshape(layer.weight.shape)
    return after


def test_change_of_low_rank_is_extracted_and_fused_again(untouched, tmp_path):
    after = changed(untouched.unet, 2)
    tensors, share = extract_lora(untouched.unet, after, 2)
    assert share == pytest.approx(1.0, abs=1e-4)
    save_extracted(tensors, tmp_path)
    fused = copy.deepcopy(untouched)
    fuse(fused, Lora(str(tmp_path)))
    torch.testing.assert_close(dict(fused.unet.state_dict()), dict(after.state_dict()), atol=3e-3, rtol=3e-3)


def test_share_is_that_of_the_first_singular_values(untouched):
    after = changed(untouched.unet, 5, LAYERS)
    tensors, share = extract_lora(untouched.unet, after, 3)
    assert {name.rsplit(".", 2)[0] for name in tensors} == {f"unet.{path}" for path in LAYERS}
    kept = total = 0.0
    for path in LAYERS:
        before, now = (unet.get_submodule(path).weight.detach().flatten(1) for unet in (untouched.unet, after))
        squares = np.linalg.svd((now - before).numpy(), compute_uv=False) ** 2
        kept, total = kept + squares[:3].sum(), total + squares.sum()
    assert 0.3 < share < 0.99
    assert share == pytest.approx(kept / total, rel=1e-4)


def test_unchanged_network_has_no_lora(untouched):
    assert extract_lora(untouched.unet, copy.deepcopy(untouched.unet), 4) == ({}, 1.0)


def test_rank_below_one_is_refused(untouched):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        extract_lora(untouched.unet, untouched.unet, 0)
