"""A small SDXL from nothing: what is trained learns, what is there is not made again."""

import diffusers
import pytest
import torch
from balls import COLOURS, write_balls

from instant3d.diffusion.components import Components
from instant3d.stage1 import scratch

PARAMETERS = {"unet": 12_994_024, "vae": 2_986_683}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("scratch")
    write_balls(root / "scenes")
    assert scratch.main([str(root / "scenes"), "-o", str(root / "base"), "--vae-steps", "2", "--text-steps", "2"]) == 0
    return root


def test_plain_diffusers_opens_what_was_made(made):
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(made / "base")
    assert {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in PARAMETERS} == PARAMETERS
    assert pipeline.vae_scale_factor * pipeline.unet.config.sample_size == 2 * scratch.TILE


def test_the_words_of_the_captions_lie_beside_the_tokenizer(made):
    listed = (made / "base" / "tokenizer" / "caption_words.txt").read_text()
    assert listed == "ball\t3\nblue\t1\ngreen\t1\nred\t1\n"


def test_latents_leave_the_vae_with_a_standard_deviation_of_one(made):
    parts = Components.load(made / "base", parts=("vae",))
    pictures = scratch.Pictures.read(sorted((made / "scenes").iterdir()))
    shown = pictures.views.flatten(0, 1).float() / 127.5 - 1
    with torch.no_grad():
        latents = parts.vae.encode(shown).latent_dist.mean * parts.vae.config.scaling_factor
    assert float(latents.std()) == pytest.approx(1, abs=0.1)  # measured on other draws of the same views


def test_what_is_there_is_not_made_again(made, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("trained a second time")

    monkeypatch.setattr(scratch, "train_vae", refuse)
    monkeypatch.setattr(scratch, "train_text", refuse)
    before = Components.load(made / "base", parts=("vae",)).vae.decoder.conv_out.weight
    assert scratch.main([str(made / "scenes"), "-o", str(made / "base")]) == 0
    after = Components.load(made / "base", parts=("vae",)).vae.decoder.conv_out.weight
    assert torch.equal(before, after)


def test_the_vae_learns_what_it_is_shown(made):
    torch.manual_seed(0)
    pictures = scratch.Pictures.read(sorted((made / "scenes").iterdir()))
    vae = diffusers.AutoencoderKL(**{**scratch.VAE, "block_out_channels": [8, 8, 16, 16]})
    shown = pictures.views.flatten(0, 1).float() / 127.5 - 1

    def error() -> float:
        with torch.no_grad():
            return float((vae.eval()(shown).sample - shown).square().mean())

    before = error()
    scratch.train_vae(vae, pictures, steps=60, batch=4, rate=4e-3)
    assert error() < before / 2


def test_text_encoders_learn_to_tell_captions_apart(made, capsys):
    torch.manual_seed(0)
    parts = Components.load(made / "base", parts=("tokenizer_2", "text_encoder_2"))
    pictures = scratch.Pictures.read(sorted((made / "scenes").iterdir()))
    scratch.train_text([parts.text_encoder_2], parts.tokenizer_2, pictures, steps=100, batch=6)
    said = capsys.readouterr().err.splitlines()[-1]
    best = torch.tensor(2.0).log()  # equal captions share the answer: a batch of 6 from 3 captions has about 2 of each
    assert float(said.split("loss ")[1].split()[0]) < float(best) + 0.35
    assert len(set(pictures.captions)) == len(COLOURS)


def test_scenes_without_captions_and_empty_folders_are_refused(tmp_path, capsys):
    assert scratch.main([str(tmp_path), "-o", str(tmp_path / "base")]) == 2
    assert "no scene folders" in capsys.readouterr().err
