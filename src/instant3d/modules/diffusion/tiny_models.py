"""What a small model trained from scratch needs beside SDXL's parts: a vocabulary of its own, and an image tower to
train its text encoders against. Knows nothing of diffusion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instant3d.utils import atomic

START, END = "<|startoftext|>", "<|endoftext|>"
SMALLEST = 2 * 256 + 2  # every byte, within a word and at its end, and the two marks


def train_tokenizer(captions: Iterable[str], folder: str | Path, size: int, max_length: int = 77) -> int:
    """Learn a byte-pair vocabulary of at most `size` tokens and write it as CLIP's (`CLIPTokenizer.from_pretrained`).

    Laid out as CLIP's own: all bytes, all bytes at the end of a word, merges, start mark, end mark; so there is no
    text without tokens. `max_length` counts both marks. The number of tokens is returned.
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
    # every byte at a word's end that occurs takes one of the trainer's places, so that it is given room for all
    trainer = trainers.BpeTrainer(
        vocab_size=count + 2 * len(alphabet),
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer=trainer)
    found = json.loads(backend.to_str())["model"]["merges"]
    return [(first, second) for first, second in found[:count]]


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
    """A CLIP (`transformers.CLIPModel`) of this very text encoder and an untrained image tower of sizes `vision`.

    Training it teaches `encoder` itself, with its projection if it has one (SDXL's second encoder has, and then
    decides the width of the shared space). `pair(input_ids, pixel_values, return_loss=True).loss` is the
    contrastive loss of Radford et al. 2021 between B texts and B pictures.
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
