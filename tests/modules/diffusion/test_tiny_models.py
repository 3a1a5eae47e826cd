import pytest
import torch
from tiny_sdxl import CAPTIONS, SIZES, tiny_sdxl

from instant3d.modules.diffusion.tiny_models import clip_pair, train_tokenizer

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def opened(folder):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def test_train_tokenizer_writes_a_clip_tokenizer_that_gives_back_any_text(tmp_path):
    count = train_tokenizer(CAPTIONS, tmp_path, size=600, max_length=12)
    tokenizer = opened(tmp_path)
    assert len(tokenizer) == count <= 600
    assert tokenizer.model_max_length == 12
    for text in (*CAPTIONS, "zebra", "été 火 🚒 ~|", "don't"):
        ids = tokenizer(text).input_ids
        # bytes at a word's end are tokens as well, apart from the same bytes inside a word
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_train_tokenizer_makes_frequent_words_single_tokens(tmp_path):
    train_tokenizer(CAPTIONS * 3, tmp_path, size=800)
    assert len(opened(tmp_path)("a red fire hydrant").input_ids) == 2 + 4


def test_train_tokenizer_writes_the_same_files_again(tmp_path):
    for name in ("one", "two"):
        train_tokenizer(iter(CAPTIONS), tmp_path / name, size=560)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_train_tokenizer_refuses_a_size_without_room_for_bytes_or_words(tmp_path):
    with pytest.raises(ValueError, match="at least 514 tokens"):
        train_tokenizer(CAPTIONS, tmp_path / "v", size=500)
    with pytest.raises(ValueError, match="no room between"):
        train_tokenizer(CAPTIONS, tmp_path / "v", size=600, max_length=2)
    assert not (tmp_path / "v").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_clip_pair_trains_the_given_encoder_itself(tmp_path, name):
    parts = tiny_sdxl(tmp_path)
    encoder = getattr(parts, name)
    pair = clip_pair(encoder, VISION)
    ids = parts.tokenizer(CAPTIONS, padding="max_length", return_tensors="pt").input_ids
    images = torch.randn(len(CAPTIONS), 3, 16, 16, generator=torch.Generator().manual_seed(0))
    before = encoder(ids).last_hidden_state
    optimizer = torch.optim.Adam(pair.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = pair(input_ids=ids, pixel_values=images, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < 1 < losses[0]  # an untrained pair has log 4 = 1.39
    assert (encoder(ids).last_hidden_state - before).abs().max() > 1e-2


def test_clip_pair_shares_the_projection_of_the_encoder_that_has_one(tmp_path):
    encoder = tiny_sdxl(tmp_path).text_encoder_2
    pair = clip_pair(encoder, VISION)
    assert pair.text_projection.weight is encoder.text_projection.weight
    assert pair.visual_projection.out_features == SIZES["text_encoder_2"]["projection_dim"]
