import json
import shutil
from pathlib import Path

import pytest
import single_file_sdxl
import torch
from safetensors.torch import load_file, save_file
from tiny_sdxl import SIZES, TEXT, tiny_sdxl

from instant3d.modules.diffusion import checkpoint_source
from instant3d.modules.diffusion.checkpoint_source import ALL, NETWORKS
from instant3d.modules.diffusion.components import Components, build_part

WEIGHTS = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    parts = tiny_sdxl(folder / "tokenizer")
    parts.save(folder, torch.float32)
    return parts, folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(original[1], tmp_path / "model"))


def change(path, **settings):
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def mark_half(folder):
    for path in [*folder.glob("*/*.safetensors")]:
        half = {key: tensor.half() for key, tensor in load_file(path).items()}
        path.unlink()
        save_file(half, path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})


def cached(monkeypatch, cache, hub_id, folder):
    """Lay a folder into a Hugging Face cache as if it had been downloaded."""
    from huggingface_hub import constants

    repository = cache / f"models--{hub_id.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / "0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def same(found, wanted, names=NETWORKS):
    for name in names:
        weights = getattr(wanted, name).state_dict()
        for key, tensor in getattr(found, name).state_dict().items():
            torch.testing.assert_close(tensor, weights[key], msg=f"{name} {key}")


@pytest.mark.slow
def test_load_reads_fp16_files_where_there_are_no_others(original, folder):
    mark_half(folder)
    parts = Components.load(folder)
    assert parts.unet.dtype == torch.float32
    torch.testing.assert_close(parts.unet.conv_in.weight, original[0].unet.conv_in.weight.half().float())


@pytest.mark.slow
def test_variant_of_the_wanted_precision_is_read(original, folder):
    full = load_file(folder / "unet" / WEIGHTS["unet"])
    marked = {key: torch.ones_like(tensor).half() for key, tensor in full.items()}
    save_file(marked, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", metadata={"format": "pt"})
    assert (Components.load(folder, parts=["unet"], dtype=torch.float16).unet.conv_in.weight == 1).all()
    same(Components.load(folder, parts=["unet"]), original[0], ["unet"])


@pytest.mark.slow
def test_load_reads_sharded_weights_and_names_a_missing_shard(original, folder):
    original[0].unet.save_pretrained(folder / "unet", max_shard_size="300KB")
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    pieces = sorted((folder / "unet").glob("*.safetensors"))
    assert len(pieces) > 2
    same(Components.load(folder, parts=["unet"]), original[0], ["unet"])
    pieces[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"{pieces[1].name} does not exist; the download stopped early"):
        Components.load(folder, parts=["unet"])


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_load_refuses_truncated_weights(folder, name):
    path = folder / name / WEIGHTS[name]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file") as error:
        Components.load(folder)
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights \(\*.safetensors\)"):
        Components.load(folder)


@pytest.mark.parametrize("name", WEIGHTS)
def test_load_never_opens_pickled_weights(folder, name):
    path = folder / name / WEIGHTS[name]
    path.with_suffix(".bin").write_bytes(b"cposix\nsystem\n")
    path.unlink()
    with pytest.raises(ValueError, match=r"only in .*bin, a kind of file that can run code"):
        Components.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_lack_a_tensor_or_have_another_shape_are_refused(folder, name):
    path = folder / name / WEIGHTS[name]
    weights = load_file(path)
    key = sorted(weights)[0]
    for spoilt in ({k: v for k, v in weights.items() if k != key}, {**weights, key: torch.ones(3, 3)}):
        save_file(spoilt, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{name} does not hold the .* (missing|{key})") as error:
            Components.load(folder)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_load_names_a_missing_or_empty_component_folder(folder, name):
    shutil.rmtree(folder / name)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"/{name}") as error:
            Components.load(folder)
        assert "\n" not in str(error.value)
        (folder / name).mkdir(exist_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_settings_that_are_no_json_are_refused(folder, file):
    (folder / file).write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        Components.load(folder)


def test_load_refuses_another_kind_of_model_by_its_class_name(folder):
    change(folder / "model_index.json", _class_name="StableDiffusionPipeline")
    with pytest.raises(ValueError, match="holds a StableDiffusionPipeline, not an SDXL"):
        Components.load(folder)


@pytest.mark.slow
def test_unet_without_sizes_and_summary_is_refused(folder):
    plain = {key: value for key, value in SIZES["unet"].items() if "add" not in key and "projection_class" not in key}
    build_part("unet", plain).save_pretrained(folder / "unet")
    with pytest.raises(ValueError, match="addition_embed_type is None, not 'text_time'"):
        Components.load(folder, parts=["unet", "scheduler"])


@pytest.mark.slow
def test_compatibility_check_refuses_parts_that_do_not_fit_together(folder, tmp_path):
    def built(**changed):
        sizes = {name: {**SIZES[name], **changed.get(name, {})} for name in SIZES}
        return Components.build(sizes, folder / "tokenizer")

    with pytest.raises(ValueError, match="works on 4 channels and predicts 4, but its VAE has 16"):
        built(vae={"latent_channels": 16})
    with pytest.raises(ValueError, match="reads 48 numbers a token, but its text encoders give 64"):
        built(text_encoder={**TEXT, "hidden_size": 32})
    with pytest.raises(ValueError, match="a text summary of 24 numbers, but its second text encoder gives 8"):
        built(text_encoder_2={"projection_dim": 8})
    with pytest.raises(ValueError, match="gives up to 24 tokens, but its text encoder reads 12"):
        built(text_encoder={"max_position_embeddings": 12})
    with pytest.raises(ValueError, match="tokens, but its text encoder 300; take both"):
        built(text_encoder={"vocab_size": 300, "eos_token_id": 299, "bos_token_id": 298, "pad_token_id": 299})


def test_scheduler_that_diffusers_does_not_have_is_refused(folder):
    for name in ("NoSuchScheduler", "DiffusionPipeline", "__name__"):
        change(folder / "scheduler" / "scheduler_config.json", _class_name=name)
        with pytest.raises(ValueError, match=f"names '{name}' as its scheduler"):
            Components.load(folder, parts=["scheduler"])


def test_source_that_is_neither_folder_nor_file_nor_hub_id_is_refused(tmp_path):
    for name in (tmp_path / "nowhere", "checkpoints/nothing-here", "./model", "a/b/c", "model.safetensors"):
        with pytest.raises(FileNotFoundError, match="neither a folder in diffusers' layout, nor"):
            Components.load(name)
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json"):
        Components.load(tmp_path)


def test_hub_that_cannot_be_reached_is_one_clear_sentence(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="the Hub cannot be reached; connect to the network once") as error:
        Components.load(checkpoint_source.SDXL)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_load_finds_a_downloaded_model_offline_in_any_precision(original, folder, monkeypatch, tmp_path):
    cached(monkeypatch, tmp_path / "cache", "someone/full", original[1])
    same(Components.load("someone/full", dtype=torch.float32), original[0])
    assert Components.load("someone/full", dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    mark_half(folder)
    cached(monkeypatch, tmp_path / "cache", "someone/half", folder)
    assert Components.load("someone/half", dtype=torch.float16).unet.dtype == torch.float16
    assert Components.load("someone/half").unet.dtype == torch.float32


@pytest.mark.slow
def test_load_gives_sdxl_in_float16_the_vae_that_does_not_overflow(original, folder, monkeypatch, tmp_path):
    mark_half(folder)
    change(folder / "vae" / "config.json", force_upcast=True)
    safe = tmp_path / "safe"
    original[0].vae.save_pretrained(safe)
    weights = load_file(safe / WEIGHTS["unet"])
    save_file({key: tensor + 1 for key, tensor in weights.items()}, safe / WEIGHTS["unet"], metadata={"format": "pt"})
    cached(monkeypatch, tmp_path / "cache", checkpoint_source.SDXL, folder)
    with pytest.raises(FileNotFoundError, match=checkpoint_source.SAFE_VAE):
        Components.load(checkpoint_source.SDXL, dtype=torch.float16)
    cached(monkeypatch, tmp_path / "cache", checkpoint_source.SAFE_VAE, safe)
    substituted = Components.load(checkpoint_source.SDXL, dtype=torch.float16).vae
    assert substituted.dtype == torch.float16
    bias = original[0].vae.decoder.conv_in.bias
    torch.testing.assert_close(substituted.decoder.conv_in.bias, (bias + 1).half())
    own = Components.load(checkpoint_source.SDXL, dtype=torch.float32).vae
    torch.testing.assert_close(own.decoder.conv_in.bias, bias.half().float())


@pytest.fixture
def single(original, folder):
    """One file of all weights, beside the settings of its parts."""
    for path in folder.glob("*/*.safetensors"):
        path.unlink()
    single_file_sdxl.write(original[0], folder / "sd_xl_tiny.safetensors")
    return folder / "sd_xl_tiny.safetensors"


@pytest.mark.slow
def test_load_of_a_single_file_of_all_weights_is_the_same_model(original, single):
    same(Components.load(single), original[0])


@pytest.mark.slow
def test_load_of_a_single_file_reads_only_the_wanted_parts(original, single):
    for name in ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "vae"):
        shutil.rmtree(single.parent / name)
    parts = Components.load(single, parts=["unet", "scheduler"])
    same(parts, original[0], ["unet"])
    assert parts.vae is None
    assert parts.scheduler.config.prediction_type == "epsilon"


@pytest.mark.slow
def test_load_of_a_single_file_without_settings_is_refused_with_a_remedy(single, monkeypatch, tmp_path, original):
    from huggingface_hub import constants

    (tmp_path / "alone").mkdir()
    alone = Path(shutil.copy(single, tmp_path / "alone"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"holds weights alone, .* lay the \.json and \.txt files of"):
        Components.load(alone)
    cached(monkeypatch, tmp_path / "cache", checkpoint_source.SDXL, single.parent)
    same(Components.load(alone), original[0])


@pytest.mark.slow
def test_load_of_a_single_file_of_another_model_or_cut_short_is_refused(single):
    weights = load_file(single)
    lora = single.parent / "lora.safetensors"
    save_file({"unet.to_q.lora_A": torch.ones(2, 2)}, lora)
    with pytest.raises(ValueError, match=r"no single-file SDXL: it holds no tensor of model\.diffusion_model"):
        Components.load(lora)
    for part in ("model.diffusion_model", "first_stage_model", "conditioner.embedders.0", "conditioner.embedders.1"):
        lost = next(name for name in sorted(weights) if name.startswith(part) and ("norm" in name or "ln_" in name))
        save_file({name: tensor for name, tensor in weights.items() if name != lost}, single)
        with pytest.raises(ValueError, match=r"lacks tensors that .* describes; give another"):
            Components.load(single)
    single.write_bytes(single.read_bytes()[:10_000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Components.load(single)
    checkpoint = single.with_suffix(".ckpt")
    checkpoint.write_bytes(b"cposix\nsystem\n")
    with pytest.raises(ValueError, match=r"not a \.safetensors file; other kinds can run code"):
        Components.load(checkpoint)
