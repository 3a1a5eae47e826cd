"""From a sentence to an asset in memory: a tiny SDXL draws, a network that answers one sphere rebuilds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from sphere_network import RADIUS, SPHERE, sphere_network
from tiny_sdxl import tiny_sdxl_folder

from instant3d.cameras import structured_cameras
from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.text import encode
from instant3d.pipelines import text_to_3d
from instant3d.pipelines.text_to_3d import Sampling, TextTo3D, ViewsTo3D
from instant3d.stage1.grid import unpack
from instant3d.stage1.sampler import GridSampler
from instant3d.stage2.network import Reconstructor
from instant3d.utils.devices import find_device
from instant3d.utils.prompts import cut_off
from instant3d.views import Views

QUICK = Sampling(steps=2)
LONG = "a red fire hydrant " * 10 + "made of solid gold"


@pytest.fixture(scope="module")
def stage1(tmp_path_factory) -> Path:
    return tiny_sdxl_folder(tmp_path_factory.mktemp("stage1"))


@pytest.fixture(scope="module")
def stage2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stage2")
    sphere_network().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(stage1, stage2) -> TextTo3D:
    return TextTo3D.from_pretrained(stage1, stage2)


@pytest.mark.slow
def test_text_to_3d_makes_a_mesh_that_other_tools_open(model, tmp_path):
    """The network answers its sphere to any views, so the file must hold a sphere of that radius."""
    model("a red fire hydrant", sampling=QUICK, resolution=48).textured(origin="world").save(tmp_path / "x.glb")
    mesh = trimesh.load(tmp_path / "x.glb", force="mesh")
    assert abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < 0.03


@pytest.mark.slow
def test_views_are_the_same_for_the_same_seed_and_others_for_another(model):
    first, again, other = (model.views(["a chair"], [seed], sampling=QUICK)[0] for seed in (3, 3, 4))
    assert torch.equal(first.rgb, again.rgb)
    assert (first.rgb - other.rgb).abs().max() > 0.05


@pytest.mark.slow
def test_views_are_the_tiles_of_the_grid_with_the_structured_cameras(model, stage1):
    grid = GridSampler(Components.load(stage1))(["a chair"], sampling=QUICK, seeds=[5])[0]
    (views,) = model.views(["a chair"], [5], sampling=QUICK)
    torch.testing.assert_close(views.composite(1.0), unpack(grid), atol=0.02, rtol=0)
    torch.testing.assert_close(views.cameras.cam_to_world, structured_cameras().cam_to_world)


@pytest.mark.slow
def test_views_do_not_depend_on_the_other_prompts_of_the_batch(model):
    together = model.views(["a chair", "a blue bench"], [7, 8], sampling=QUICK)[1]
    alone = model.views(["a blue bench"], [8], sampling=QUICK)[0]
    torch.testing.assert_close(together.rgb, alone.rgb, atol=2e-2, rtol=0)  # bfloat16 inside


def test_views_change_with_a_negative_prompt(model):
    plain, turned = (model.views(["a chair"], sampling=QUICK, negative=text)[0] for text in (None, "blue"))
    assert not torch.equal(plain.rgb, turned.rgb)


def test_text_to_3d_moves_every_network_to_the_device_before_its_use(model, monkeypatch):
    calls: list[object] = []
    monkeypatch.setattr(model.offloader, "load_to_device", lambda *names: calls.append(set(names)))
    for name in ("encode", "denoise", "decode"):
        monkeypatch.setattr(model.sampler, name, _noted(calls, name, getattr(model.sampler, name)))
    monkeypatch.setattr(model, "reconstruct", _noted(calls, "rebuild", model.reconstruct))
    model("a chair", sampling=QUICK)
    assert calls == [
        *({"text_encoder", "text_encoder_2"}, "encode", {"unet", "vae"}, "denoise"),
        *({"vae"}, "decode", {"stage2"}, "rebuild"),
    ]


def _noted(calls, name, function):
    def noting(*args, **kwargs):
        calls.append(name)
        return function(*args, **kwargs)

    return noting


def test_views_to_3d_resizes_views_to_the_size_of_the_network(monkeypatch):
    small = Reconstructor(dataclasses.replace(SPHERE, image_size=16)).eval()
    seen: list[Views] = []
    monkeypatch.setattr(small, "triplane", lambda views: (seen.append(views), sphere_network().triplane(views))[1])
    ramp = torch.linspace(0, 1, 64).expand(4, 3, 64, 64)  # of which every even filter makes a ramp, but at the edges
    ViewsTo3D(small)(Views(ramp, torch.ones(4, 1, 64, 64), structured_cameras()))
    means = ramp.unflatten(-1, (16, 4)).mean(-1)[..., :16, :]
    torch.testing.assert_close(seen[-1].rgb[0][..., 1:-1], means[..., 1:-1])


def test_asset_keeps_its_decoder_when_the_network_moves_away(model):
    (views,) = model.views(["a chair"], sampling=QUICK)
    asset = model.build(views)
    inside = torch.zeros(1, 3)
    before = asset.field.density(inside)
    model.reconstruct.network.decoder.to("meta")
    try:
        assert torch.equal(asset.field.density(inside), before)
        assert asset.render(structured_cameras()[:1], 8).alpha.max() > 0.9
    finally:
        model.reconstruct.network = sphere_network()


def test_cut_off_names_the_words_that_do_not_change_the_embedding(model):
    components = model.sampler.components
    lost = cut_off(LONG, model.fits)
    read = LONG.removesuffix(lost).strip()
    assert lost.endswith("gold")
    assert model.fits(read)
    full, other, shorter = (
        encode(components, [text]).tokens for text in (LONG, LONG.replace("gold", "silver"), read.rsplit(" ", 1)[0])
    )
    assert torch.equal(full, other)
    assert not torch.equal(full, shorter)


def test_from_pretrained_refuses_the_stages_in_each_others_place(stage1, stage2):
    with pytest.raises(ValueError, match="use it as --stage2"):
        TextTo3D.from_pretrained(stage2, stage2)
    with pytest.raises(ValueError, match="use it as --stage1"):
        TextTo3D.from_pretrained(stage1, stage1)


@pytest.mark.parametrize("name", ["abacus", "cuda:x", "meta", "mps", "cpu:0:1"])
def test_find_device_refuses_what_is_no_device_by_its_name(name):
    with pytest.raises(ValueError, match="is not a device; use cpu, cuda or cuda:1"):
        find_device(name)


@pytest.mark.parametrize(("count", "name", "known"), [(0, "cuda", False), (1, "cuda:1", False), (2, "cuda:1", True)])
def test_find_device_refuses_a_gpu_that_is_not_there(monkeypatch, count, name, known):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if known:
        assert find_device(name) == torch.device(name)
    else:
        with pytest.raises(ValueError, match=f"there is no {name} here"):
            find_device(name)


def test_stage1_dtype_is_half_precision_on_a_gpu_alone():
    assert text_to_3d.stage1_dtype(torch.device("cuda")) == torch.float16
    assert text_to_3d.stage1_dtype(torch.device("cpu")) == torch.float32
