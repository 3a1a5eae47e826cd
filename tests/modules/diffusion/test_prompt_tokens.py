"""Token features of prompts, against diffusers' own pipeline."""

import shutil

import pytest
import torch
from tiny_sdxl import tiny_sdxl_folder
from tiny_stable import tiny_stable_folder

from instant3d.modules.diffusion.loading import without_warnings
from instant3d.modules.diffusion.prompt_tokens import PromptEncoder, PromptTokens

PROMPTS = ["a red fire hydrant", "", "zebras, 火 and quinces " * 30]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stable_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder):
    return PromptEncoder.from_pretrained(folder)


@pytest.mark.slow
def test_prompt_encoder_agrees_with_stable_diffusions_own_pipeline(folder, encoder):
    from diffusers import StableDiffusionPipeline

    with without_warnings(), torch.no_grad():
        pipeline = StableDiffusionPipeline.from_pretrained(folder)
        expected, _ = pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    found = encoder(PROMPTS)
    torch.testing.assert_close(found.tokens, expected)
    assert found.tokens.shape == (3, encoder.length, encoder.width) == (3, 24, 32)
    assert found.tokens.dtype == torch.float32
    assert not found.tokens.requires_grad


@pytest.mark.slow
def test_prompt_encoder_with_fewer_layers_is_clip_skip_and_saves_only_those(folder, encoder, tmp_path):
    layers = encoder.encoder.config.num_hidden_layers
    words = encoder.tokenizer(PROMPTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    states = encoder.encoder(words.input_ids, output_hidden_states=True).hidden_states  # as diffusers' clip_skip reads
    norm = encoder.encoder.get_submodule("text_model" if hasattr(encoder.encoder, "text_model") else "")
    expected = norm.final_layer_norm(states[-2])
    short = PromptEncoder.from_pretrained(folder, layers=layers - 1)
    torch.testing.assert_close(short(PROMPTS).tokens, expected)
    short.save(tmp_path, torch.float32)
    torch.testing.assert_close(PromptEncoder.from_pretrained(tmp_path)(PROMPTS).tokens, expected)


def test_prompt_encoder_without_layers_gives_a_word_the_same_token_beside_any_other(folder):
    words = PromptEncoder.from_pretrained(folder, layers=0)
    red, blue = words(["a red chair", "a blue chair"]).tokens
    differ = (red != blue).any(-1).nonzero().flatten().tolist()
    assert differ, "another colour is another word"
    assert len(differ) < (red != words([""]).tokens[0]).any(-1).sum()
    with pytest.raises(ValueError, match="layers; 99 of them cannot be kept"):
        PromptEncoder.from_pretrained(folder, layers=99)


def test_prompt_mask_is_true_at_words_and_marks_and_false_at_padding(encoder):
    mask = encoder(PROMPTS).mask
    words = len(encoder.tokenizer(PROMPTS[0], add_special_tokens=False).input_ids)
    assert words >= 4
    assert mask[0].tolist() == [True] * (words + 2) + [False] * (24 - words - 2)
    assert mask[1].tolist() == [True] * 2 + [False] * 22
    assert mask[2].all()


def test_prompt_tokens_do_not_depend_on_the_padding_after_them(encoder):
    short = encoder.encoder(encoder.tokenizer(PROMPTS[:1], return_tensors="pt").input_ids).last_hidden_state
    found = encoder(PROMPTS[:1])
    torch.testing.assert_close(found.tokens[found.mask], short[0], atol=1e-5, rtol=1e-5)


def test_prompt_fits_only_if_nothing_is_cut_off(encoder):
    assert encoder.fits("a red fire hydrant")
    assert not encoder.fits("zebras, " * 30)
    limit = next(count for count in range(1, 60) if not encoder.fits("x " * count))
    same, cut = ("x " * (limit + extra) for extra in (0, 5))
    torch.testing.assert_close(encoder([same]).tokens, encoder([cut]).tokens)


def test_prompt_encoder_saved_beside_other_files_reads_the_same(encoder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    encoder.save(tmp_path, torch.float32)
    assert (tmp_path / "config.json").is_file()
    again = PromptEncoder.from_pretrained(tmp_path)
    found, expected = again(PROMPTS), encoder(PROMPTS)
    torch.testing.assert_close(found.tokens, expected.tokens)
    assert torch.equal(found.mask, expected.mask)
    assert all(not parameter.requires_grad for parameter in again.encoder.parameters())


def test_prompt_encoder_saves_half_precision_and_loads_float32(encoder, tmp_path):
    encoder.save(tmp_path)
    again = PromptEncoder.from_pretrained(tmp_path)
    assert again.encoder.dtype == torch.float32
    torch.testing.assert_close(again(PROMPTS).tokens, encoder(PROMPTS).tokens, atol=0.02, rtol=0.02)


@pytest.mark.slow
def test_prompt_encoder_loads_the_first_encoder_of_an_sdxl(tmp_path):
    encoder = PromptEncoder.from_pretrained(tiny_sdxl_folder(tmp_path))
    assert encoder(PROMPTS).tokens.shape == (3, 24, 16)


def test_prompt_tokens_are_joined_and_indexed_as_any_batch(encoder):
    whole = encoder(PROMPTS)
    parts = PromptTokens.cat([encoder(PROMPTS[:1]), encoder(PROMPTS[1:])])
    torch.testing.assert_close(parts.tokens, whole.tokens)
    assert torch.equal(whole[[2, 0]].mask, whole.mask[[2, 0]])


def test_prompt_encoder_refuses_a_single_text_and_no_text(encoder):
    with pytest.raises(ValueError, match="list of at least one text, got 'a chair'"):
        encoder("a chair")
    with pytest.raises(ValueError, match=r"at least one text, got \[\]"):
        encoder([])


def test_prompt_encoder_refuses_folders_without_an_encoder_in_one_sentence(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json; is it a model") as error:
        PromptEncoder.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
    shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    with pytest.raises(FileNotFoundError, match=r"vocab\.json does not exist"):
        PromptEncoder.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder in diffusers' layout"):
        PromptEncoder.from_pretrained("nowhere")


def test_prompt_encoder_refuses_a_tokenizer_of_another_model(folder, tmp_path):
    from instant3d.modules.diffusion.tiny_models import train_tokenizer

    shutil.copytree(folder / "text_encoder", tmp_path / "text_encoder")
    train_tokenizer(["a chair"], tmp_path / "tokenizer", size=520, max_length=77)
    with pytest.raises(ValueError, match="gives up to 77 tokens, but its text encoder reads 24"):
        PromptEncoder.from_pretrained(tmp_path)
