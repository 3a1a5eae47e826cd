"""Settings of third-party networks that would take unbounded memory are refused before anything is built."""

import pytest

from instant3d.modules.diffusion.sizes import check_sizes

# SDXL's own, as published
SDXL = {
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "time_embedding_dim": None,
}


def test_check_sizes_accepts_published_settings():
    check_sizes(SDXL, "unet")
    check_sizes({"hidden_size": 1280, "num_hidden_layers": 32, "vocab_size": 49408, "projection_dim": 1280}, "text")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", 10_000_000),
        ("num_attention_heads", 0),
        ("hidden_size", -4),
        ("layers_per_block", 10**7),
        ("transformer_layers_per_block", [1, [2, 10**7]]),
        ("block_out_channels", [320, -1]),
        ("norm_num_groups", 0),
        ("sample_size", "128"),
        ("norm_eps", float("nan")),
    ],
)
def test_check_sizes_names_a_number_outside_its_range(name, value):
    with pytest.raises(ValueError, match=rf"unet: {name} must lie from"):
        check_sizes(SDXL | {name: value}, "unet")


def test_check_sizes_refuses_a_list_of_very_many_blocks():
    with pytest.raises(ValueError, match="list of at most 16"):
        check_sizes(SDXL | {"block_out_channels": [32] * 1000}, "unet")
