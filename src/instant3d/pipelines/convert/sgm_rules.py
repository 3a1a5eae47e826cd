"""Conversion rules of an SDXL in the layout of Stability AI's own code (SGM) to diffusers' and transformers' networks.

Each rule follows from one of our keys, so that a network built by `sgm_sizes` decides which tensors there must be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from instant3d.pipelines.convert.rules import Rule, renamed
from instant3d.pipelines.convert.sgm_sizes import FIRST_STAGE, TEXT, TEXT_2, UNET

UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
RESIDUAL_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_NAMES = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
OPEN_CLIP_NAMES = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "final_layer_norm": "ln_final",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def sdxl_rules(networks: Mapping[str, Any]) -> dict[str, list[Rule]]:
    """Rules of each network, whose keys are those of its own `state_dict`; the networks may be on the meta device."""
    keys = {name: list(network.state_dict()) for name, network in networks.items()}
    unet, vae = networks["unet"].config, networks["vae"].config
    return {
        "unet": [renamed(key, UNET + _unet_name(key, unet.layers_per_block, unet)) for key in keys["unet"]],
        "vae": [_vae_rule(key, len(vae.block_out_channels)) for key in keys["vae"]],
        "text_encoder": [renamed(key, TEXT + key.removeprefix("text_model.")) for key in keys["text_encoder"]],
        "text_encoder_2": _open_clip_rules(keys["text_encoder_2"]),
    }


def _unet_name(key: str, layers: int, config: Any) -> str:
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key)
    if match is None:
        return _replaced(key, UNET_NAMES | (RESIDUAL_NAMES if ".resnets." in key else {}))
    side, level, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    index = level * (layers + 1) + (layers if "samplers" in kind else number) + (side == "down")
    block = f"{'input' if side == 'down' else 'output'}_blocks.{index}"
    if kind == "downsamplers":
        return f"{block}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"{block}.{2 if config.up_block_types[level].startswith('CrossAttn') else 1}.{rest}"
    return f"{block}.1.{rest}" if kind == "attentions" else f"{block}.0.{_replaced(rest, RESIDUAL_NAMES)}"


def _vae_rule(key: str, levels: int) -> Rule:
    theirs = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    theirs = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", theirs)
    theirs = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", theirs)
    theirs = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", theirs)
    theirs = FIRST_STAGE + _replaced(theirs, VAE_NAMES)
    if re.search(r"\.to_\w+(\.0)?\.weight$", key):  # a linear layer here, a convolution of one pixel there
        return Rule((key,), (theirs,), lambda weight: (weight.flatten(1),), lambda weight: (weight[..., None, None],))
    return renamed(key, theirs)


def _open_clip_rules(keys: Iterable[str]) -> list[Rule]:
    rules, joined = [], dict[str, list[str]]()
    for key in keys:
        theirs = TEXT_2 + _replaced(key.removeprefix("text_model."), OPEN_CLIP_NAMES)
        match = re.fullmatch(r"(.*)self_attn\.[qkv]_proj\.(weight|bias)", theirs)
        if match:
            joined.setdefault(f"{match[1]}attn.in_proj_{match[2]}", []).append(key)
        elif key == "text_projection.weight":
            rules.append(Rule((key,), (f"{TEXT_2}text_projection",), _transposed, _transposed))
        else:
            rules.append(renamed(key, theirs))
    return rules + [_split(theirs, ours) for theirs, ours in joined.items()]


def _split(theirs: str, ours: list[str]) -> Rule:
    """A rule for query, key and value that are stacked in one matrix or vector of theirs."""
    ordered = tuple(sorted(ours, key=lambda key: "qkv".index(key.split("self_attn.")[1][0])))
    return Rule(ordered, (theirs,), lambda whole: whole.chunk(3), lambda *parts: (torch.cat(parts),))


def _transposed(matrix: Tensor) -> tuple[Tensor]:
    return (matrix.T,)


def _replaced(key: str, names: Mapping[str, str]) -> str:
    """Replace whole dotted parts of a key."""
    for ours, theirs in names.items():
        key = re.sub(rf"(?<![^.]){re.escape(ours)}(?![^.])", theirs, key)
    return key
