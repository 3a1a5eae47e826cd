"""Instant3D's released stage 1, converted, against what its own code computed, and against the released names."""

import json
from types import SimpleNamespace

import pytest
import torch
from golden_generators import GoldenGenerator

from instant3d.cli import main as cli
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.inference.euler import Euler
from instant3d.modules.diffusion.text import TextEmbedding, encode
from instant3d.pipelines.convert import grm_instant3d
from instant3d.pipelines.convert.family import Shapes
from instant3d.pipelines.convert.rules import differences, folded
from instant3d.pipelines.convert.sgm_rules import sdxl_rules
from instant3d.pipelines.convert.sgm_sizes import sdxl_sizes
from instant3d.pipelines.convert.source import Config
from instant3d.stage1.initial_noise import start_image
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling
from instant3d.stage1.spaced_scheduler import spaced_scheduler

pytestmark = pytest.mark.slow

GOLDEN = GoldenGenerator("grm-instant3d")
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
SAMPLING = Sampling(steps=8, guidance=5.0)


class Ids:
    """A tokenizer that answers recorded tokens."""

    model_max_length = 77

    def __init__(self, ids):
        self.ids = ids

    def __call__(self, prompts, **_):
        return SimpleNamespace(input_ids=self.ids.expand(len(prompts), -1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("grm")
    assert cli.main(["convert", "grm-instant3d", str(GOLDEN.source(path / "theirs")), "-o", str(path / "ours")]) == 0
    return path / "ours"


@pytest.fixture(scope="module")
def components(folder):
    parts = Components.load(folder, parts=PARTS)
    parts.tokenizer, parts.tokenizer_2 = (Ids(GOLDEN.inputs[f"token_ids_{name}"]) for name in "lg")
    return parts


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    monkeypatch.setattr("instant3d.stage1.sampler.fast_dtype", lambda: torch.float32)


@pytest.fixture
def recorded_noise(monkeypatch):
    """Draws of the released code, in its order, in place of random numbers."""
    draws = iter([GOLDEN.inputs["noise"][0], GOLDEN.inputs["posterior_noise"][0]])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(draws))


def error(found, wanted):
    """The norm of the difference as a share of the norm."""
    return float((found - wanted).norm() / wanted.norm())


def test_text_embeddings_are_those_of_the_released_code(components):
    text = encode(components, ["recorded"])
    assert error(text.tokens, GOLDEN.outputs["cond_crossattn"]) < 1e-5
    assert error(text.pooled, GOLDEN.outputs["text_g_pooled"]) < 1e-5


@pytest.mark.parametrize("steps", [30, 50, 100])
def test_legacy_spacing_visits_the_timesteps_of_the_released_code(components, steps):
    _, timesteps = spaced_scheduler(components.scheduler.config, Sampling(steps=steps), "legacy")
    assert torch.equal(timesteps, GOLDEN.outputs[f"timesteps_{steps}"])


def test_unet_predicts_what_the_released_code_predicts(components):
    sampler, count = GridSampler(components), len(GOLDEN.inputs["test_timesteps"])
    text = encode(components, ["recorded"])[[0] * count]
    with torch.no_grad():
        found = sampler._predict(
            GOLDEN.inputs["test_x"].expand(count, -1, -1, -1), GOLDEN.inputs["test_timesteps"], text
        )
    assert error(found, GOLDEN.outputs["test_eps_cond"]) < 1e-4


def test_blob_is_the_one_of_the_released_code():
    image = start_image("blob", 128, shrunk=True)
    torch.testing.assert_close(2 * image[:1] - 1, GOLDEN.outputs["blob_image"][0], atol=1e-6, rtol=0)


def test_start_is_the_blob_sampled_and_fused_as_in_the_released_code(components, recorded_noise):
    sampler = GridSampler(components)
    scheduler, _ = spaced_scheduler(components.scheduler.config, SAMPLING, components.layout.sampling)
    torch.testing.assert_close(scheduler.sigmas, GOLDEN.outputs["sigmas"], rtol=1e-5, atol=1e-6)
    assert error(sampler.start(scheduler, SAMPLING, [0]), GOLDEN.outputs["start_latents"]) < 1e-5


def test_every_step_and_the_image_are_those_of_the_released_code(components, recorded_noise, monkeypatch):
    states, step = [], Euler.step

    def recorded(*arguments, **settings):
        result = step(*arguments, **settings)
        states.append(result[0])
        return result

    monkeypatch.setattr(Euler, "step", recorded)
    sampler = GridSampler(components)
    text = encode(components, ["recorded"])
    latents = sampler.denoise(text, TextEmbedding.zeros_like(text), sampling=SAMPLING, seeds=[0])
    for found, wanted in zip(states, GOLDEN.outputs["latents"], strict=True):
        assert error(found, wanted) < 1e-4
    image = (GOLDEN.outputs["decoded"] + 1).div(2).clamp(0, 1)
    torch.testing.assert_close(sampler.decode(latents), image, atol=2e-4, rtol=0)


def test_views_have_the_cameras_of_the_released_code(components):
    cameras = components.layout.cameras
    torch.testing.assert_close(cameras.cam_to_world, GOLDEN.outputs["cam_to_world"], atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, GOLDEN.outputs["intrinsics"], atol=1e-5, rtol=0)


def test_released_sizes_follow_from_the_released_names_and_shapes_and_leave_no_tensor_over():
    theirs = {name: torch.empty(shape, device="meta") for name, shape in GOLDEN.full_size.items()}
    networks = grm_instant3d.empty_networks(sdxl_sizes(Shapes(theirs, "the release"), Config({})))
    left = {key: value for key, value in theirs.items() if key not in grm_instant3d.NO_WEIGHTS}
    count = 0
    for name, rules in sdxl_rules(networks).items():
        ours = folded(rules, left)
        assert {key: value.shape for key, value in networks[name].state_dict().items()} == {
            key: value.shape for key, value in ours.items()
        }
        count += sum(value.numel() for value in ours.values())
    every = [rule for rules in sdxl_rules(networks).values() for rule in rules]
    assert differences(every, left) == ([], [])
    assert count == 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_841 - 1  # without logit_scale
    assert networks["unet"].config.attention_head_dim == [5, 10, 20]
    assert networks["unet"].config.transformer_layers_per_block == [1, 2, 10]


def test_released_sizes_are_those_that_diffusers_publishes_for_sdxl():
    from instant3d.modules.diffusion import sdxl

    theirs = {name: torch.empty(shape, device="meta") for name, shape in GOLDEN.full_size.items()}
    sizes = sdxl_sizes(Shapes(theirs, "the release"), Config({}))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert {key: sizes[part][key] for key in sdxl.SIZES[part]} == sdxl.SIZES[part] | (
            {"transformer_layers_per_block": [1, 2, 10]} if part == "unet" else {}
        )


def test_plain_diffusers_opens_the_folder_and_predicts_the_same(folder):
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    size = torch.full((1, 6), 128.0)
    size[:, 2:4] = 0
    conditions = {"text_embeds": GOLDEN.outputs["text_g_pooled"], "time_ids": size}
    with torch.no_grad():
        found = unet(
            GOLDEN.inputs["test_x"], 999, GOLDEN.outputs["cond_crossattn"], added_cond_kwargs=conditions
        ).sample
    assert error(found, GOLDEN.outputs["test_eps_cond"][:1]) < 1e-4


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model.diffusion_model.out.0.weight": None}, "missing 1: model.diffusion_model.out.0.weight"),
        ({"lora.weight": torch.zeros(1)}, "unexpected 1: lora.weight"),
        ({"denoiser.sigmas": torch.linspace(0.01, 80.0, 1000)}, "trained with other noise levels"),
        ({"model.diffusion_model.out.0.weight": torch.zeros(7)}, "unexpected shapes"),
        ({"first_stage_model.decoder.conv_in.weight": None}, "has no first_stage_model.decoder.conv_in.weight"),
    ],
)
def test_convert_refuses_another_checkpoint_by_name_and_writes_nothing(tmp_path, capsys, changes, fault):
    source = GOLDEN.source(tmp_path / "theirs", **changes)
    assert cli.main(["convert", "grm-instant3d", str(source), "-o", str(tmp_path / "ours")]) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_convert_lists_what_it_leaves_out(tmp_path, capsys):
    assert cli.main(["convert", "grm-instant3d", str(GOLDEN.source(tmp_path)), "--check"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert all(key in line for key in json.loads((GOLDEN.folder / "config.json").read_text())["extra_keys"])
