"""Text-to-triplane network: its size, conditioning by text and noise, padding, norms, files."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from instant3d.direct.architecture import Architecture
from instant3d.direct.decoder_blocks import StyledNorm
from instant3d.direct.network import TextToTriplane
from instant3d.direct.text_pooling import OWN, DistanceAttention, EqualisedLinear
from instant3d.modules.diffusion.prompt_tokens import PromptTokens

CONFIGS = Path(__file__).parents[2] / "configs" / "direct"

SMALL = Architecture(
    text_width=6, text_length=5, token_width=8, token_heads=2, style_text_width=7, noise_width=3, style_width=12,
    base_side=2, base_channels=4, widths=(8, 8), groups=(4, 2), attention=(True, False), layers=2, head_width=4,
    norm="group", last_groups=2, channels=3, decoder_width=8, blob=2.0, blob_radius=0.6,
)  # fmt: skip
WAYS = ("cross_attention", "style_text", "token_to_plane")


def preset(name: str) -> Architecture:
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return Architecture.from_dict(content["model"]["architecture"], name)


def count(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in TextToTriplane(architecture).parameters())


def network(**changes: object) -> TextToTriplane:
    torch.manual_seed(0)
    return TextToTriplane(dataclasses.replace(SMALL, **changes)).double()


def text(words: int = 5, batch: int = 2, seed: int = 1) -> PromptTokens:
    tokens = torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return PromptTokens(tokens, (torch.arange(5) < words).expand(batch, 5))


def noise(batch: int = 2, seed: int = 2) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(net: TextToTriplane, by: str) -> float:
    """Largest derivative of a weighted sum of the planes by the text or by the noise."""
    given = {"text": text().tokens.requires_grad_(), "noise": noise().requires_grad_()}
    planes = net.triplane(PromptTokens(given["text"], text().mask), given["noise"]).planes
    weights = torch.randn(planes.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((planes * weights).sum(), given[by], allow_unused=True, retain_graph=True)
    return 0.0 if gradient is None else gradient.abs().max().item()


@pytest.mark.slow
def test_network_of_the_released_shape_has_the_released_number_of_weights():
    # measured on the released code: 121.7 million from tokens to the first map, 12.0 of the style's text, 136.1 of maps
    assert count(preset("release")) == 269_769_476
    assert abs(count(preset("release")) - 269.8e6) < 0.05e6
    with torch.device("meta"):
        network = TextToTriplane(preset("release"))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    stages = [sum(p.numel() for p in stage.parameters()) for stage in network.stages]
    assert [round(size / 1e6, 1) for size in stages] == [30.2, 65.5, 20.2, 6.8, 2.9, 1.1]
    assert round(parts["base"] / 1e6, 1) == 121.7
    assert round(parts["middle"] / 1e6, 1) == 7.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "millions"), [("paper", 256, 263.4), ("tiny", 32, 0.68), ("release", 256, 269.8)]
)
def test_network_presets_have_their_documented_sizes(name, side, millions):
    assert preset(name).plane_side == side
    assert count(preset(name)) / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.005)


def test_architecture_of_the_paper_preset_equals_the_defaults():
    assert preset("paper") == Architecture()


@pytest.mark.slow
@pytest.mark.parametrize("on", list(itertools.product([False, True], repeat=3)))
def test_text_changes_the_planes_exactly_if_one_conditioning_path_is_on(on):
    net = network(**dict(zip(WAYS, on, strict=True)))
    assert (slope(net, "text") > 1e-6) == any(on)


@pytest.mark.parametrize(("style_text", "style_noise"), list(itertools.product([False, True], repeat=2)))
def test_noise_changes_the_planes_exactly_if_the_style_takes_it(style_text, style_noise):
    net = network(style_text=style_text, style_noise=style_noise)
    assert (slope(net, "noise") > 1e-6) == style_noise


def test_triplane_without_conditioning_is_the_same_for_every_prompt_and_trainable():
    net = network(**dict.fromkeys((*WAYS, "style_noise"), False))
    planes = net.triplane(text()).planes
    torch.testing.assert_close(planes[0], planes[1])
    planes.square().sum().backward()
    assert net.base.value.grad.abs().max() > 0
    assert net.style.constant.value.grad.abs().max() > 0


def test_text_attention_ignores_the_order_of_words_and_pooling_does_not():
    given, order = text(), [3, 1, 4, 0, 2]
    mixed = PromptTokens(given.tokens[:, order], given.mask)
    for ways, same in ((["cross_attention"], True), (["token_to_plane"], False), (["style_text"], False)):
        net = network(**{way: way in ways for way in WAYS})
        change = (net.triplane(given).planes - net.triplane(mixed).planes).abs().max()
        assert (change < 1e-9) == same, ways


@pytest.mark.parametrize("way", WAYS)
def test_padding_mask_hides_padding_and_without_it_padding_counts(way):
    given = text(words=3)
    other = given.tokens.clone()
    other[:, 3:] += 10.0
    for mask_padding in (True, False):
        net = network(mask_padding=mask_padding, **{name: name == way for name in WAYS})
        change = (net.triplane(given).planes - net.triplane(PromptTokens(other, given.mask)).planes).abs().max()
        assert (change == 0) == mask_padding


def test_noise_of_none_is_zero_and_nothing_else_is_drawn():
    net = network()
    planes = net.triplane(text()).planes
    assert torch.equal(planes, net.triplane(text(), torch.zeros(2, 3, dtype=torch.float64)).planes)
    assert not torch.allclose(planes, net.triplane(text(), noise()).planes)


def test_triplane_of_a_prompt_does_not_depend_on_the_batch():
    net, given, random_noise = network(norm="instance"), text(batch=3), noise(batch=3)
    together = net.triplane(given, random_noise).planes
    for k in range(3):
        torch.testing.assert_close(net.triplane(given[k : k + 1], random_noise[k : k + 1]).planes[0], together[k])


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        net = network()
        net.checkpointing = checkpointing
        net.triplane(text(), noise()).planes.square().sum().backward()
        gradients.append([parameter.grad for name, parameter in net.named_parameters() if "decoder" not in name])
    for some, other in zip(*gradients, strict=True):
        torch.testing.assert_close(some, other)


def test_network_gradients_reach_all_weights():
    net = network()
    density, rgb = net(text(), noise())(torch.rand(2, 50, 3, dtype=torch.float64) - 0.5)
    (density.sum() + rgb.square().sum()).backward()
    assert [name for name, parameter in net.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("groups", [0, 2])
def test_styled_norm_with_a_neutral_style_has_mean_zero_and_variance_one(groups):
    norm = StyledNorm(6, groups, 4)
    torch.nn.init.zeros_(norm.style.bias)
    maps = 3 + 2 * torch.randn(3, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    parted = norm(maps, torch.zeros(3, 4)).view(3, groups or 6, -1)
    torch.testing.assert_close(parted.mean(-1), torch.zeros(3, groups or 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(parted.var(-1, correction=0), torch.ones(3, groups or 6), atol=1e-4, rtol=0)


@pytest.mark.parametrize("groups", [0, 3])
def test_styled_norm_scales_and_shifts_each_object_by_its_own_style(groups):
    torch.manual_seed(0)
    norm, maps, style = StyledNorm(6, groups, 4), torch.randn(3, 6, 5, 5), torch.randn(3, 4)
    assert norm.style.weight.shape == (2 * 6, 4)
    scale, shift = norm.style(style)[..., None, None].split(6, dim=1)
    plain = F.instance_norm(maps) if groups == 0 else F.group_norm(maps, groups)
    torch.testing.assert_close(norm(maps, style), plain * (1 + scale) + shift, atol=1e-5, rtol=1e-5)


def test_distance_attention_is_the_sum_over_words_of_its_definition():
    torch.manual_seed(0)
    layer, tokens = DistanceAttention(6, 2).double(), torch.randn(1, 4, 6, dtype=torch.float64)
    place, value = (linear(tokens).view(4, 2, 3) for linear in (layer.place, layer.value))
    mixed = torch.zeros(4, 2, 3, dtype=torch.float64)
    for word, head in itertools.product(range(4), range(2)):
        logits = [-(place[word, head] - layer.nothing[0, head, 0]).square().sum().sqrt() / 3**0.5]
        for other in range(4):
            distance = (place[word, head] - place[other, head]).square().sum().sqrt()
            logits.append(torch.tensor(OWN).double() if other == word else -distance / 3**0.5)
        share = torch.stack(logits).softmax(0)
        mixed[word, head] = share @ torch.stack([layer.nothing[1, head, 0], *value[:, head]])
    torch.testing.assert_close(layer(tokens)[0], layer.out(mixed.flatten(1)))


def test_distance_attention_of_equal_words_has_a_finite_gradient():
    layer = DistanceAttention(6, 2)
    tokens = torch.ones(1, 4, 6, requires_grad=True)
    layer(tokens).square().sum().backward()
    assert tokens.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_equalised_linear_keeps_the_variance_of_its_input():
    torch.manual_seed(0)
    layer = EqualisedLinear(4000, 300)
    assert layer.weight.std().item() == pytest.approx(1, rel=0.01)
    assert layer(torch.randn(50, 4000)).std().item() == pytest.approx(1, rel=0.02)


def test_triplane_in_bfloat16_is_close_to_that_in_float32():
    net = network().float()
    given = text().to(torch.float32)
    given = PromptTokens(given.tokens, text().mask)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rounded = net.triplane(given, noise().float()).planes.float()
    exact = net.triplane(given, noise().float()).planes
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"cross_attention": False, "style_text": False, "rgb": "sigmoid"}])
def test_network_that_was_saved_gives_the_same_field(tmp_path, changes):
    net = network(**changes).float().eval()
    if "alpha" in dict(net.decoder.named_buffers()):
        net.decoder.alpha.fill_(0.75)
    net.save_pretrained(tmp_path, torch.float32)
    loaded = TextToTriplane.from_pretrained(tmp_path)
    assert loaded.precise
    given, points = PromptTokens(text().tokens.float(), text().mask), torch.rand(2, 30, 3)
    for some, other in zip(net(given)(points), loaded(given)(points), strict=True):
        assert torch.equal(some, other)
    net.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    assert not TextToTriplane.from_pretrained(tmp_path).precise


def test_network_explains_tokens_and_noise_of_another_shape():
    with pytest.raises(ValueError, match=r"tokens of shape \(B, 5, 6\), got \(1, 4, 6\); use the text encoder"):
        network().triplane(PromptTokens(torch.zeros(1, 4, 6), torch.ones(1, 4).bool()))
    with pytest.raises(ValueError, match=r"noise for 2 prompts is of shape \(2, 3\), got \(1, 3\)"):
        network().triplane(text(), noise(batch=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": (8, 8)}, "each stage needs a width"),
        ({"groups": (8, 8, 8, 8, 3)}, "80 channels cannot be split into 3 groups; choose a divisor"),
        ({"head_width": 24}, "320 channels cannot be split into heads of 24"),
        ({"token_heads": 7}, "a token_width of 192 cannot be shared by 7 heads"),
        ({"layers": 0}, "layers must lie from 1 to 256, got 0"),
        ({"widths": [320, "a"]}, "widths must be a list, of which each is a whole number, got"),
        ({"attention": [1, 0, 1, 0, 1]}, "attention must be a list, of which each is true or false"),
        ({"norm": "batch"}, "norm must be one of instance, group, got 'batch'"),
        ({"texts": 1}, "the configuration describes another architecture: unknown texts"),
    ],
)
def test_architecture_explains_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "unnamed model, not a direct"),
        ('{"model": "stage2"}', "a stage2 model, not"),
    ],
)
def test_from_pretrained_explains_a_folder_of_another_model(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        TextToTriplane.from_pretrained(tmp_path)


def test_from_pretrained_explains_a_folder_of_other_weights(tmp_path):
    network().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["more"] = tensors.pop("inward.bias")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors missing, 1 unexpected, 0 of another shape \(such as inward.bias"):
        TextToTriplane.from_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "direct"


def test_from_pretrained_explains_sources_without_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        TextToTriplane.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a checkpoint folder nor a Hub id"):
        TextToTriplane.from_pretrained(tmp_path / "nowhere")
