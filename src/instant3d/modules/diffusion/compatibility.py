"""Checks that the components of a diffusion model fit together, from their configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check(parts: Mapping[str, Any], source: str) -> None:
    """Check that the components of an SDXL fit together.

    Args:
        parts: Components by name (`unet`, `vae`, `text_encoder`, ...); those that are None are not checked.
        source: Folder, file or Hub id that they came from, for the message.

    Raises:
        ValueError: Channels, token widths, text summary or vocabulary of two components differ, or the UNet is no
            SDXL's.
    """
    unet = parts["unet"]
    if unet is not None:
        _check_unet(unet.config, source)
        _check_latents(unet.config, parts["vae"], source)
        _check_text(unet.config, parts["text_encoder"], parts["text_encoder_2"], source)
    for suffix in ("", "_2"):
        check_tokens(parts["tokenizer" + suffix], parts["text_encoder" + suffix], source)


def check_single(parts: Mapping[str, Any], source: str) -> None:
    """Check the components of a Stable Diffusion 1 or 2, which has one text encoder and no added conditions.

    Args:
        parts: Components by name; none may be None.
        source: Folder or Hub id that they came from, for the message.

    Raises:
        ValueError: Two components do not fit together.
    """
    unet, encoder = parts["unet"].config, parts["text_encoder"]
    _check_latents(unet, parts["vae"], source)
    if unet.cross_attention_dim != encoder.config.hidden_size:
        raise ValueError(
            f"the UNet of {source} reads {unet.cross_attention_dim} numbers a token, but its text encoder gives "
            f"{encoder.config.hidden_size}; take them from one model"
        )
    check_tokens(parts["tokenizer"], encoder, source)


def _check_unet(unet: Any, source: str) -> None:
    if unet.addition_embed_type != "text_time":
        raise ValueError(
            f"the UNet of {source} takes no sizes and text summary (addition_embed_type is "
            f"{unet.addition_embed_type!r}, not 'text_time'), so it is not an SDXL; give another model"
        )


def _check_latents(unet: Any, vae: Any, source: str) -> None:
    if vae is not None and not unet.in_channels == unet.out_channels == vae.config.latent_channels:
        raise ValueError(
            f"the UNet of {source} works on {unet.in_channels} channels and predicts {unet.out_channels}, but its "
            f"VAE has {vae.config.latent_channels}; take both from one model"
        )


def _check_text(unet: Any, first: Any, second: Any, source: str) -> None:
    if first is None or second is None:
        return
    width = first.config.hidden_size + second.config.hidden_size
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"the UNet of {source} reads {unet.cross_attention_dim} numbers a token, but its text encoders give "
            f"{width}; take them from one model"
        )
    summary = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
    if summary != second.config.projection_dim:
        raise ValueError(
            f"the UNet of {source} reads a text summary of {summary} numbers, but its second text encoder gives "
            f"{second.config.projection_dim}; take them from one model"
        )


def check_tokens(tokenizer: Any, encoder: Any, source: str) -> None:
    """Check that a text encoder has a position and an embedding for every token that the tokenizer can give.

    Args:
        tokenizer: A CLIP tokenizer; None is not checked.
        encoder: Its text encoder; None is not checked.
        source: Folder or Hub id that they came from, for the message.

    Raises:
        ValueError: The tokenizer's maximal length or vocabulary is larger than the encoder's.
    """
    if tokenizer is None or encoder is None:
        return
    if tokenizer.model_max_length > encoder.config.max_position_embeddings:
        raise ValueError(
            f"a tokenizer of {source} gives up to {tokenizer.model_max_length} tokens, but its text encoder reads "
            f"{encoder.config.max_position_embeddings}; set model_max_length in tokenizer_config.json"
        )
    if len(tokenizer) > encoder.config.vocab_size:
        raise ValueError(
            f"a tokenizer of {source} has {len(tokenizer)} tokens, but its text encoder {encoder.config.vocab_size}; "
            "take both from one model"
        )
