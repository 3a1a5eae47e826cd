"""Attention and the blocks built of it. Knows nothing of pictures or planes: tokens in, tokens out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(query: Tensor, key: Tensor, value: Tensor, *, xformers: bool = False) -> Tensor:
    """Scaled dot-product attention over (B, heads, N, width of a head); the one door to xformers.

    xformers' kernel exists on CUDA only; everywhere else torch's own fused attention computes the same.
    """
    if xformers and query.is_cuda:
        from xformers.ops import memory_efficient_attention

        swapped = (part.transpose(1, 2) for part in (query, key, value))
        return memory_efficient_attention(*swapped).transpose(1, 2)
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context, or to themselves where none is given."""

    def __init__(self, width: int, heads: int, context_width: int | None = None, *, xformers: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared by {heads} heads; choose a divisor")
        self.heads, self.xformers = heads, xformers
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width), context (B, M, context width) -> (B, N, width)."""
        context = tokens if context is None else context
        query = self._split(self.query(tokens))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, dim=-1))
        mixed = attention(query, key, value, xformers=self.xformers)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Linear, GELU, linear; four times as wide inside."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))


class Block(nn.Module):
    """Pre-norm residual block: attention to a context (if it has a width), to the tokens, feed-forward.

    The order is LRM's (arXiv 2311.04400, section 3.2): cross, self, feed-forward; attention has no biases.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None, *, xformers: bool = False) -> None:
        super().__init__()
        self.cross_norm = self.cross = None
        if context_width is not None:
            self.cross_norm = nn.LayerNorm(width)
            self.cross = Attention(width, heads, context_width, xformers=xformers)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, xformers=xformers)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        if self.cross is not None and self.cross_norm is not None:
            tokens = tokens + self.cross(self.cross_norm(tokens), context)
        tokens = tokens + self.self_attention(self.self_norm(tokens))
        return tokens + self.feed(self.feed_norm(tokens))


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
