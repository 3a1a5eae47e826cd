"""CLIP's text transformer (Radford et al. 2021) for inference, equal to transformers' `CLIPTextModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.diffusion.inference.blocks import Network

ACTIVATIONS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}
OLD_END = 2  # stands in older settings for the largest token, whatever it is


class ClipText(Network):
    """A CLIP text transformer.

    Args:
        config: transformers' settings.
        projects: Whether the summary is projected, as in `CLIPTextModelWithProjection`.
    """

    def __init__(self, config: Mapping[str, Any], projects: bool) -> None:
        super().__init__()
        self.config = c = SimpleNamespace(**config)
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": _embedding(c.vocab_size, c.hidden_size),
                "position_embedding": _embedding(c.max_position_embeddings, c.hidden_size),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))})
        self.final_layer_norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.text_projection = nn.Linear(c.hidden_size, c.projection_dim, bias=False) if projects else None

    def forward(self, ids: Tensor, output_hidden_states: bool = True) -> SimpleNamespace:
        """Encode tokens (B, N).

        Args:
            ids: Numbers of the tokens.
            output_hidden_states: Not used; here for transformers' callers.

        Returns:
            `hidden_states`, (B, N, C) before the first layer and after each; and `text_embeds` (B, P), the projected
            summary, if there is a projection.
        """
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.embeddings["token_embedding"](ids) + self.embeddings["position_embedding"](place)
        states = [x]
        for layer in cast(nn.ModuleList, self.encoder["layers"]):
            states.append(layer(states[-1]))
        end = self.config.eos_token_id
        last = (ids if end == OLD_END else (ids == end).int()).argmax(-1)
        summary = self.final_layer_norm(states[-1])[torch.arange(len(ids), device=ids.device), last]
        projected = None if self.text_projection is None else self.text_projection(summary)
        return SimpleNamespace(hidden_states=states, text_embeds=projected)


def _embedding(count: int, width: int) -> nn.Embedding:
    """An embedding without initial values, which on the meta device would import PyTorch's compiler."""
    return nn.Embedding.from_pretrained(torch.empty(count, width))


class Layer(nn.Module):
    """Causal self-attention and two linear layers, each added to its input."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        c, self.heads = config, config.num_attention_heads
        self.activation = ACTIVATIONS[c.hidden_act]
        self.layer_norm1, self.layer_norm2 = (nn.LayerNorm(c.hidden_size, c.layer_norm_eps) for _ in range(2))
        self.self_attn = nn.ModuleDict(
            {f"{name}_proj": nn.Linear(c.hidden_size, c.hidden_size) for name in ("q", "k", "v", "out")}
        )
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(c.hidden_size, c.intermediate_size),
                "fc2": nn.Linear(c.intermediate_size, c.hidden_size),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, N, C)."""
        normed = self.layer_norm1(x)
        parts = (self.self_attn[f"{name}_proj"](normed) for name in "qkv")
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.self_attn["out_proj"](attended.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.layer_norm2(x))))


class Tokenizer:
    """A CLIP tokenizer, called as transformers' `CLIPTokenizer` is.

    Args:
        file: Its tokenizer.json.
        length: Most tokens of a text, with both marks.
        padding: The token that fills shorter texts.
    """

    def __init__(self, file: Path, length: int, padding: str) -> None:
        from tokenizers import Tokenizer as Rust

        self.model_max_length = length
        self.whole, self.cut = Rust.from_file(str(file)), Rust.from_file(str(file))
        self.whole.no_truncation()
        self.whole.no_padding()
        self.cut.enable_truncation(length)
        self.cut.enable_padding(length=length, pad_id=self.cut.token_to_id(padding), pad_token=padding)

    def __len__(self) -> int:
        return self.whole.get_vocab_size()

    def __call__(self, texts: str | Sequence[str], **_: Any) -> SimpleNamespace:
        """Tokenize.

        Args:
            texts: One text, whose tokens are all returned; or several (B), which are cut and padded.

        Returns:
            `input_ids`: a list, or a tensor (B, length).
        """
        if isinstance(texts, str):
            return SimpleNamespace(input_ids=self.whole.encode(texts).ids)
        return SimpleNamespace(input_ids=torch.tensor([each.ids for each in self.cut.encode_batch(list(texts))]))
