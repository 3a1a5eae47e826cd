"""An SDXL written as one file in the layout of Stability AI's own code, in which it was first released.

Names after https://github.com/Stability-AI/generative-models; diffusers' reader of that layout is the other side.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from instant3d.diffusion.components import Components

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
UNET |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
UNET |= {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP = {"final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks", "layer_norm": "ln_"}
CLIP |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
CLIP |= {"embeddings.token_embedding": "token_embedding"}


def write(parts: Components, path: Path) -> None:
    layers = parts.unet.config.layers_per_block
    tensors = {unet_key(key, layers): tensor for key, tensor in parts.unet.state_dict().items()}
    levels = len(parts.vae.config.block_out_channels)
    for key, tensor in parts.vae.state_dict().items():
        linear = ".attentions." in key and tensor.dim() == 2
        tensors[vae_key(key, levels)] = tensor[..., None, None] if linear else tensor
    for key, tensor in parts.text_encoder.state_dict().items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{key}"] = tensor
    tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in open_clip(parts.text_encoder_2).items()}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def replaced(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def unet_key(key: str, layers: int) -> str:
    def down(match: re.Match[str]) -> str:
        index = 1 + int(match[1]) * (layers + 1) + (layers if match[2] == "downsamplers" else int(match[3]))
        return f"input_blocks.{index}." + {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[match[2]]

    def up(match: re.Match[str]) -> str:
        index = int(match[1]) * (layers + 1) + (layers if match[2] == "upsamplers" else int(match[3]))
        return f"output_blocks.{index}." + {"resnets": "0", "attentions": "1", "upsamplers": "2.conv"}[match[2]]

    if "resnets" in key:
        key = replaced(key, RESNET)
    elif "blocks" not in key and "mid_block" not in key:
        key = replaced(key, UNET)
    key = re.sub(r"down_blocks\.(\d)\.(\w+)\.(\d)(?:\.conv)?", down, key) if "samplers" in key else key
    key = re.sub(r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)", down, key)
    key = re.sub(r"up_blocks\.(\d)\.(upsamplers)\.(\d)\.conv", up, key)
    key = re.sub(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)", up, key)
    middle = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    return "model.diffusion_model." + replaced(key, {**middle, "mid_block.resnets.1": "middle_block.2"})


def vae_key(key: str, levels: int) -> str:
    if ".attentions." in key:
        key = replaced(key, VAE_ATTENTION)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{levels - 1 - int(match[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{levels - 1 - int(match[1])}.upsample", key)
    return "first_stage_model." + key.replace("conv_shortcut", "nin_shortcut")


def open_clip(encoder: torch.nn.Module) -> dict[str, Tensor]:
    tensors, joined = {}, {}
    for key, tensor in encoder.state_dict().items():
        short = key.removeprefix("text_model.")
        if short == "text_projection.weight":
            tensors["text_projection"] = tensor.T
        elif short == "embeddings.position_embedding.weight":
            tensors["positional_embedding"] = tensor
        elif match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)", short):
            name = f"{replaced(match[1], CLIP)}attn.in_proj_{match[3]}"
            joined.setdefault(name, {})[match[2]] = tensor
        else:
            tensors[replaced(short, CLIP)] = tensor
    return tensors | {name: torch.cat([pieces[letter] for letter in "qkv"]) for name, pieces in joined.items()}
