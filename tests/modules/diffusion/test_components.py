import shutil

import pytest
import torch
from tiny_sdxl import SIZES, tiny_sdxl

from instant3d.modules.diffusion import saving
from instant3d.modules.diffusion.checkpoint_source import ALL, NETWORKS
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.loading import without_warnings
from instant3d.modules.diffusion.lora_training import merge_lora, with_lora
from instant3d.modules.diffusion.schedulers import SAMPLERS, build_scheduler
from instant3d.modules.diffusion.text import encode
from instant3d.modules.xformers_attention import with_xformers

PROMPT = ["a red fire hydrant"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    parts = tiny_sdxl(folder / "tokenizer")
    parts.save(folder / "full", torch.float32)
    parts.save(folder / "half")
    return parts, folder


def predict(unet, *, seed=0):
    """The UNet's prediction for fixed latents at timestep 500 with text of the right sizes."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    tokens, pooled = torch.randn(2, 24, 48, generator=generator), torch.randn(2, 24, generator=generator)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)
    with torch.no_grad():
        return unet(latents, 500, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample


@pytest.mark.slow
def test_components_are_loaded_as_they_were_saved(saved):
    parts, folder = saved
    again = Components.load(folder / "full")
    for name in NETWORKS:
        wanted, found = getattr(parts, name).state_dict(), getattr(again, name).state_dict()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), name
    assert dict(again.scheduler.config) | {"_use_default_values": 0} == dict(parts.scheduler.config) | {
        "_use_default_values": 0
    }
    torch.testing.assert_close(encode(again, PROMPT).tokens, encode(parts, PROMPT).tokens)


@pytest.mark.slow
def test_save_writes_components_that_plain_diffusers_opens_and_samples_the_same(saved):
    from diffusers import StableDiffusionXLPipeline

    folder = saved[1]
    with without_warnings():
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder / "half")
    assert all(getattr(pipeline, name) is not None for name in ALL)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "output_type": "latent"}
    drawn = pipeline(PROMPT, generator=torch.Generator().manual_seed(0), **settings).images
    own = StableDiffusionXLPipeline(**Components.load(folder / "half").parts)
    own.set_progress_bar_config(disable=True)
    torch.testing.assert_close(own(PROMPT, generator=torch.Generator().manual_seed(0), **settings).images, drawn)


@pytest.mark.slow
def test_save_gives_the_first_text_encoder_the_tensor_names_that_older_libraries_read(saved):
    from safetensors import safe_open

    with safe_open(saved[1] / "full" / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118
    for name in ("vocab.json", "merges.txt"):
        assert (saved[1] / "full" / "tokenizer" / name).is_file()


@pytest.mark.slow
def test_save_in_half_precision_leaves_the_model_itself_unchanged(saved, tmp_path):
    from safetensors.torch import load_file

    parts, folder = saved
    assert parts.unet.dtype == torch.float32
    stored = load_file(folder / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    key = "conv_in.weight"
    torch.testing.assert_close(stored[key], parts.unet.state_dict()[key].half())


def test_save_gives_weights_the_file_permissions_of_their_settings(saved):
    folder = saved[1] / "half" / "unet"
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


@pytest.mark.slow
def test_save_leaves_the_path_of_loading_out_of_the_settings(saved, tmp_path):
    folder = saved[1] / "full"
    Components.load(folder).save(tmp_path / "again")
    mentions = [path for path in (tmp_path / "again").rglob("*.json") if str(folder) in path.read_text()]
    assert mentions == []


def test_save_that_is_interrupted_leaves_nothing(saved, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "_write_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved[0].save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_load_gives_networks_the_wanted_precision_and_evaluation_mode(saved):
    parts = Components.load(saved[1] / "full", dtype=torch.bfloat16)
    for name in NETWORKS:
        assert getattr(parts, name).dtype == torch.bfloat16
        assert not getattr(parts, name).training


@pytest.mark.slow
def test_vae_that_overflows_in_float16_stays_in_float32(tmp_path):
    parts = tiny_sdxl(tmp_path / "tokenizer")
    parts.vae.register_to_config(force_upcast=True)
    parts.save(tmp_path / "model")
    loaded = Components.load(tmp_path / "model", dtype=torch.float16)
    assert (loaded.vae.dtype, loaded.unet.dtype) == (torch.float32, torch.float16)
    assert Components.load(tmp_path / "model", dtype=torch.bfloat16).vae.dtype == torch.bfloat16


def test_components_load_only_the_wanted_parts(saved, tmp_path):
    for name in ("unet", "scheduler"):
        shutil.copytree(saved[1] / "half" / name, tmp_path / name)
    shutil.copy(saved[1] / "half" / "model_index.json", tmp_path)
    parts = Components.load(tmp_path, parts=("unet", "scheduler"))
    assert [name for name in ALL if getattr(parts, name) is None] == [
        name for name in ALL if name not in ("unet", "scheduler")
    ]
    with pytest.raises(ValueError, match="load the part 'vae'"):
        parts.vae_factor  # noqa: B018
    with pytest.raises(ValueError, match="were not loaded; load all parts"):
        parts.save(tmp_path / "again")
    with pytest.raises(ValueError, match="no part 'decoder'"):
        Components.load(tmp_path, parts=("decoder",))


def test_vae_factor_and_grid_size_agree_with_what_the_vae_decodes(saved):
    parts, _ = saved
    with torch.no_grad():
        image = parts.vae.decode(torch.zeros(1, 4, 8, 8)).sample
    assert image.shape[-1] == parts.grid_size == 8 * parts.vae_factor


@pytest.mark.slow
def test_load_prints_nothing(saved, capfd):
    Components.load(saved[1] / "full")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("spacing", [None, "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_build_scheduler_of_each_kind_finds_the_only_image_of_a_perfect_network(name, kind, spacing):
    generator = torch.Generator().manual_seed(0)
    z, eps = 3 * torch.randn(4, 8, 8, generator=generator), torch.randn(4, 8, 8, generator=generator)
    scheduler = build_scheduler({**SIZES["scheduler"], "prediction_type": kind}, name, spacing)
    scheduler.set_timesteps(12)
    x = eps * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[int(step.round())]
        shown = scheduler.scale_model_input(x, step)
        noise = (shown - abar.sqrt() * z) / (1 - abar).sqrt()
        prediction = noise if kind == "epsilon" else abar.sqrt() * noise - (1 - abar).sqrt() * z
        x = scheduler.step(prediction, step, x).prev_sample
    # by SDXL's settings DDIM ends at the first timestep, where a share sqrt(1 - abar_0) = 0.03 of noise is left;
    # values far beyond 1 are not clipped
    torch.testing.assert_close(x, z, atol=0.15, rtol=0)


@pytest.mark.parametrize(("spacing", "first"), [(None, 958), ("leading", 958), ("trailing", 999), ("linspace", 999)])
def test_build_scheduler_begins_at_the_timestep_of_its_spacing(spacing, first):
    for name in SAMPLERS:
        scheduler = build_scheduler(SIZES["scheduler"], name, spacing)
        scheduler.set_timesteps(30)
        # dpm++ counts the end among its 31 levels, so that T // 31 = 32 timesteps lie between two; lcm has no choice
        leading = {"dpm++": 1 + 30 * 32, "lcm": 999}.get(name, 958)
        assert int(scheduler.timesteps[0]) == (leading if first == 958 else first), name


def test_build_scheduler_refuses_an_unknown_sampler():
    with pytest.raises(ValueError, match=r"no sampler 'eular'; choose among ddim, euler, dpm\+\+, lcm"):
        build_scheduler(SIZES["scheduler"], "eular")


@pytest.mark.slow
def test_lora_starts_as_the_identity_and_is_all_that_is_trained(tmp_path):
    unet = tiny_sdxl(tmp_path).unet
    before = predict(unet)
    names = {name for name, _ in unet.named_parameters()}
    with_lora(unet, 2, 2.0)
    torch.testing.assert_close(predict(unet), before)
    trainable = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in unet.named_parameters() if "lora_" in name}
    # four blocks with attention (down, middle, up twice), in each two attentions of four projections with A and B
    assert len(trainable) == 4 * 2 * 4 * 2
    assert len(names) > 0


@pytest.mark.slow
def test_merge_lora_adds_alpha_over_rank_times_the_product_to_the_weights(tmp_path):
    unet = with_lora(tiny_sdxl(tmp_path).unet, 2, 3.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    product = layer.lora_B.default.weight @ layer.lora_A.default.weight
    expected = layer.base_layer.weight + 3.0 / 2 * product
    apart = predict(unet)
    with pytest.raises(ValueError, match="merge them first"):
        tiny_with(unet, tmp_path).save(tmp_path / "model")
    merge_lora(unet)
    torch.testing.assert_close(unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight, expected)
    torch.testing.assert_close(predict(unet), apart, atol=1e-4, rtol=1e-4)
    tiny_with(unet, tmp_path).save(tmp_path / "model", torch.float32)
    torch.testing.assert_close(predict(Components.load(tmp_path / "model", parts=["unet"]).unet), predict(unet))
    assert all(parameter.requires_grad for parameter in unet.parameters())


def tiny_with(unet, tmp_path):
    parts = tiny_sdxl(tmp_path / "tokenizer")
    parts.unet = unet
    return parts


def test_lora_of_rank_zero_and_xformers_without_cuda_are_refused(saved):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        with_lora(saved[0].unet, 0, 1.0)
    with pytest.raises(ValueError, match="CUDA only, but the UNet is on cpu"):
        with_xformers(saved[0].unet)
