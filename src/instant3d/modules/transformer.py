"""Multi-head attention and pre-norm transformer blocks over tokens (B, N, width)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.xformers_attention import xformers_attention


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, xformers: bool = False
) -> Tensor:
    """Scaled dot-product attention.

    xformers' kernel exists on CUDA only and is used without a mask only; everywhere else, and where the installed
    xformers has no kernel for the installed torch, torch's fused attention computes the same.

    Args:
        query: (B, heads, N, head width).
        key: (B, heads, M, head width).
        value: (B, heads, M, head width).
        mask: (B, M) or (B, N, M) bool; keys that are False are not attended to.
        xformers: Use xformers' kernel where it can be used.

    Returns:
        (B, heads, N, head width).
    """
    if mask is not None:
        for_heads = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=for_heads)
    if xformers and query.is_cuda:
        return xformers_attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context, or to themselves if no context is given; projections have no biases.

    Args:
        width: Channels of the tokens.
        heads: Number of heads, a divisor of `width`.
        context_width: Channels of the context; by default `width`.
        out_bias: Whether the output projection has a bias after all.
        xformers: Use xformers' kernel on CUDA.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        out_bias: bool = False,
        xformers: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads; choose a divisor")
        self.heads, self.xformers = heads, xformers
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=out_bias)

    def forward(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from tokens (B, N, width) to the context (B, M, context width) where the mask, if any, is True."""
        context = tokens if context is None else context
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        mixed = attention(query, key, value, mask, xformers=self.xformers)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Linear, GELU, linear; the hidden width is `inside`, four times the width by default (0)."""

    def __init__(self, width: int, inside: int = 0) -> None:
        inside = inside or 4 * width
        super().__init__(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))


class GatedFeedForward(nn.Module):
    """Feed-forward layer with a gated GELU (GEGLU, arXiv 2002.05202); hidden width as in `FeedForward`."""

    def __init__(self, width: int, inside: int = 0) -> None:
        super().__init__()
        inside = inside or 4 * width
        self.widen = nn.Linear(width, 2 * inside)
        self.narrow = nn.Linear(inside, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, width) -> (B, N, width)."""
        value, gate = self.widen(tokens).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))


class Block(nn.Module):
    """Pre-norm residual transformer block: cross-attention (if it has a context), self-attention, feed-forward.

    The order is LRM's (arXiv 2311.04400, section 3.2); attention has no biases.

    Args:
        width: Channels of the tokens.
        heads: Attention heads.
        context_width: Channels of the context; None leaves out cross-attention.
        self_first: Self-attention comes before cross-attention.
        gated: GEGLU instead of GELU.
        feed_width: Hidden width of the feed-forward; 0 is four times the width.
        out_bias: Biases in the output projections of attention.
        epsilon: Of the layer norms.
        condition_width: If positive, each norm's output is scaled and shifted by a condition of that width.
        xformers: Use xformers' kernel on CUDA.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        self_first: bool = False,
        gated: bool = False,
        feed_width: int = 0,
        out_bias: bool = False,
        epsilon: float = 1e-5,
        condition_width: int = 0,
        xformers: bool = False,
    ) -> None:
        super().__init__()
        self.self_first = self_first
        self.cross_norm = self.cross = None
        if context_width is not None:
            self.cross_norm = nn.LayerNorm(width, epsilon)
            self.cross = Attention(width, heads, context_width, out_bias=out_bias, xformers=xformers)
        self.self_norm = nn.LayerNorm(width, epsilon)
        self.self_attention = Attention(width, heads, out_bias=out_bias, xformers=xformers)
        self.feed_norm = nn.LayerNorm(width, epsilon)
        self.feed = (GatedFeedForward if gated else FeedForward)(width, feed_width)
        self.modulation = Modulation(width, condition_width, parts=3) if condition_width else None

    def forward(
        self,
        tokens: Tensor,
        context: Tensor | None = None,
        condition: Tensor | None = None,
        *,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """Apply the block.

        Args:
            tokens: (B, N, width).
            context: (B, M, context width).
            condition: (B, condition width), for scale and shift of the norms.
            context_mask: (B, M) or (B, N, M) bool; context tokens that are False are not attended to.

        Returns:
            (B, N, width).
        """
        cross, own, feed = self._modulated(condition)
        if self.self_first:
            tokens = tokens + self.self_attention(own(self.self_norm(tokens)))
        if self.cross is not None and self.cross_norm is not None:
            tokens = tokens + self.cross(cross(self.cross_norm(tokens)), context, context_mask)
        if not self.self_first:
            tokens = tokens + self.self_attention(own(self.self_norm(tokens)))
        return tokens + self.feed(feed(self.feed_norm(tokens)))

    def _modulated(self, condition: Tensor | None) -> list[Callable[[Tensor], Tensor]]:
        """Scale-and-shift functions of the three norms' outputs, in the order cross, self, feed-forward."""
        if self.modulation is None or condition is None:
            return [nn.Identity()] * 3
        return [partial(modulate, shift=shift, scale=scale) for shift, scale in self.modulation(condition)]


class Modulation(nn.Module):
    """Scale and shift of normalised tokens, predicted from a condition (adaLN-zero of DiT, arXiv 2212.09748, no gates).

    The projection starts at zero, so that the modulation starts as the identity.

    Args:
        width: Channels of the tokens.
        condition_width: Channels of the condition.
        parts: Number of norms that are modulated.
    """

    def __init__(self, width: int, condition_width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(condition_width, 2 * parts * width)
        self.reset()

    def reset(self) -> None:
        """Set to the identity; call it after loading pretrained weights into the module that holds this one."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Condition (B, C) -> `parts` pairs of shift and scale, each (B, 1, width)."""
        parameters = self.linear(F.silu(condition))[:, None].chunk(2 * self.parts, dim=-1)
        return [(parameters[2 * k], parameters[2 * k + 1]) for k in range(self.parts)]


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens.

    Args:
        tokens: (B, N, width).
        shift: (B, 1, width).
        scale: (B, 1, width); 0 leaves the tokens as they are.

    Returns:
        tokens * (1 + scale) + shift, (B, N, width).
    """
    return torch.addcmul(shift, tokens, 1 + scale)
