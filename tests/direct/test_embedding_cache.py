"""Embeddings by index against embedding the texts directly, cached and not."""

import pytest
import torch

from instant3d.direct import embedding_cache
from instant3d.direct.embedding_cache import EmbeddingCache, byte_size
from instant3d.modules.diffusion.prompt_tokens import PromptTokens

TEXTS = [f"text {k}" * (k % 3 + 1) for k in range(10)]


def read(texts):
    """Tokens and masks that differ between texts."""
    codes = torch.tensor([[len(text), *text.encode()[-3:]] for text in texts], dtype=torch.float32)
    return PromptTokens(codes[..., None], codes > 40)


@pytest.fixture(params=[10**6, 0], ids=["kept", "read anew"])
def looked_up(request, monkeypatch):
    monkeypatch.setattr(embedding_cache, "AT_ONCE", 4)
    calls = []

    def counted(texts):
        calls.append(list(texts))
        return read(texts)

    return EmbeddingCache(TEXTS, counted, most_bytes=request.param), calls, bool(request.param)


def test_embedding_cache_gives_rows_of_the_texts_in_any_shape(looked_up):
    table, _, _ = looked_up
    for numbers in (torch.tensor([3, 3, 0, 9]), torch.tensor([[1, 2], [9, 1]])):
        expected = read([TEXTS[k] for k in numbers.flatten().tolist()])
        found = table[numbers]
        torch.testing.assert_close(found.tokens.flatten(0, numbers.dim() - 1), expected.tokens)
        assert torch.equal(found.mask.flatten(0, numbers.dim() - 1), expected.mask)


def test_embedding_cache_embeds_again_only_what_does_not_fit_each_text_once(looked_up):
    table, calls, kept = looked_up
    assert max(map(len, calls)) <= 4
    assert sum(map(len, calls)) == (10 if kept else 4), "the first few tell how large all are"
    calls.clear()
    table[torch.tensor([5, 5, 5, 1])]
    assert calls == ([] if kept else [[TEXTS[1], TEXTS[5]]])


def test_byte_size_is_that_of_all_tensors():
    assert byte_size(read(TEXTS)) == 10 * 4 * 4 + 10 * 4
    assert byte_size(torch.zeros(3, 5, dtype=torch.float64)) == 120
    assert EmbeddingCache(TEXTS, read, most_bytes=200).kept is not None
    assert EmbeddingCache(TEXTS, read, most_bytes=199).kept is None
