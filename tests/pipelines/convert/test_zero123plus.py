"""Zero123++, converted, against what its authors' pipeline computed, and against the released names."""

import numpy as np
import pytest
import torch
from golden_generators import GoldenGenerator
from PIL import Image

from instant3d.cli import main as cli
from instant3d.modules.diffusion import zero123plus as model
from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.zero123plus import Zero123Plus, Zero123PlusSampling
from instant3d.modules.diffusion.zero123plus_parts import NETWORKS, Zero123PlusParts
from instant3d.pipelines.convert import zero123plus as converter

pytestmark = pytest.mark.slow

GOLDEN = GoldenGenerator("zero123plus")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zero123plus")
    assert cli.main(["convert", "zero123plus", str(GOLDEN.source(path / "theirs")), "-o", str(path / "ours")]) == 0
    return path / "ours"


@pytest.fixture(scope="module")
def generator(folder):
    return Zero123Plus(Zero123PlusParts.load(folder))


@pytest.fixture
def image():
    return model.over_background(Image.fromarray(GOLDEN.inputs["image_rgba"].numpy(), "RGBA"), 127)


def recorded(*names):
    """Recorded noise, one after another, in place of random numbers."""
    draws = iter([GOLDEN.inputs[name] for name in names])
    return lambda shape: next(draws).reshape(shape)


def steps_noise():
    start = [GOLDEN.inputs["noise"]]
    pairs = zip(GOLDEN.inputs["reference_noise"], GOLDEN.inputs["step_noise"], strict=True)
    draws = iter(start + [noise for pair in pairs for noise in pair])
    return lambda shape: next(draws).reshape(shape)


@pytest.fixture
def conditions(generator, image):
    return generator.encode(image, recorded("vae_noise_image", "vae_noise_zero"))


def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_image_is_laid_over_grey_as_by_its_authors(image):
    assert np.array_equal(np.array(image), GOLDEN.outputs["image_rgb"].numpy())


@pytest.mark.parametrize(("name", "output"), [("vae", "pixels_vae"), ("clip", "pixels_clip")])
def test_pixels_are_those_of_its_authors_preprocessors(generator, image, name, output):
    found = model.preprocess(image, generator.parts.extractors[f"feature_extractor_{name}"])[None]
    torch.testing.assert_close(found, GOLDEN.outputs[output], atol=1e-6, rtol=0)


def test_conditions_are_unscaled_latents_and_the_ramped_embedding(conditions):
    assert error(conditions.reference, GOLDEN.outputs["reference_latents"]) < 1e-5
    assert error(conditions.text[:1], GOLDEN.outputs["text_uncond"]) < 1e-5
    assert error(conditions.text[1:], GOLDEN.outputs["text_cond"]) < 1e-5


def test_noise_levels_are_linear_betas_in_trailing_spacing(generator):
    timesteps, sigmas = model.noise_levels(generator.parts.scheduler, 6)
    assert timesteps.tolist() == GOLDEN.outputs["timesteps"].tolist()
    torch.testing.assert_close(sigmas.float(), GOLDEN.outputs["sigmas"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [0, 5])
def test_unet_predicts_what_its_authors_pipeline_predicts(generator, conditions, step):
    timesteps, sigmas = model.noise_levels(generator.parts.scheduler, 6)
    sigma = float(sigmas[step])
    x = GOLDEN.outputs["unet_input"][step, :1] * (1 + sigma**2) ** 0.5
    with torch.no_grad():
        v = generator.predict(x, int(timesteps[step]), sigma, conditions, GOLDEN.inputs["reference_noise"][step])
    assert error(v, GOLDEN.outputs["unet_output"][step]) < 1e-4


def test_every_step_and_the_image_are_those_of_its_authors_pipeline(generator, conditions, monkeypatch):
    states, step = [], model.ancestral_step
    monkeypatch.setattr(model, "ancestral_step", lambda *given: states.append(step(*given)) or states[-1])
    latents = generator.denoise(conditions, steps_noise(), Zero123PlusSampling(steps=6, guidance=4.0))
    for found, wanted in zip(states, GOLDEN.outputs["latents"], strict=True):
        assert error(found, wanted) < 1e-3
    torch.testing.assert_close(generator.decode(latents), GOLDEN.outputs["grid"][0], atol=5e-4, rtol=0)


def test_reference_attention_forgets_after_sampling(generator, conditions):
    generator.denoise(conditions, steps_noise(), Zero123PlusSampling(steps=1))
    assert all(each.kept is None for each in generator.reference_pass.attentions.values())


RELEASED = {
    "unet": {
        "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True, "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "vocab_size": 49408, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
        "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
    },
    "vision_encoder": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 224, "hidden_act": "gelu", "projection_dim": 1024,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_released_names_and_shapes_are_those_of_the_networks_and_no_tensor_is_over(name):
    theirs = {key: value for key, value in GOLDEN.full_size.items() if key.startswith(f"{name}.")}
    with torch.device("meta"):
        network = build_part(name, RELEASED[name])
    rules = converter._rules(name, network, theirs)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {rule.theirs[0]: shapes[rule.ours[0]] for rule in rules} == theirs


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"unet.conv_in.weight": None}, "missing 1: unet.conv_in.weight"),
        ({"controlnet.weight": torch.zeros(1)}, "unexpected 1: controlnet.weight"),
        ({"unet.conv_in.bias": torch.zeros(7)}, "unexpected shapes"),
    ],
)
def test_convert_refuses_another_checkpoint_by_name_and_writes_nothing(tmp_path, capsys, changes, fault):
    source = GOLDEN.source(tmp_path / "theirs", **changes)
    assert cli.main(["convert", "zero123plus", str(source), "-o", str(tmp_path / "ours")]) == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_convert_reads_a_folder_in_diffusers_layout_with_old_names(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "old").mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            target = tmp_path / "old" / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    file = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    for new, old in names.items():
        tensors = {key.replace(f"attentions.0.{new}", f"attentions.0.{old}"): value for key, value in tensors.items()}
    save_file(tensors, file)
    conversion = converter.inspect(tmp_path / "old")
    assert (conversion.missing, conversion.unexpected) == ([], [])
    assert (
        error(
            conversion.networks["vae"].encoder.mid_block.attentions[0].to_q.weight,
            tensors["encoder.mid_block.attentions.0.query.weight"],
        )
        == 0
    )


@pytest.mark.parametrize(("source", "elevation"), [("sudo-ai/zero123plus-v1.1", 30.0), ("zero123plus-v1.2", 20.0)])
def test_cameras_are_those_of_the_version_in_the_sources_name(source, elevation):
    assert converter._layout(source, {}).elevations_deg[0] == elevation
