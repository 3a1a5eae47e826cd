"""Attention and the blocks built of it. Knows nothing of pictures or planes: tokens in, tokens out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, xformers: bool = False
) -> Tensor:
    """Scaled dot-product attention over (B, heads, N, width of a head); the one door to xformers.

    Where the mask (B, M) is False, nothing is read. xformers' kernel exists on CUDA only, and is used without a mask
    only; everywhere else torch's own fused attention computes the same.
    """
    if mask is not None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    if xformers and query.is_cuda:
        from xformers.ops import memory_efficient_attention

        swapped = (part.transpose(1, 2) for part in (query, key, value))
        return memory_efficient_attention(*swapped).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context, or to themselves where none is given."""

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
        """Tokens (B, N, width), context (B, M, context width), mask (B, M) -> (B, N, width)."""
        context = tokens if context is None else context
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        mixed = attention(query, key, value, mask, xformers=self.xformers)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Linear, GELU, linear; four times as wide inside unless `inside` says otherwise."""

    def __init__(self, width: int, inside: int = 0) -> None:
        inside = inside or 4 * width
        super().__init__(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))


class GatedFeedForward(nn.Module):
    """A linear layer whose output is a value and its gate, and one back (GEGLU, arXiv 2002.05202)."""

    def __init__(self, width: int, inside: int = 0) -> None:
        super().__init__()
        inside = inside or 4 * width
        self.widen = nn.Linear(width, 2 * inside)
        self.narrow = nn.Linear(inside, width)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.widen(tokens).chunk(2, dim=-1)
        return self.narrow(value * F.gelu(gate))


class Block(nn.Module):
    """Pre-norm residual block: attention to a context (if it has a width), to the tokens, feed-forward.

    The order is LRM's (arXiv 2311.04400, section 3.2): cross, self, feed-forward; attention has no biases.

    self_first       attention to the tokens comes before that to the context
    gated            GEGLU in place of GELU
    feed_width       width inside the feed-forward; 0 is four times the width
    out_bias         of the attentions' last layers
    condition_width  if positive, each norm's output is scaled and shifted by a condition of that width
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
        """Tokens (B, N, width), context (B, M, context width), condition (B, condition width) -> (B, N, width).

        Of the context only what its mask (B, M) names True is attended to.
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
        """What happens to the norms' outputs, in the order cross, self, feed-forward."""
        if self.modulation is None or condition is None:
            return [nn.Identity()] * 3
        return [partial(modulate, shift=shift, scale=scale) for shift, scale in self.modulation(condition)]


class Modulation(nn.Module):
    """Scale and shift of normalised tokens by a condition; zero at the start, so that it begins as the identity.

    (DiT, arXiv 2212.09748, adaLN-zero without its gates.)
    """

    def __init__(self, width: int, condition_width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(condition_width, 2 * parts * width)
        self.reset()

    def reset(self) -> None:
        """Back to the identity; call it after loading pretrained weights into the module that holds this one."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, condition: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Condition (B, C) -> `parts` pairs of shift and scale, each (B, 1, width)."""
        numbers = self.linear(F.silu(condition))[:, None].chunk(2 * self.parts, dim=-1)
        return [(numbers[2 * k], numbers[2 * k + 1]) for k in range(self.parts)]


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, tokens, 1 + scale)
