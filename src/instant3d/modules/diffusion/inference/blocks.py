"""Layers of latent diffusion networks, with diffusers' names of weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRANSFORMER_EPS = 1e-6  # of the group norm before a transformer


class Network(nn.Module):
    """A network with a device and a precision, those of its weights."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype


class ResnetBlock(nn.Module):
    """Two convolutions around the projected time embedding, if there is one, and a shortcut.

    Args:
        inputs: Channels read.
        outputs: Channels written.
        groups: Of the group norms.
        eps: Of the group norms.
        time_width: Channels of the time embedding; None if there is none.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, eps: float, time_width: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time_width is not None:
            self.time_emb_proj = nn.Linear(time_width, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Transform (B, inputs, h, w) to (B, outputs, h, w), given the time embedding (B, time_width)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            hidden = hidden + self.time_emb_proj(F.silu(time))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + hidden


class Attention(nn.Module):
    """Multi-head attention of tokens to a context."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from x (B, N, width) to the context (B, M, context_width)."""
        parts = (self.to_q(x), self.to_k(context), self.to_v(context))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class GatedLinear(nn.Module):
    """A linear layer with a GELU gate (Shazeer 2020, GEGLU)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (..., width) to (..., inner)."""
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class FeedForward(nn.Module):
    """A gated layer and a linear one; between them diffusers has a dropout, which keeps its number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (..., width)."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a feed-forward layer, each added to its input."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, heads, width)
        self.attn2 = Attention(width, heads, context_width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Transform x (B, N, width), given the context (B, M, context_width)."""
        normed = self.norm1(x)
        x = self.attn1(normed, normed) + x
        x = self.attn2(self.norm2(x), context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map.

    Args:
        width: Channels of the map.
        heads: Of each attention.
        context_width: Channels of the context.
        layers: Number of blocks.
        groups: Of the group norm.
    """

    def __init__(self, width: int, heads: int, context_width: int, layers: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, TRANSFORMER_EPS)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, heads, context_width) for _ in range(layers))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Transform x (B, width, h, w), given the context (B, M, context_width)."""
        tokens = self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens).unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2).contiguous() + x


class Downsample(nn.Module):
    """A convolution that halves the resolution, padded on all sides or, as in the VAE, right and below alone."""

    def __init__(self, width: int, *, centered: bool) -> None:
        super().__init__()
        self.centered = centered
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=int(centered))

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, width, h, w) to (B, width, h / 2, w / 2)."""
        return self.conv(x if self.centered else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubled pixels and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, width, h, w) to (B, width, 2 h, 2 w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
