"""Parts of a small SDXL trained from scratch: a byte-pair tokenizer and a CLIP to train its text encoders in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instant3d.utils import atomic

START, END = "<|startoftext|>", "<|endoftext|>"
SMALLEST = 2 * 256 + 2  # every byte, within a word and at its end, and the two marks


def train_tokenizer(captions: Iterable[str], folder: str | Path, size: int, max_length: int = 77) -> int:
    """Train a byte-pair tokenizer and write it in the files of `CLIPTokenizer.from_pretrained`.

    The order of tokens is CLIP's: all bytes, all bytes at the end of a word, merges, start mark, end mark. Since every
    byte is a token, every text can be tokenized.

    Args:
        captions: Training texts.
        folder: Where vocab.json, merges.txt and tokenizer_config.json are written.
        size: Most tokens, at least 514 (all bytes twice, and both marks).
        max_length: Most tokens of a prompt with both marks, at least 3.

    Returns:
        The number of tokens.

    Raises:
        ValueError: `size` or `max_length` is too small.
    """
    if size < SMALLEST:
        raise ValueError(f"a vocabulary needs at least {SMALLEST} tokens (bytes and marks), got {size}")
    if max_length < 3:
        raise ValueError(f"a maximal length of {max_length} leaves no room between the two marks; give at least 3")
    merges = _merges(captions, size - SMALLEST)
    vocabulary = _vocabulary(merges)
    with atomic.merged(folder) as partial:
        _write(partial, "vocab.json", vocabulary)
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (partial / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _write(partial, "tokenizer_config.json", _settings(max_length))
    return len(vocabulary)


def _merges(captions: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The first `count` pairs that byte-pair encoding joins, in text split as CLIP splits it."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = CLIPTokenizer().backend_tokenizer
    # every byte that occurs at a word's end uses up one entry of the trainer's vocabulary: leave room for all of them
    trainer = trainers.BpeTrainer(
        vocab_size=count + 2 * len(alphabet),
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer=trainer)
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges[:count]]


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _settings(max_length: int) -> dict[str, Any]:
    marks = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    return {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, **marks}


def _write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def clip_pair(encoder: Any, vision: Mapping[str, Any]) -> Any:
    """Build a CLIP (`transformers.CLIPModel`) around a text encoder and an untrained image encoder.

    The text encoder is not copied: training the CLIP trains it, with its projection if it has one (as SDXL's second
    encoder has). `pair(input_ids, pixel_values, return_loss=True).loss` is the contrastive loss of Radford et al. 2021
    between B texts and B images.

    Args:
        encoder: A CLIP text encoder; its `projection_dim` is the width of the shared space.
        vision: Settings of the image encoder (`transformers.CLIPVisionConfig`).
    """
    from transformers import CLIPConfig, CLIPModel

    width = encoder.config.projection_dim
    text = {**encoder.config.to_dict(), "projection_dim": width}
    pair = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**vision, "projection_dim": width}, projection_dim=width)
    )
    pair.text_model = getattr(encoder, "text_model", encoder)
    if hasattr(encoder, "text_projection"):
        pair.text_projection = encoder.text_projection
    return pair
