"""Pooling of a prompt's tokens into one vector of fixed length (arXiv 2311.08403, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.transformer import FeedForward

OWN = -100.0  # a token's logit for itself: its distance of 0 would outweigh all others


class DistanceAttention(nn.Module):
    """Self-attention by distance: the nearer two tokens are, the more they attend to each other.

    Queries serve as keys, logits are their negative distances (GigaGAN, arXiv 2303.05511, section 3.2, after Kim et
    al., arXiv 2006.04710), and each head has a learned key and value that every token may attend to instead.

    Args:
        width: Channels of the tokens.
        heads: Attention heads, a divisor of `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.nothing = nn.Parameter(torch.randn(2, heads, 1, width // heads))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, width) attend where the mask (B, N) is True -> (B, N, width)."""
        nothing_key, nothing_value = self.nothing[:, None].expand(-1, len(tokens), -1, -1, -1)
        place, value = self._split(self.place(tokens)), self._split(self.value(tokens))
        key = torch.cat([nothing_key, place], dim=2)
        share = self._logits(place, key, mask).softmax(-1).to(value.dtype)
        mixed = share @ torch.cat([nothing_value, value], dim=2)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _logits(self, place: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Attention logits (B, heads, N, 1 + N), at least in float32: distances are small differences."""
        exact = torch.promote_types(place.dtype, torch.float32)
        distance = torch.cdist(place.to(exact), key.to(exact), compute_mode="donot_use_mm_for_euclid_dist")
        own = F.pad(torch.eye(place.shape[2], dtype=torch.bool, device=place.device), (1, 0))
        logits = (-distance / place.shape[-1] ** 0.5).masked_fill(own, OWN)
        if mask is not None:
            logits = logits.masked_fill(~F.pad(mask, (1, 0), value=True)[:, None, None], -torch.inf)
        return logits

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class EqualisedLinear(nn.Linear):
    """Linear layer with equalised learning rate: weights of unit variance, scaled at run time.

    (Karras et al., arXiv 1710.10196, section 4.1.) An optimiser such as Adam, whose steps are of equal size, then moves
    a wide layer no faster than a narrow one.
    """

    def reset_parameters(self) -> None:
        """Initialise weights with unit variance and biases with zero."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, vector: Tensor) -> Tensor:
        """Vectors (..., in_features) -> (..., out_features)."""
        return F.linear(vector / self.in_features**0.5, self.weight, self.bias)


class TextPooling(nn.Module):
    """One transformer layer over the tokens, then one linear layer over their concatenation.

    Args:
        text_width: Channels of the text encoder's tokens.
        text_length: Tokens of a prompt with padding.
        width: Channels inside the transformer layer.
        heads: Its attention heads.
        numbers: Length of the vector.
    """

    def __init__(self, text_width: int, text_length: int, width: int, heads: int, numbers: int) -> None:
        super().__init__()
        self.inward = nn.Linear(text_width, width)
        self.attention_norm = nn.RMSNorm(width)
        self.attention = DistanceAttention(width, heads)
        self.feed_norm = nn.RMSNorm(width)
        self.feed = FeedForward(width)
        self.norm = nn.RMSNorm(width)
        self.outward = EqualisedLinear(text_length * width, numbers)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool tokens to one vector.

        Computed in the weights' own precision: autocast would copy the wide last layer at every call, to read it once.

        Args:
            tokens: (B, text length, text width).
            mask: (B, text length) bool, True at words.

        Returns:
            (B, numbers).
        """
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = self.inward(tokens.to(self.inward.weight.dtype))
            tokens = tokens + self.attention(self.attention_norm(tokens), mask)
            tokens = self.norm(tokens + self.feed(self.feed_norm(tokens)))
            if mask is not None:
                tokens = tokens.masked_fill(~mask[..., None], 0.0)
            return self.outward(tokens.flatten(1))
