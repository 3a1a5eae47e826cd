"""SDXL's UNet (Podell et al. 2023, section 2) for inference, equal to diffusers' `UNet2DConditionModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.diffusion.inference.blocks import Downsample, Network, ResnetBlock, SpatialTransformer, Upsample

# settings other than sizes, with the values that this network has
FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": False,
    "use_linear_projection": True,
}
SIZES = {
    "addition_embed_type_num_heads",  # of another kind of embedding
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "in_channels",
    "layers_per_block",
    "norm_eps",
    "norm_num_groups",
    "out_channels",
    "projection_class_embeddings_input_dim",
    "sample_size",
    "transformer_layers_per_block",
    "up_block_types",
}
DOWN, UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


class UNet(Network):
    """A UNet conditioned on text tokens, a text summary and the image's size.

    Args:
        config: diffusers' settings, with the values of `FIXED`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = c = SimpleNamespace(**config)
        widths, first, last = c.block_out_channels, c.block_out_channels[0], c.block_out_channels[-1]
        self.conv_in = nn.Conv2d(c.in_channels, first, 3, padding=1)
        self.time_embedding = Embedding(first, 4 * first)
        self.add_embedding = Embedding(c.projection_class_embeddings_input_dim, 4 * first)
        inputs = [first, *widths[:-1]]
        self.down_blocks = nn.ModuleList(
            Level(c, k, [inputs[k], *[widths[k]] * (c.layers_per_block - 1)], c.down_block_types[k] == DOWN[1], "down")
            for k in range(len(widths))
        )
        self.mid_block = Level(c, len(widths) - 1, [last] * 2, True, "mid")
        above = [*widths[1:], last]  # what a level gets from the one below
        skips = [[*[widths[k]] * c.layers_per_block, inputs[k]] for k in range(len(widths))]
        carried = [[above[k], *[widths[k]] * c.layers_per_block] for k in range(len(widths))]
        self.up_blocks = nn.ModuleList(
            Level(c, k, list(map(sum, zip(skips[k], carried[k], strict=True))), c.up_block_types[-1 - k] == UP[1], "up")
            for k in reversed(range(len(widths)))
        )
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, first, c.norm_eps)
        self.conv_out = nn.Conv2d(first, c.out_channels, 3, padding=1)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Tensor],
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Predict noise or velocity.

        Args:
            latents: Noisy latents (B, C, h, w); h and w are multiples of the total stride.
            timestep: One number.
            encoder_hidden_states: Text tokens (B, N, D).
            added_cond_kwargs: `text_embeds` (B, P) and `time_ids` (B, 6).
            return_dict: Not used; here for diffusers' callers.

        Returns:
            The prediction (B, C, h, w), alone in a tuple.
        """
        time = self._embed(timestep.expand(len(latents)), added_cond_kwargs)
        x = self.conv_in(latents)
        skips = [x]
        for level in self.down_blocks:
            x = level(x, time, encoder_hidden_states, push=skips)
        x = self.mid_block(x, time, encoder_hidden_states)
        for level in self.up_blocks:
            x = level(x, time, encoder_hidden_states, pop=skips)
        return (self.conv_out(F.silu(self.conv_norm_out(x))),)

    def _embed(self, timesteps: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        """The embedding (B, 4 C) of timesteps (B), text summaries and image sizes."""
        time = self.time_embedding(sinusoids(timesteps, self.config.block_out_channels[0]).to(self.dtype))
        sizes = sinusoids(added["time_ids"].flatten(), self.config.addition_time_embed_dim)
        summary = torch.cat([added["text_embeds"], sizes.view(len(time), -1)], dim=-1)
        return time + self.add_embedding(summary.to(time.dtype))


class Embedding(nn.Module):
    """Two linear layers."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, inputs) to (B, width)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class Level(nn.Module):
    """The layers of one resolution: residual blocks, each followed by a transformer if there are any.

    Args:
        config: Settings of the UNet.
        number: The resolution, 0 being the finest.
        inputs: Channels that each residual block reads.
        attends: Whether there are transformers.
        kind: "down", "mid" or "up".
    """

    def __init__(self, config: SimpleNamespace, number: int, inputs: list[int], attends: bool, kind: str) -> None:
        super().__init__()
        c, width, self.kind = config, config.block_out_channels[number], kind
        self.resnets = nn.ModuleList(
            ResnetBlock(each, width, c.norm_num_groups, c.norm_eps, 4 * c.block_out_channels[0]) for each in inputs
        )
        heads, layers = _at(c.attention_head_dim, number), _at(c.transformer_layers_per_block, number)
        self.attentions = nn.ModuleList(
            SpatialTransformer(width, heads, c.cross_attention_dim, layers, c.norm_num_groups)
            for _ in range((len(inputs) - (kind == "mid")) * attends)
        )
        self.downsamplers = nn.ModuleList(
            [Downsample(width, centered=True)] * (kind == "down" and number + 1 < len(c.block_out_channels))
        )
        self.upsamplers = nn.ModuleList([Upsample(width)] * (kind == "up" and number > 0))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        push: list[Tensor] | None = None,
        pop: list[Tensor] | None = None,
    ) -> Tensor:
        """Transform x; `push` gets what skips to the way up, where it is taken from `pop`."""
        for k, resnet in enumerate(self.resnets):
            x = resnet(x if pop is None else torch.cat([x, pop.pop()], dim=1), time)
            if k < len(self.attentions):
                x = self.attentions[k](x, context)
            if push is not None:
                push.append(x)
        for layer in (*self.downsamplers, *self.upsamplers):
            x = layer(x)
            if push is not None:
                push.append(x)
        return x


def _at(setting: Any, number: int) -> int:
    return setting[number] if isinstance(setting, list | tuple) else setting


def sinusoids(numbers: Tensor, width: int) -> Tensor:
    """Embed numbers (N) by cosines and sines of `width` / 2 frequencies: (N, width)."""
    exponents = -math.log(10000) * torch.arange(width // 2, dtype=torch.float32, device=numbers.device) / (width // 2)
    angles = numbers[:, None].float() * torch.exp(exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
