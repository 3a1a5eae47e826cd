"""A VAE of convolutions for inference, equal to diffusers' `AutoencoderKL` without attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.diffusion.inference.blocks import Downsample, Network, ResnetBlock, Upsample

# settings other than sizes, with the values that this network has
FIXED: dict[str, Any] = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": False,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
SIZES = {
    "block_out_channels",
    "down_block_types",
    "force_upcast",
    "in_channels",
    "latent_channels",
    "layers_per_block",
    "norm_num_groups",
    "out_channels",
    "sample_size",
    "scaling_factor",
    "up_block_types",
}
DOWN, UP = ("DownEncoderBlock2D",), ("UpDecoderBlock2D",)
EPS = 1e-6  # of all norms
LOG_VARIANCES = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """The Gaussian of an image's latents: mean and standard deviation (B, C, h, w)."""

    mean: Tensor
    std: Tensor

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean


class VAE(Network):
    """Encoder and decoder of latents.

    Args:
        config: diffusers' settings, with the values of `FIXED`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = c = SimpleNamespace(**config)
        widths, latents = c.block_out_channels, c.latent_channels
        self.encoder = Half(c, widths, (c.in_channels, 2 * latents), c.layers_per_block, "down")
        self.decoder = Half(c, widths[::-1], (latents, c.out_channels), c.layers_per_block + 1, "up")
        self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, latents, 1)

    def encode(self, images: Tensor) -> SimpleNamespace:
        """Encode images (B, 3, H, W) in [-1, 1]; the result has the posterior as `latent_dist`."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return SimpleNamespace(latent_dist=Posterior(mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCES))))

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Decode latents (B, C, h, w) to images (B, 3, H, W), alone in a tuple; `return_dict` is not used."""
        return (self.decoder(self.post_quant_conv(latents)),)


class Half(nn.Module):
    """The encoder or the decoder.

    Args:
        config: Settings of the VAE.
        widths: Channels of each level, in the order in which they are passed.
        ends: Channels of input and output.
        layers: Residual blocks of a level.
        kind: "down" or "up".
    """

    def __init__(
        self, config: SimpleNamespace, widths: list[int], ends: tuple[int, int], layers: int, kind: str
    ) -> None:
        super().__init__()
        groups, self.kind = config.norm_num_groups, kind
        self.conv_in = nn.Conv2d(ends[0], widths[0], 3, padding=1)
        inputs = [widths[0], *widths[:-1]]
        levels = nn.ModuleList(
            Level(inputs[k], width, layers, groups, kind if k + 1 < len(widths) else "")
            for k, width in enumerate(widths)
        )
        setattr(self, f"{kind}_blocks", levels)
        inner = widths[-1] if kind == "down" else widths[0]
        self.mid_block = Level(inner, inner, 2, groups, "")
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], ends[1], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W)."""
        levels = getattr(self, f"{self.kind}_blocks")
        x = self.conv_in(x)
        for level in [*levels, self.mid_block] if self.kind == "down" else [self.mid_block, *levels]:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Level(nn.Module):
    """Residual blocks of one resolution, and the change to the next, if there is one.

    Args:
        inputs: Channels read.
        width: Channels written.
        layers: Number of residual blocks.
        groups: Of the group norms.
        change: "down", "up" or "".
    """

    def __init__(self, inputs: int, width: int, layers: int, groups: int, change: str) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(width if k else inputs, width, groups, EPS) for k in range(layers))
        self.downsamplers = nn.ModuleList([Downsample(width, centered=False)] * (change == "down"))
        self.upsamplers = nn.ModuleList([Upsample(width)] * (change == "up"))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, inputs, h, w)."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x
