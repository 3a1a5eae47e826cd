import pytest
import torch
from tiny_sdxl import tiny_sdxl

from instant3d.modules.diffusion.loading import without_warnings
from instant3d.modules.diffusion.text import TextEmbedding, encode

PROMPTS = ["a red fire hydrant", "", "zebras, 火 and quinces " * 30]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    parts = tiny_sdxl(folder / "tokenizer")
    parts.save(folder, torch.float32)
    return parts, folder


@pytest.mark.slow
def test_text_embeddings_agree_with_diffusers_own_pipeline(saved):
    from diffusers import StableDiffusionXLPipeline

    parts, folder = saved
    with without_warnings(), torch.no_grad():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
        tokens, _, pooled, _ = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    found = encode(parts, PROMPTS)
    torch.testing.assert_close(found.tokens, tokens)
    torch.testing.assert_close(found.pooled, pooled)
    assert found.tokens.shape == (3, 24, 16 + 32)


@pytest.mark.slow
def test_text_embedding_of_no_prompt_is_that_of_the_pipelines_guidance(saved):
    from diffusers import StableDiffusionXLPipeline

    parts, folder = saved
    with without_warnings(), torch.no_grad():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
        _, negative, _, negative_pooled = pipeline.encode_prompt(PROMPTS)
    nothing = TextEmbedding.zeros_like(encode(parts, PROMPTS))
    torch.testing.assert_close(nothing.tokens, negative)
    torch.testing.assert_close(nothing.pooled, negative_pooled)


def test_text_embedding_of_a_prompt_is_the_same_alone_and_in_a_batch(saved):
    parts, _ = saved
    torch.testing.assert_close(encode(parts, PROMPTS[:1]).tokens, encode(parts, PROMPTS).tokens[:1])


def test_text_summary_depends_on_every_word_before_the_end(saved):
    parts, _ = saved
    red, blue = encode(parts, ["a red fire truck", "a blue fire truck"]).pooled
    assert (red - blue).abs().max() > 1e-3


def test_text_encode_refuses_a_single_text_no_prompts_and_missing_encoders(saved):
    parts, _ = saved
    with pytest.raises(ValueError, match="list of at least one text, got 'a chair'"):
        encode(parts, "a chair")
    with pytest.raises(ValueError, match=r"at least one text, got \[\]"):
        encode(parts, [])
    with pytest.raises(ValueError, match="load those parts too"):
        encode(type(parts)(tokenizer=parts.tokenizer), ["a chair"])
