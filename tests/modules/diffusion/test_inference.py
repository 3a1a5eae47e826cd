"""Networks for inference, against diffusers and transformers themselves."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_sdxl import CAPTIONS, SIZES

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.inference import dpm_solver, euler
from instant3d.modules.diffusion.inference.dpm_solver import DpmSolver
from instant3d.modules.diffusion.inference.euler import Euler
from instant3d.modules.diffusion.inference.loading import load_components
from instant3d.modules.diffusion.inference.noise_levels import linear_alphas_cumprod
from instant3d.modules.diffusion.inference.unet import UNet
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.text import encode, fits
from instant3d.modules.diffusion.tiny_models import train_tokenizer

pytestmark = pytest.mark.slow

PROMPTS = ["a red fire hydrant", "", "A café’s déjà-vu: 2 dogs!!", "<|endoftext|> don't", "日本語 🙂 " * 20]
UNET = {"layers_per_block": 2, "transformer_layers_per_block": [2, 1]}


def folder_of(folder, unet=UNET, vae=None):
    vae = {"mid_block_add_attention": False} if vae is None else vae
    train_tokenizer(CAPTIONS, folder / "tokenizer", size=600, max_length=24)
    torch.manual_seed(0)
    sizes = SIZES | {"unet": SIZES["unet"] | unet, "vae": SIZES["vae"] | vae}
    Components.build(sizes, folder / "tokenizer").save(folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def both(folder):
    ours = load_components(folder)
    assert isinstance(ours.unet, UNet)
    return ours, Components.load(folder)


def test_tokens_are_those_of_transformers(both):
    ours, theirs = both
    for name in ("tokenizer", "tokenizer_2"):
        assert len(getattr(ours, name)) == len(getattr(theirs, name))
        for prompt in PROMPTS:
            expected = getattr(theirs, name)(prompt, verbose=False).input_ids
            assert getattr(ours, name)(prompt).input_ids == expected
    assert [fits(ours, prompt) for prompt in PROMPTS] == [fits(theirs, prompt) for prompt in PROMPTS]


def test_text_embeddings_are_those_of_transformers(both):
    ours, theirs = (encode(components, PROMPTS) for components in both)
    torch.testing.assert_close(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.pooled, theirs.pooled)


@torch.inference_mode()
def test_unet_predicts_what_diffusers_predicts(both):
    added = {"text_embeds": torch.randn(2, 24), "time_ids": 64 * torch.rand(2, 6)}
    latents, tokens = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 48)
    found, expected = (
        each.unet(latents, torch.tensor(623), encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False)
        for each in both
    )
    torch.testing.assert_close(found[0], expected[0])


@torch.inference_mode()
def test_vae_encodes_and_decodes_as_diffusers_does(both):
    images = 2 * torch.rand(2, 3, 64, 64) - 1
    found, expected = (each.vae.encode(images).latent_dist for each in both)
    torch.testing.assert_close(found.mode(), expected.mode())
    torch.testing.assert_close(found.std, expected.std)
    found, expected = (each.vae.decode(expected.mean, return_dict=False)[0] for each in both)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_takes_the_steps_of_diffusers(kind):
    betas = torch.linspace(0.01, 0.3, 5).tolist()
    config = {"num_train_timesteps": 5, "trained_betas": betas, "prediction_type": kind, "final_sigmas_type": "zero"}
    ours, theirs = Euler(betas, kind), build_scheduler(config, "euler", "trailing")
    theirs.set_timesteps(5)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.sigmas, theirs.sigmas)
    assert ours.init_noise_sigma == theirs.init_noise_sigma
    clean, noise = torch.randn(2, 2, 4, 4, 4)
    first = theirs.timesteps[:1].expand(2)
    sample = theirs.add_noise(clean, noise, first)
    assert torch.equal(ours.add_noise(clean, noise, first), sample)
    for step in theirs.timesteps:
        prediction = torch.randn_like(sample)
        assert torch.equal(ours.scale_model_input(sample, step), theirs.scale_model_input(sample, step))
        found = ours.step(prediction, step, sample)
        sample = theirs.step(prediction, step, sample, return_dict=False)[0]
        assert torch.equal(found[0], sample)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_dpm_solver_takes_the_steps_of_diffusers(kind, steps):
    betas = torch.linspace(0.01, 0.3, steps).tolist()
    config = {"num_train_timesteps": steps, "trained_betas": betas, "prediction_type": kind}
    theirs = build_scheduler(config | {"final_sigmas_type": "zero"}, "dpm++", "trailing")
    theirs.set_timesteps(steps)
    ours = DpmSolver(betas, kind)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert ours.init_noise_sigma == theirs.init_noise_sigma
    clean, noise = torch.randn(2, 2, 4, 4, 4)
    first = theirs.timesteps[:1].expand(2)
    sample = theirs.add_noise(clean, noise, first)
    torch.testing.assert_close(ours.add_noise(clean, noise, first), sample, atol=1e-6, rtol=1e-6)
    for step in theirs.timesteps:
        prediction = torch.randn_like(sample)
        assert torch.equal(ours.scale_model_input(sample, step), theirs.scale_model_input(sample, step))
        found = ours.step(prediction, step, sample)
        sample = theirs.step(prediction, step, sample, return_dict=False)[0]
        torch.testing.assert_close(found[0], sample, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_linear_alphas_cumprod_is_that_of_diffusers(schedule):
    config = {"beta_schedule": schedule, "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 1000}
    assert torch.equal(linear_alphas_cumprod(config), build_scheduler(config, "ddim").alphas_cumprod)


@pytest.mark.parametrize(
    "setting",
    [{"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.1, 0.2]}, {"rescale_betas_zero_snr": True}],
)
def test_linear_alphas_cumprod_leaves_other_schedules_to_diffusers(setting):
    config = {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 2}
    assert linear_alphas_cumprod(config | setting) is None


def test_euler_leaves_other_methods_to_diffusers():
    assert not euler.supports({"use_beta_sigmas": True})
    assert not euler.supports({"prediction_type": "sample"})


@pytest.mark.parametrize(
    "setting", [{"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"}, {"use_lu_lambdas": True}]
)
def test_dpm_solver_leaves_other_methods_to_diffusers(setting):
    assert dpm_solver.supports({"prediction_type": "epsilon"})
    assert not dpm_solver.supports(setting)


@pytest.mark.parametrize("parts", [{"unet": {"use_linear_projection": False}}, {"vae": {}}])
def test_load_components_leaves_other_networks_to_diffusers(tmp_path, parts):
    components = load_components(folder_of(tmp_path, **parts))
    assert type(components.unet).__module__.startswith("diffusers")


def test_load_components_leaves_a_setting_that_is_new_to_diffusers(folder):
    config = folder / "unet" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"new_in_some_version": 1}))
    try:
        assert type(load_components(folder).unet).__module__.startswith("diffusers")
    finally:
        config.write_text(before)


def test_load_components_leaves_tokenizer_settings_that_it_lacks_to_transformers(tmp_path):
    settings = folder_of(tmp_path) / "tokenizer" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    del content["pad_token"]
    settings.write_text(json.dumps(content))
    assert type(load_components(tmp_path).tokenizer).__module__.startswith("transformers")


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_load_components_refuses_a_damaged_tokenizer_in_one_sentence(tmp_path, content):
    (folder_of(tmp_path) / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer is not a usable tokenizer .*; copy or download it again"):
        load_components(tmp_path)


def test_load_components_refuses_weights_of_another_shape_as_diffusers_does(tmp_path):
    from safetensors.torch import load_file, save_file

    file = folder_of(tmp_path) / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"conv_out.bias": torch.zeros(5)}, file)
    with pytest.raises(ValueError, match="does not hold the UNet2DConditionModel"):
        load_components(tmp_path)


def test_text_to_3d_loads_and_draws_without_libraries_of_training():
    heavy = {"diffusers", "transformers", "peft", "torchvision", "torch._dynamo", "trimesh", "sympy", "lightning", "av"}
    code = "\n".join(
        [
            "import sys",
            "from dataclasses import replace",
            "from instant3d.pipelines.text_to_3d import TextTo3D",
            "model = TextTo3D.from_pretrained()",
            "model.views(['a chair'], sampling=replace(model.sampling, steps=1))",
            f"print(sorted({heavy} & set(sys.modules)))",
        ]
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
