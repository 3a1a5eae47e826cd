"""Names that LoRA files give to the layers of an SDXL.

diffusers and peft name a layer by its component and path: `unet.down_blocks.1.attentions.0.proj_in`. kohya's scripts
join both by underscores: `lora_unet_down_blocks_1_attentions_0_proj_in`, or `lora_unet_input_blocks_4_1_proj_in` after
the paths in Stability AI's own code (sgm), and `lora_te1_...` and `lora_te2_...` in the text encoders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

TEXT_ENCODERS = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
TEXT_MODEL = "text_model."  # in the Hub's names; transformers 5.6 dropped it from the first encoder's
BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)(?:\.(\d+))?\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.")
SGM_LAYERS = {  # ends of names outside the attention layers, and their ends in sgm's names
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SGM_OUTSIDE = {  # outside the blocks
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


Layer = nn.Linear | nn.Conv2d


def layers_by_name(components: Any) -> dict[str, Layer]:
    """List the linear layers and convolutions of UNet and text encoders by each name that a LoRA file may use.

    Args:
        components: `Components` of an SDXL; those that are None are left out.
    """
    layers: dict[str, Layer] = {}
    if components.unet is not None:
        for path, layer in lora_layers(components.unet):
            sgm = sgm_path(path, components.unet.config.layers_per_block)
            names = (path, f"unet.{path}", _joined("lora_unet", path), _joined("lora_unet", sgm))
            layers |= dict.fromkeys(names, layer)
    for part, prefix in TEXT_ENCODERS.items():
        for path, layer in lora_layers(getattr(components, part) or nn.Module()):
            path = path if path.startswith((TEXT_MODEL, "text_projection")) else TEXT_MODEL + path
            layers |= {f"{part}.{path}": layer, _joined(prefix, path): layer}
    return layers


def sgm_path(path: str, layers_per_block: int) -> str:
    """Translate the path of an SDXL UNet's layer from diffusers' naming to that of Stability AI's own code (sgm).

    sgm counts resnets, each with the attention behind it, through all blocks; what halves the resolution counts as one
    more, and what doubles it follows the last resnet of its block.

    Args:
        path: Path such as "down_blocks.1.attentions.0.proj_in".
        layers_per_block: Resnets of a block on the way down; one more on the way up.
    """
    found = BLOCK.match(path)
    if found is None:
        return SGM_OUTSIDE.get(path, path)
    block, number, kind, place = found[1], int(found[2] or 0), found[3], int(found[4])
    inner = 0 if kind in ("resnets", "downsamplers") else 1 if kind == "attentions" else 2
    first = number * (layers_per_block + 1)
    where = {
        "down_blocks": f"input_blocks.{first + 1 + (layers_per_block if kind == 'downsamplers' else place)}.{inner}",
        "mid_block": f"middle_block.{2 * place + inner}",
        "up_blocks": f"output_blocks.{first + (layers_per_block if kind == 'upsamplers' else place)}.{inner}",
    }[block]
    rest = path[found.end() :]
    if kind == "downsamplers":
        return f"{where}.op"
    return f"{where}.{SGM_LAYERS.get(rest, rest) if kind == 'resnets' else rest}"


def lora_layers(network: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Linear layers and convolutions of a network by their paths: those that LoRA files change."""
    return ((path, part) for path, part in network.named_modules() if isinstance(part, Layer))


def _joined(prefix: str, path: str) -> str:
    return f"{prefix}_{path.replace('.', '_')}"
