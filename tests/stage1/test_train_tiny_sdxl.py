"""Training of a small SDXL from scratch: its parts, their training, and what an interruption costs."""

from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
import yaml
from balls import COLOURS, write_balls

from instant3d.modules.diffusion.components import Components
from instant3d.stage1 import pretrain, train_tiny_sdxl
from instant3d.stage1.pretrain import TrainingSettings, optimize

SIDE = 32  # pixels of a view
TINY = {
    "view_size": SIDE,
    "vocabulary": 600,
    "prompt_length": 16,
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "image_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
    },
    "vae": {"latent_channels": 4, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
    "unet": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [16, 32],
        "attention_head_dim": [2, 2],
        "transformer_layers_per_block": [1, 1],
        "norm_num_groups": 8,
    },
    "train_text": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
    "train_vae": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("scratch")
    write_balls(root / "scenes")
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert command(root) == 0
    return root


def command(root: Path, *more: str) -> int:
    scenes, base, config = (str(root / name) for name in ("scenes", "base", "tiny.yaml"))
    return train_tiny_sdxl.main([scenes, "-o", base, "--config", config, "--device", "cpu", *more])


def views_of(root: Path) -> pretrain.CaptionedViews:
    return pretrain.CaptionedViews(*train_tiny_sdxl.read_views(sorted((root / "scenes").iterdir()), SIDE))


@pytest.mark.slow
def test_train_tiny_sdxl_writes_a_folder_that_plain_diffusers_opens(made):
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(made / "base")
    assert pipeline.vae_scale_factor * pipeline.unet.config.sample_size == 2 * SIDE
    assert pipeline.unet.config.cross_attention_dim == 64  # both encoders' widths side by side
    assert pipeline.tokenizer.model_max_length == 16


def test_demo_config_gives_the_bundled_sizes():
    sizes = train_tiny_sdxl.BaseConfig.read(train_tiny_sdxl.CONFIG).sizes()
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**sizes["unet"])
        vae = diffusers.AutoencoderKL(**sizes["vae"])
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (unet, vae)]
    assert counts == [22_816_552, 4_348_643]  # of checkpoints/stage1-demo


@pytest.mark.slow
def test_caption_words_lie_beside_the_tokenizer(made):
    listed = (made / "base" / "tokenizer" / "caption_words.txt").read_text()
    assert listed == "ball\t3\nblue\t1\ngreen\t1\nred\t1\n"


@pytest.mark.slow
def test_latent_scale_gives_latents_a_standard_deviation_of_one(made):
    parts = Components.load(made / "base", parts=("vae",))
    images = views_of(made).views.flatten(0, 1).float() / 127.5 - 1
    with torch.no_grad():
        latents = parts.vae.encode(images).latent_dist.mean * parts.vae.config.scaling_factor
    assert float(latents.std()) == pytest.approx(1, abs=0.1)  # measured on other random views


@pytest.mark.slow
def test_train_tiny_sdxl_does_not_train_an_existing_part_again(made, monkeypatch):
    def refuse(*_):
        raise AssertionError("trained a second time")

    monkeypatch.setattr(train_tiny_sdxl, "train_vae", refuse)
    monkeypatch.setattr(train_tiny_sdxl, "train_text", refuse)
    before = Components.load(made / "base", parts=("vae",)).vae.decoder.conv_out.weight
    assert command(made) == 0
    after = Components.load(made / "base", parts=("vae",)).vae.decoder.conv_out.weight
    assert torch.equal(before, after)


@pytest.mark.slow
def test_vae_training_halves_the_error_of_its_images(made):
    torch.manual_seed(0)
    data = views_of(made)
    vae = diffusers.AutoencoderKL(
        **{**train_tiny_sdxl.BaseConfig.read(made / "tiny.yaml").sizes()["vae"], "latent_channels": 8}
    )
    images = data.views.flatten(0, 1).float() / 127.5 - 1

    def error() -> float:
        with torch.no_grad():
            return float((vae.eval()(images).sample - images).square().mean())

    before = error()
    pretrain.train_vae(vae, data, TrainingSettings(batch_size=4, learning_rate=4e-3, steps=60))
    assert error() < before / 2


@pytest.mark.slow
def test_text_training_separates_captions(made, capsys):
    torch.manual_seed(0)
    parts = Components.load(made / "base", parts=("tokenizer_2", "text_encoder_2"))
    data = views_of(made)
    images = {**TINY["image_encoder"], "image_size": SIDE}
    training = TrainingSettings(batch_size=6, learning_rate=1e-3, steps=100)
    pretrain.train_text([parts.text_encoder_2], parts.tokenizer_2, images, data, training)
    message = capsys.readouterr().err.splitlines()[-1]
    best = torch.tensor(2.0).log()  # equal captions share the target: a batch of 6 from 3 captions has about 2 of each
    assert float(message.split("loss ")[1].split()[0]) < float(best) + 0.35
    assert len(set(data.captions)) == len(COLOURS)


def line(start: float = 0.0) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, start)
    return model


def test_optimize_after_an_interruption_ends_as_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SAVE_SECONDS", -1.0)
    training, state = TrainingSettings(batch_size=1, learning_rate=0.1, steps=20), tmp_path / "line.training"

    def loss_of(model, stop=None):
        def loss(step, generator):
            if step == stop:
                raise KeyboardInterrupt
            return (model(torch.ones(1)) - torch.rand(1, generator=generator)).square().sum(), ""

        return loss

    whole = line()
    optimize(whole, loss_of(whole), training)
    broken, resumed = line(), line(start=5.0)
    with pytest.raises(KeyboardInterrupt):
        optimize(broken, loss_of(broken, stop=11), training, state=state)
    assert state.is_file()
    optimize(resumed, loss_of(resumed), training, state=state)
    assert torch.equal(resumed.weight, whole.weight)
    assert not state.exists()


def test_optimize_ends_when_its_seconds_are_over():
    clock = iter(range(1000))
    model, taken = line(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        optimize(
            model,
            lambda step, _: (taken.append(step), (model(torch.ones(1)).sum(), ""))[1],
            TrainingSettings(batch_size=1, learning_rate=0.1, seconds=21.0),
        )
    assert len(taken) == 10  # two readings of the clock a step, and one at the start


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view_size": None}, "should have the keys"),
        ({"train_vae": {"batch_size": 4, "learning_rate": 1e-3}}, "training needs an end"),
        ({"train_vae": {"steps": -1, "batch_size": 4, "learning_rate": 1e-3}}, "steps of a training must be positive"),
        ({"train_text": {"epochs": 3}}, "epochs"),
    ],
)
def test_train_tiny_sdxl_refuses_an_invalid_config(tmp_path, capsys, change, message):
    content = {key: value for key, value in {**TINY, **change}.items() if value is not None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    assert command(tmp_path) == 2
    assert message in capsys.readouterr().err


def test_train_tiny_sdxl_refuses_folders_without_scenes(tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "scenes").mkdir()
    assert command(tmp_path) == 2
    assert "no scene folders" in capsys.readouterr().err
