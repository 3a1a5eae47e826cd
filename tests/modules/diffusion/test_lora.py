"""LoRA files, against diffusers' and peft's own loader and the formula written out."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sdxl import tiny_sdxl

from instant3d.modules.diffusion.lora import FILE, Lora, fuse
from instant3d.modules.diffusion.lora_names import sgm_path

pytestmark = pytest.mark.slow

RANK, ALPHA = 3, 1.5
KOHYA = {  # layer of the tiny UNet: its names by kohya's scripts, after diffusers and after sgm
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": (
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
    ),
    "down_blocks.0.downsamplers.0.conv": (
        "lora_unet_down_blocks_0_downsamplers_0_conv",
        "lora_unet_input_blocks_2_0_op",
    ),
    "mid_block.resnets.1.conv1": ("lora_unet_mid_block_resnets_1_conv1", "lora_unet_middle_block_2_in_layers_2"),
    "up_blocks.0.resnets.1.conv_shortcut": (
        "lora_unet_up_blocks_0_resnets_1_conv_shortcut",
        "lora_unet_output_blocks_1_0_skip_connection",
    ),
    "up_blocks.0.upsamplers.0.conv": ("lora_unet_up_blocks_0_upsamplers_0_conv", "lora_unet_output_blocks_1_2_conv"),
    "add_embedding.linear_2": ("lora_unet_add_embedding_linear_2", "lora_unet_label_emb_0_2"),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return tiny_sdxl(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def components(untouched):
    return copy.deepcopy(untouched)


def matrices(network, layer):
    """The two matrices for a layer, as peft shapes them: those of a convolution have its kernel in the first."""
    weight = network.get_submodule(layer).weight
    down = torch.randn(RANK, *weight.shape[1:])
    return down, torch.randn(weight.shape[0], RANK, *[1] * (weight.dim() - 2))


def product(down, up):
    """The update up down, summed over the rank by hand."""
    return sum(up[:, r].reshape(-1, *[1] * (down.dim() - 1)) * down[r][None] for r in range(len(down)))


def output(unet):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        conditions = {"text_embeds": torch.randn(1, 24), "time_ids": torch.ones(1, 6)}
        sample, tokens = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 48)
        with torch.no_grad():
            return unet(sample, 500, tokens, added_cond_kwargs=conditions, return_dict=False)[0]


def kohya_file(path, tensors, alpha=ALPHA):
    named = {}
    for name, (down, up) in tensors.items():
        named |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}
    save_file(named, path)
    return Lora(str(path))


@pytest.mark.parametrize("naming", [0, 1], ids=["diffusers", "sgm"])
def test_lora_in_kohyas_naming_adds_alpha_over_rank_times_the_product(components, tmp_path, naming):
    unet = components.unet
    tensors = {layer: matrices(unet, layer) for layer in KOHYA}
    before = {layer: unet.get_submodule(layer).weight.clone() for layer in KOHYA}
    others = {name: value.clone() for name, value in unet.state_dict().items()}
    lora = kohya_file(tmp_path / "x.safetensors", {KOHYA[layer][naming]: both for layer, both in tensors.items()})
    fuse(components, Lora(lora.source, 0.8))
    for layer, (down, up) in tensors.items():
        expected = before[layer] + 0.8 * (1.5 / 3) * product(down, up)
        torch.testing.assert_close(unet.get_submodule(layer).weight, expected, atol=1e-5, rtol=1e-5)
        del others[f"{layer}.weight"]
    assert all(torch.equal(unet.state_dict()[name], value) for name, value in others.items())


@pytest.mark.parametrize("naming", [0, 1], ids=["diffusers", "sgm"])
def test_lora_in_kohyas_naming_gives_the_output_of_diffusers_own_loader(components, untouched, tmp_path, naming):
    from diffusers import StableDiffusionXLPipeline

    theirs = copy.deepcopy(untouched.unet)
    layers = [layer for layer in KOHYA if layer != "add_embedding.linear_2"]  # diffusers loses its number
    tensors = {KOHYA[layer][naming]: matrices(theirs, layer) for layer in layers}
    lora = kohya_file(tmp_path / "x.safetensors", tensors)
    state, alphas = StableDiffusionXLPipeline.lora_state_dict(load_file(lora.source), unet_config=theirs.config)
    plain = output(theirs)
    theirs.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    fuse(components, lora)
    assert (output(components.unet) - plain).abs().max() > 0.01
    torch.testing.assert_close(output(components.unet), output(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("path", "expected"),  # by the two documented layouts of SDXL
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
        ),
        ("mid_block.attentions.0.proj_out", "middle_block.1.proj_out"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
        ("time_embedding.linear_1", "time_embed.0"),
    ],
)
def test_sgm_path_is_that_of_sdxl_in_stability_ais_code(path, expected):
    assert sgm_path(path, layers_per_block=2) == expected


@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "unet"])
def test_lora_that_diffusers_saves_gives_the_output_it_was_saved_with(components, untouched, tmp_path, whole):
    from diffusers import StableDiffusionXLPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = copy.deepcopy(untouched.unet)
    targets = ["to_q", "to_out.0", "conv1", "time_emb_proj", "proj_in"]
    theirs.add_adapter(LoraConfig(r=RANK, lora_alpha=7, target_modules=targets, init_lora_weights="gaussian"))
    for name, value in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    if whole:
        settings = theirs.peft_config["default"].to_dict()
        layers = get_peft_model_state_dict(theirs)
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=settings
        )
    else:
        theirs.save_lora_adapter(tmp_path)
    fuse(components, Lora(str(tmp_path)))
    torch.testing.assert_close(output(components.unet), output(theirs), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "ends", [("processor.to_q_lora.down", "processor.to_q_lora.up"), ("to_q.lora.down", "to_q.lora.up")]
)
def test_lora_in_diffusers_older_namings_is_fused_too(components, tmp_path, ends):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    down, up = matrices(components.unet, layer)
    before = components.unet.get_submodule(layer).weight.clone()
    stem = f"unet.{layer.removesuffix('.to_q')}"
    save_file({f"{stem}.{ends[0]}.weight": down, f"{stem}.{ends[1]}.weight": up}, tmp_path / FILE)
    fuse(components, Lora(str(tmp_path)))
    torch.testing.assert_close(components.unet.get_submodule(layer).weight, before + product(down, up))


@pytest.mark.parametrize("number", [1, 2])
def test_lora_changes_the_text_encoders_that_it_names(components, tmp_path, number):
    encoder = components.text_encoder if number == 1 else components.text_encoder_2
    (layer,) = [name for name, _ in encoder.named_modules() if name.endswith("encoder.layers.1.self_attn.q_proj")]
    tensors = matrices(encoder, layer)
    before = encoder.get_submodule(layer).weight.clone()
    name = f"lora_te{number}_text_model_encoder_layers_1_self_attn_q_proj"
    fuse(components, kohya_file(tmp_path / "x.safetensors", {name: tensors}))
    torch.testing.assert_close(encoder.get_submodule(layer).weight, before + 0.5 * product(*tensors))


def test_lora_with_opposite_weights_cancels_out(components, untouched, tmp_path):
    tensors = {KOHYA["mid_block.resnets.1.conv1"][0]: matrices(components.unet, "mid_block.resnets.1.conv1")}
    lora = kohya_file(tmp_path / "x.safetensors", tensors)
    for weight in (0.7, -0.7):
        fuse(components, Lora(lora.source, weight))
    torch.testing.assert_close(components.unet.state_dict(), untouched.unet.state_dict(), atol=1e-5, rtol=1e-5)


def test_lora_for_half_precision_is_added_before_it_is_rounded(components, tmp_path):
    layer = "conv_in"
    components.unet.half()
    before = components.unet.get_submodule(layer).weight.float()
    down, up = matrices(components.unet.float(), layer)
    components.unet.half()
    fuse(components, kohya_file(tmp_path / "x.safetensors", {"lora_unet_conv_in": (down.half(), up.half())}))
    after = components.unet.get_submodule(layer).weight
    assert after.dtype == torch.float16
    expected = before + 0.5 * product(down.half().float(), up.half().float())
    torch.testing.assert_close(after.float(), expected, atol=2e-3, rtol=1e-3)


PAIR = {"lora_unet_conv_in.lora_down.weight": (2, 4, 3, 3), "lora_unet_conv_in.lora_up.weight": (16, 2, 1, 1)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {**PAIR, "lora_unet_nose.lora_down.weight": (2, 4), "lora_unet_nose.lora_up.weight": (4, 2)},
            "no layer of this model has: lora_unet_nose",
        ),
        ({**PAIR, "lora_unet_conv_in.dora_scale": (1, 4)}, "not those of a plain LoRA: lora_unet_conv_in.dora_scale"),
        ({"lora_unet_conv_in.lora_down.weight": (2, 4, 3, 3)}, "both matrices of a LoRA for lora_unet_conv_in"),
        ({**PAIR, "lora_unet_conv_in.alpha": (2,)}, r"conv_in\.alpha is not one number"),
        ({**PAIR, "lora_unet_conv_in.lora_up.weight": (16, 3, 1, 1)}, "lora_unet_conv_in has matrices of"),
        ({**PAIR, "lora_unet_conv_in.lora_down.weight": (2, 4, 1, 1)}, r"fit the weight \(16, 4, 3, 3\)"),
        ({**PAIR, "lora_unet_conv_in.lora_down.weight": (0, 4, 3, 3)}, "lora_unet_conv_in has matrices of"),
    ],
)
def test_lora_of_another_model_is_refused_before_anything_changes(components, tmp_path, shapes, message):
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    before = components.unet.conv_in.weight.clone()
    with pytest.raises(ValueError, match=message) as error:
        fuse(components, Lora(str(tmp_path / "x.safetensors")))
    assert "\n" not in str(error.value)
    assert torch.equal(components.unet.conv_in.weight, before)


@pytest.mark.parametrize("settings", ["[", "[1]", json.dumps({"unet.use_dora": True})])
def test_lora_with_settings_that_change_the_formula_is_refused(components, tmp_path, settings):
    tensors = {name: torch.zeros(shape) for name, shape in PAIR.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"lora_adapter_metadata": settings})
    with pytest.raises(ValueError, match=r"not valid JSON|unet\.use_dora"):
        fuse(components, Lora(str(tmp_path / "x.safetensors")))


def test_lora_with_values_that_are_not_finite_is_refused(components, tmp_path):
    tensors = {name: torch.full(shape, torch.inf) for name, shape in PAIR.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not finite"):
        fuse(components, Lora(str(tmp_path / "x.safetensors")))


def test_lora_file_other_than_safetensors_is_never_opened(components, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="never opened"):
        fuse(components, Lora(str(tmp_path / "x.bin")))
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        fuse(components, Lora(str(tmp_path / "x.safetensors")))
    with pytest.raises(FileNotFoundError, match="no LoRA file"):
        fuse(components, Lora("./nothing.safetensors"))


@pytest.mark.parametrize(
    ("text", "source", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1),
        ("a.safetensors:0.7", "a.safetensors", 0.7),
        ("owner/name:-1", "owner/name", -1),
        ("C:\\a.safetensors", "C:\\a.safetensors", 1),
        ("0.5", "0.5", 1),
    ],
)
def test_lora_is_a_source_and_a_weight_after_the_last_colon(text, source, weight):
    assert Lora.parse(text) == Lora(source, weight)
    with pytest.raises(ValueError, match="finite"):
        Lora.parse("a.safetensors:nan")


@pytest.mark.parametrize(
    ("source", "hub_id", "name"),
    [
        ("latent-consistency/lcm-lora-sdxl", "latent-consistency/lcm-lora-sdxl", FILE),
        ("ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors", "ByteDance/SDXL-Lightning", None),
    ],
)
def test_lora_on_the_hub_is_one_file_of_a_repository(monkeypatch, tmp_path, source, hub_id, name):
    asked = []

    def snapshot(identifier, patterns):
        asked.append((identifier, patterns))
        (tmp_path / patterns[0]).touch()
        return tmp_path

    monkeypatch.setattr("instant3d.modules.diffusion.lora.snapshot", snapshot)
    name = name or source.split("/")[-1]
    assert Lora(source).file() == tmp_path / name
    assert asked == [(hub_id, [name])]
