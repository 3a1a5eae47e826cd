"""Stable Diffusion and SDXL as guidance models, against diffusers' own pipelines; the models are tiny and random."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sdxl import tiny_sdxl_folder
from tiny_stable import tiny_stable_folder

from instant3d.direct.guidance.sds import mix_conditions, predict_noise, sds_surrogate_loss
from instant3d.modules.diffusion import noise_process, stable_diffusion
from instant3d.modules.diffusion.loading import without_warnings
from instant3d.modules.diffusion.stable_diffusion import StableDiffusionGuidance
from instant3d.modules.diffusion.text import TextEmbedding

pytestmark = pytest.mark.slow

PROMPTS = ["a red fire hydrant, front view", "", "a blue wooden chair, back view"]
T = torch.tensor([20, 500, 980])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        "sd": tiny_stable_folder(tmp_path_factory.mktemp("sd")),
        "sd-v": tiny_stable_folder(tmp_path_factory.mktemp("sd-v"), prediction_type="v_prediction"),
        "sdxl": tiny_sdxl_folder(tmp_path_factory.mktemp("sdxl")),
    }


@pytest.fixture(scope="module")
def models(folders):
    return {name: StableDiffusionGuidance.from_pretrained(folder) for name, folder in folders.items()}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_images(side, count=3, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_encode_images_agrees_with_diffusers_image_to_image_pipeline(name, folders, models):
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline

    kind = StableDiffusionXLImg2ImgPipeline if name == "sdxl" else StableDiffusionImg2ImgPipeline
    with without_warnings():
        pipeline = kind.from_pretrained(folders[name])
    preprocessed = pipeline.image_processor.preprocess(random_images(64))
    with torch.no_grad():
        expected = pipeline.vae.encode(preprocessed).latent_dist.mode() * pipeline.vae.config.scaling_factor
    found = models[name].encode_images(random_images(64))
    assert found.shape == (3, 4, 8, 8)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_encode_images_gives_one_colour_the_same_latents_at_every_size(models):
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None]
    expected = models["sd"].encode_images(flat.expand(1, 3, 64, 64))
    for side in (8, 20, 100):
        torch.testing.assert_close(
            models["sd"].encode_images(flat.expand(1, 3, side, side)), expected, atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("side", [16, 256])
def test_encode_images_resizes_as_pillow_does(side, models):
    image = random_images(side, 1)
    channels = [Image.fromarray(part.numpy()).resize((64, 64), Image.Resampling.BILINEAR) for part in image[0]]
    resized = torch.stack([torch.tensor(np.array(channel)) for channel in channels])[None]
    torch.testing.assert_close(
        models["sd"].encode_images(image), models["sd"].encode_images(resized), atol=1e-4, rtol=1e-3
    )


def test_encode_images_samples_latents_around_the_mean_with_the_posteriors_spread(folders):
    drawing = StableDiffusionGuidance.from_pretrained(
        folders["sd"], sample=True, generator=torch.Generator().manual_seed(0)
    )
    mean, image = (
        StableDiffusionGuidance.from_pretrained(folders["sd"]).encode_images(random_images(64, 1)),
        random_images(64, 1),
    )
    with torch.no_grad():
        found = drawing.encode_images(image.expand(160, -1, -1, -1))
        deviation = drawing.vae.encode(image * 2 - 1).latent_dist.std * 0.18215
    torch.testing.assert_close(found.std(0), deviation[0], atol=0, rtol=0.3)
    assert ((found.mean(0) - mean[0]).abs() < 5 * deviation[0] / 160**0.5).all()
    drawing.generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(drawing.encode_images(image), found[:1], atol=1e-5, rtol=1e-4)


def test_encode_images_passes_the_gradient_to_the_image_and_to_no_weights(models):
    model, images = models["sd"], random_images(16).requires_grad_()
    x0 = model.encode_images(images)
    (prediction,) = predict_noise(model, x0, T, [model.embed_prompts(PROMPTS)])
    sds_surrogate_loss(x0, prediction).backward()
    assert not prediction.requires_grad
    for network in (model.unet, model.vae, model.components.text_encoder):
        assert all(parameter.grad is None for parameter in network.parameters())
    # finite differences along one direction: the loss is linear in x0, so its slope is <J d, prediction> / B
    direction, step = normal(3, 3, 16, 16), 1e-3
    with torch.no_grad():
        change = model.encode_images(images + step * direction) - model.encode_images(images - step * direction)
    slope = (change * prediction).sum().item() / (2 * step * 3)
    assert (images.grad * direction).sum().item() == pytest.approx(slope, rel=2e-2)


def test_encode_images_keeps_a_gradient_beyond_white(models):
    images = (1.5 + random_images(16)).requires_grad_()
    models["sd"].encode_images(images).square().sum().backward()
    assert (images.grad.abs() > 0).float().mean() > 0.9


def test_predict_noise_of_stable_diffusion_is_its_unets_output_for_the_pipelines_embedding(folders, models):
    from diffusers import StableDiffusionPipeline

    with without_warnings(), torch.no_grad():
        pipeline = StableDiffusionPipeline.from_pretrained(folders["sd"])
        conditions, nothing = pipeline.encode_prompt(PROMPTS[:1], "cpu", 1, do_classifier_free_guidance=True)
        expected = pipeline.unet(normal(2, 4, 8, 8), T[1:], torch.cat([conditions, nothing])).sample
    found = models["sd"].predict_noise(normal(2, 4, 8, 8), T[1:], models["sd"].embed_prompts(PROMPTS[:2]))
    torch.testing.assert_close(found, expected)


def test_predict_noise_converts_velocity_to_the_same_models_noise(folders, models):
    plain, model, x_t = models["sd"], models["sd-v"], normal(3, 4, 8, 8)
    conditions = model.embed_prompts(PROMPTS)
    torch.testing.assert_close(conditions, plain.embed_prompts(PROMPTS))  # same weights, other prediction type
    velocity, eps = plain.predict_noise(x_t, T, conditions), model.predict_noise(x_t, T, conditions)
    abar = model.abar[T][:, None, None, None]
    # as diffusers' scheduler converts it, DDIM (Song et al. 2021)
    torch.testing.assert_close(eps, abar.sqrt() * velocity + (1 - abar).sqrt() * x_t)
    z = noise_process.predict_clean("v_prediction", velocity, x_t, model.abar[T])
    torch.testing.assert_close(noise_process.add_noise(z, eps, model.abar[T]), x_t)


def test_predict_noise_of_sdxl_passes_sizes_and_summary_as_its_own_pipeline(folders, models):
    from diffusers import StableDiffusionXLPipeline

    with without_warnings(), torch.no_grad():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folders["sdxl"])
        tokens, nothing, pooled, no_summary = pipeline.encode_prompt(PROMPTS[:1])
        sizes = pipeline._get_add_time_ids((64, 64), (0, 0), (64, 64), torch.float32, 24)
        expected = pipeline.unet(
            normal(2, 4, 8, 8),
            T[1:],
            torch.cat([tokens, nothing]),
            added_cond_kwargs={"text_embeds": torch.cat([pooled, no_summary]), "time_ids": sizes.repeat(2, 1)},
        ).sample
    found = models["sdxl"].predict_noise(normal(2, 4, 8, 8), T[1:], models["sdxl"].embed_prompts(PROMPTS[:2]))
    torch.testing.assert_close(found, expected)
    # the prediction depends on the sizes
    other = StableDiffusionGuidance.from_pretrained(folders["sdxl"], size=128)
    assert (
        other.predict_noise(normal(1, 4, 8, 8), T[1:2], other.embed_prompts(PROMPTS[:1])) - expected[:1]
    ).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_predict_noise_of_four_conditions_is_one_call_with_the_results_of_single_ones(name, models, monkeypatch):
    model, calls = models[name], []
    conditions = model.embed_prompts(["", *PROMPTS[::2], "a teapot"])
    each = [conditions[[k, k]] for k in range(4)]
    x_t, t = normal(2, 4, 8, 8), torch.tensor([100, 900])
    alone = torch.stack([model.predict_noise(x_t, t, condition) for condition in each])
    forward = model.unet.forward
    monkeypatch.setattr(
        model.unet, "forward", lambda *args, **more: calls.append(len(args[0])) or forward(*args, **more)
    )
    torch.testing.assert_close(predict_noise(model, x_t, t, each), alone, atol=1e-5, rtol=1e-4)
    assert calls == [8]


def test_mix_conditions_mixes_sdxl_embeddings_between_views_with_their_summaries(models):
    conditions = models["sdxl"].embed_prompts(PROMPTS)
    both = TextEmbedding.stack([conditions[[0, 1]], conditions[[2, 2]]])  # two samples between two words each
    mixed = mix_conditions(both, torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    torch.testing.assert_close(mixed.pooled, torch.stack([0.25 * conditions.pooled[0], conditions.pooled[2]]))
    torch.testing.assert_close(mixed.tokens[0], 0.25 * conditions.tokens[0])
    assert conditions.tokens[1].abs().max() == conditions.pooled[1].abs().max() == 0  # SDXL's empty prompt


def test_guidance_in_half_precision_predicts_in_float32_and_keeps_a_vae_that_overflows_in_float32(tmp_path):
    folder = tiny_stable_folder(tmp_path, force_upcast=True)
    half, full = (
        StableDiffusionGuidance.from_pretrained(folder, dtype=torch.bfloat16),
        StableDiffusionGuidance.from_pretrained(folder),
    )
    assert (half.unet.dtype, half.vae.dtype) == (torch.bfloat16, torch.float32)
    x_t, conditions = normal(3, 4, 8, 8), half.embed_prompts(PROMPTS)
    found = half.predict_noise(x_t, T, conditions)
    assert found.dtype == half.encode_images(random_images(64)).dtype == conditions.dtype == torch.float32
    torch.testing.assert_close(found, full.predict_noise(x_t, T, full.embed_prompts(PROMPTS)), atol=0.1, rtol=0.1)


def test_guidance_inside_autocast_is_unchanged(models):
    model, images = models["sd"], random_images(16)
    latents = model.encode_images(images)
    noise = model.predict_noise(latents, T, model.embed_prompts(PROMPTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.encode_images(images), latents)
        torch.testing.assert_close(
            model.predict_noise(latents, T, model.embed_prompts(PROMPTS)), noise, atol=0.05, rtol=0.05
        )


def test_guidance_size_that_is_no_multiple_of_a_latent_is_refused(folders):
    with pytest.raises(ValueError, match="one latent of 8 pixels, so images of 100 do not fit; give a multiple of 8"):
        StableDiffusionGuidance.from_pretrained(folders["sd"], size=100)


def test_from_pretrained_refuses_a_folder_without_a_unet_in_one_sentence(folders, tmp_path):
    shutil.copytree(folders["sd"] / "vae", tmp_path / "vae")
    with pytest.raises(
        FileNotFoundError, match=r"unet/config\.json does not exist; is .*/unet part of a model"
    ) as error:
        StableDiffusionGuidance.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_from_pretrained_refuses_a_hub_id_that_cannot_be_reached_in_one_sentence():
    with pytest.raises(FileNotFoundError, match="the Hub cannot be reached; connect to the network once") as error:
        StableDiffusionGuidance.from_pretrained(stable_diffusion.SD_2_1_BASE)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="neither a folder in diffusers' layout"):
        StableDiffusionGuidance.from_pretrained("no-such-folder")


def test_from_pretrained_refuses_other_kinds_of_model_and_parts_of_two_models(folders, tmp_path):
    model = shutil.copytree(folders["sd"], tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match=r"holds a FluxPipeline, not a Stable Diffusion \(StableDiffusionPipeline\)"):
        StableDiffusionGuidance.from_pretrained(model)
    (model / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(model / "text_encoder")
    shutil.copytree(folders["sdxl"] / "text_encoder", model / "text_encoder")
    with pytest.raises(ValueError, match="reads 32 numbers a token, but its text encoder gives 16; take them from one"):
        StableDiffusionGuidance.from_pretrained(model)
