"""Allowed ranges of the settings of third-party networks, checked before memory is allocated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDTH, LAYERS, HEADS, IMAGE = (1, 65536), (1, 256), (1, 65536), (1, 8192)
RANGES = {
    # of text encoders
    "hidden_size": WIDTH,
    "intermediate_size": (1, 262144),
    "projection_dim": WIDTH,
    "num_hidden_layers": (0, LAYERS[1]),  # none: the direct system may read word vectors alone
    "num_attention_heads": HEADS,
    "vocab_size": (1, 4_000_000),
    "max_position_embeddings": (1, 65536),
    # of UNet and VAE
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "block_out_channels": WIDTH,
    "layers_per_block": LAYERS,
    "transformer_layers_per_block": LAYERS,
    "reverse_transformer_layers_per_block": LAYERS,
    "attention_head_dim": HEADS,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": (1, 4096),
    "norm_eps": (0, 1),
    "sample_size": IMAGE,
    "latent_channels": (1, 4096),
    "time_embedding_dim": WIDTH,
    "addition_time_embed_dim": WIDTH,
    "projection_class_embeddings_input_dim": WIDTH,
    "num_class_embeds": (1, 1_000_000),
    "scaling_factor": (-1e6, 1e6),
}
MAX_BLOCKS = 16  # entries of one list


def check_sizes(config: Mapping[str, Any], where: object) -> None:
    """Check that every number in a network's settings lies in its allowed range.

    Args:
        config: Settings of a network, as its config.json holds them.
        where: File or part that they came from, for the message.

    Raises:
        ValueError: Names the setting, its value and its range.
    """
    for name, (low, high) in RANGES.items():
        for value in _numbers(config.get(name), f"{where}: {name}"):
            if type(value) not in (int, float) or not low <= value <= high:
                raise ValueError(f"{where}: {name} must lie from {low} to {high}, got {value!r}")
    for name in ("down_block_types", "up_block_types"):
        _numbers_of(config.get(name, ()), f"{where}: {name}")


def _numbers(value: Any, where: str, depth: int = 0) -> Iterator[Any]:
    """Yield a value, or those of a list, which may hold lists; nothing for None, which stands for the default."""
    if isinstance(value, list | tuple) and depth < 2:
        for part in _numbers_of(value, where):
            yield from _numbers(part, where, depth + 1)
    elif value is not None:
        yield value


def _numbers_of(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > MAX_BLOCKS:
        raise ValueError(f"{where} must be a list of at most {MAX_BLOCKS}, got {str(value)[:80]}")
    return list(value)
