"""Converters: their files, their complaints, the way back, and the sizes of the real networks."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from golden_sets import FAMILIES, Golden, opencv
from safetensors.torch import load_file, save_file

from instant3d.cameras import orbit, structured_cameras
from instant3d.cli import main as cli
from instant3d.pipelines import convert
from instant3d.pipelines.convert import source
from instant3d.pipelines.convert.parts import rotated_camera
from instant3d.stage2.encoder import camera_vector
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.stage2.view_checks import assumed_camera, camera_warning


@pytest.fixture(params=FAMILIES)
def golden(request):
    return Golden(request.param)


def bare(golden):
    """A set's tensors without their prefix."""
    return {key.removeprefix("lrm_generator."): value for key, value in golden.weights.items()}


def settings(golden):
    return json.loads((golden.folder / "config.json").read_text())


def error_message(capsys, *arguments):
    capsys.readouterr()
    assert cli.main(["convert", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("instant3d: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.slow
def test_write_back_of_instantmesh_is_equal_bit_by_bit(tmp_path):
    golden = Golden("instantmesh")
    assert cli.main(["convert", "instantmesh", str(golden.folder), "-o", str(tmp_path / "ours")]) == 0
    assert cli.main(["convert", "instantmesh", str(tmp_path / "ours"), "--back", "-o", str(tmp_path / "theirs")]) == 0
    again = torch.load(tmp_path / "theirs" / "instantmesh.ckpt", weights_only=True)["state_dict"]
    assert again.keys() == golden.weights.keys()
    assert all(torch.equal(again[key], value) for key, value in golden.weights.items())


@pytest.mark.slow
def test_to_original_and_to_native_give_our_training_back_bit_by_bit():
    torch.manual_seed(0)
    start = convert.to_native("instantmesh", bare(Golden("instantmesh")), settings(Golden("instantmesh")))
    ours = Reconstructor(start.architecture)
    theirs = convert.to_original("instantmesh", ours)
    again = convert.to_native("instantmesh", theirs, convert.original_config("instantmesh", ours))
    assert again.architecture == ours.architecture
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.slow
def test_write_back_computes_the_same(golden):
    network = convert.to_native(golden.family, bare(golden), settings(golden))
    theirs = convert.to_original(golden.family, network)
    assert {key: value.shape for key, value in theirs.items()} == {k: v.shape for k, v in bare(golden).items()}
    again = convert.to_native(golden.family, theirs, settings(golden))
    with torch.no_grad():
        planes = [each.triplane(golden.views).planes for each in (network, again)]
    torch.testing.assert_close(planes[0], planes[1], rtol=1e-5, atol=1e-5)


def test_convert_writes_licence_and_source(golden, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("weights.safetensors", "config.json"):
        (tmp_path / "in" / name).write_bytes((golden.folder / name).read_bytes())
    (tmp_path / "in" / "LICENSE").write_text("as it was given")
    convert.convert(golden.family, tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out" / "LICENSE-WEIGHTS.md").read_text()
    assert ("MIT License" in text) == (golden.family == "triposr")
    assert ("CC BY-NC 4.0" in text) == (golden.family != "triposr")
    assert (tmp_path / "out" / "LICENSE.source").read_text() == "as it was given"
    notes = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert notes["length_of_our_unit_in_its_world"] == golden.unit


@pytest.mark.slow
def test_convert_names_every_missing_and_unexpected_key_and_writes_nothing(golden, tmp_path, capsys):
    lost = [key for key in golden.weights if key.endswith(("norm2.weight", "deconv.bias", "upsampler.bias"))]
    lost += [key for key in golden.weights if re.search(r"layer\.1\.layernorm_before", key)]
    kept = {key: value for key, value in golden.weights.items() if key not in lost}
    prefix = settings(golden)["key_prefix"]
    foreign = [prefix + "transformer.colour", prefix + "backbone.3"]
    save_file(kept | {key: torch.zeros(2) for key in foreign}, tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(settings(golden)))
    error = error_message(capsys, golden.family, tmp_path, "-o", tmp_path / "out")
    for key in [*lost, *foreign]:
        assert key.removeprefix(prefix) in error
    assert not (tmp_path / "out").exists()
    assert cli.main(["convert", golden.family, str(tmp_path), "--check"]) == 2
    shown = capsys.readouterr().out
    assert f"missing     {len(lost)}: " in shown
    assert "unexpected  2: " in shown


@pytest.mark.slow
def test_convert_names_a_tensor_of_another_shape(golden, tmp_path, capsys):
    last = max(
        key for key in golden.weights if re.search(r"(net|layers)\.\d+\.bias$", key) and len(golden.weights[key]) == 4
    )
    save_file(golden.weights | {last: torch.zeros(5)}, tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(settings(golden)))
    assert "decoder.last.bias (5,) for (4,)" in error_message(capsys, golden.family, tmp_path, "-o", tmp_path / "out")


@pytest.mark.slow
def test_convert_check_writes_nothing_and_says_what_would_be(golden, tmp_path, capsys):
    assert cli.main(["convert", golden.family, str(golden.folder), "--check", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "missing     none" in shown
    assert (
        f"{sum(p.numel() for p in convert.to_native(golden.family, bare(golden), settings(golden)).parameters()):,}"
        in shown
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_convert_opens_a_lightning_checkpoint_without_its_other_parts(tmp_path):
    golden = Golden("instantmesh")
    content = {
        "epoch": 3,
        "state_dict": golden.weights | {"lpips.net.0": torch.zeros(3), "source_camera": torch.zeros(1)},
    }
    torch.save(content, tmp_path / "instant_nerf_large.ckpt")
    torch.save({}, tmp_path / "instant_mesh_large.ckpt")
    (tmp_path / "config.json").write_text(json.dumps(settings(golden)))
    conversion = convert.convert("instantmesh", tmp_path)
    assert conversion.left_out == ["lpips.net.0", "source_camera"]
    expected = convert.to_native("instantmesh", bare(golden), settings(golden)).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in conversion.network.state_dict().items())


class Evil:
    def __reduce__(self):
        return (print, ("a pickle was executed",))


def test_convert_refuses_a_pickle_with_code_in_it_unexecuted(tmp_path, capsys):
    torch.save({"state_dict": Golden("triposr").weights, "more": Evil()}, tmp_path / "model.ckpt")
    assert "not opened" in error_message(capsys, "triposr", tmp_path / "model.ckpt", "-o", tmp_path / "out")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.slow
def test_convert_requires_heads_and_reads_them_from_any_kind_of_configuration(tmp_path, capsys):
    golden = Golden("instantmesh")
    file = tmp_path / "instant_nerf.ckpt"
    torch.save({"state_dict": golden.weights}, file)
    assert "--config" in error_message(capsys, "instantmesh", file, "-o", tmp_path / "out")
    sizes = {"transformer_dim": 64, "transformer_layers": 3, "transformer_heads": 4, "triplane_low_res": 16}
    own = {"model_config": {"target": "InstantNeRF", "params": sizes}, "vit": {"num_attention_heads": 4}}
    (tmp_path / "nerf.yaml").write_text(yaml.safe_dump(own))
    network = convert.convert("instantmesh", file, config=tmp_path / "nerf.yaml").network
    assert (network.architecture.heads, network.architecture.encoder_heads) == (4, 4)
    own["model_config"]["params"]["transformer_layers"] = 5
    (tmp_path / "nerf.yaml").write_text(yaml.safe_dump(own))
    message = error_message(capsys, "instantmesh", file, "--config", tmp_path / "nerf.yaml", "--check")
    assert "transformer_layers = 5" in message


@pytest.mark.slow
def test_convert_reads_triposrs_own_yaml_beside_its_checkpoint(tmp_path):
    golden = Golden("triposr")
    torch.save(golden.weights, tmp_path / "model.ckpt")
    own = {
        "cond_image_size": 160,
        "image_tokenizer": {"pretrained_model_name_or_path": "facebook/dino-vitb16"},
        "vit": {"num_attention_heads": 4},
        "tokenizer": {"plane_size": 16, "num_channels": 64},
        "backbone": {"in_channels": 64, "num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3},
        "decoder": {"in_channels": 36, "n_neurons": 64, "n_hidden_layers": 9, "activation": "silu"},
        "renderer": {"radius": 0.5, "feature_reduction": "concat", "density_activation": "exp", "density_bias": -1.0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own))
    conversion = convert.convert("triposr", tmp_path)
    assert conversion.architecture.image_size == 160
    assert conversion.unit == 0.5
    assert conversion.architecture.assumed_camera[2] == pytest.approx(3.8)
    assert torch.equal(conversion.network.tokens, convert.to_native("triposr", bare(golden), settings(golden)).tokens)
    assert convert.original_config("triposr", conversion.network)["lrm"]["radius"] == pytest.approx(0.5)
    own["renderer"]["feature_reduction"] = "mean"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(own))
    with pytest.raises(ValueError, match="feature_reduction"):
        convert.convert("triposr", tmp_path)


@pytest.mark.slow
def test_convert_downloads_a_hub_id_and_a_file_of_it_may_be_named(tmp_path, monkeypatch):
    golden = Golden("openlrm")
    asked = []

    def download(name, patterns):
        asked.append((name, list(patterns)))
        return tmp_path

    monkeypatch.setattr(source, "snapshot", download)
    (tmp_path / "config.json").write_text(json.dumps(settings(golden)))
    save_file(golden.weights, tmp_path / "model.safetensors")
    assert convert.convert("openlrm", "zxhezexin/openlrm-mix-base-1.1").network is not None
    assert asked[-1][0] == "zxhezexin/openlrm-mix-base-1.1"
    assert {"model.safetensors", "config.json"} <= set(asked[-1][1])
    convert.convert("openlrm", "someone/collection/model.safetensors")
    assert asked[-1] == ("someone/collection", ["model.safetensors", *source.CONFIGS, *source.LICENCES])


@pytest.mark.parametrize("wrong", ["nowhere/at/all.ckpt.d/..", "./missing", "model.ckpt", "checkpoints/none.ckpt"])
def test_convert_source_that_does_not_exist_is_no_hub_id(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "snapshot", lambda name, patterns: tmp_path)
    assert re.search("neither|no weights|no file", error_message(capsys, "triposr", wrong, "-o", tmp_path / "out"))


def test_convert_refuses_related_networks_with_the_reason(tmp_path, capsys):
    golden = Golden("instantmesh")
    mesh = {key.replace("decoder.net.", "decoder.net_sdf."): value for key, value in golden.weights.items()}
    save_file(mesh, tmp_path / "weights.safetensors")
    assert "instant_nerf" in error_message(capsys, "instantmesh", tmp_path, "-o", tmp_path / "out")
    assert "not a TripoSR checkpoint" in error_message(capsys, "triposr", golden.folder, "-o", tmp_path / "out")


@pytest.mark.slow
def test_convert_to_half_precision_has_half_the_size_and_close_values(tmp_path):
    golden = Golden("instantmesh")
    for name, half in (("full", False), ("half", True)):
        convert.convert("instantmesh", golden.folder, tmp_path / name, half=half)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert 1.9 < sizes[0] / sizes[1] < 2.1
    networks = [Reconstructor.from_pretrained(tmp_path / name) for name in ("full", "half")]
    assert [network.precise for network in networks] == [True, False]
    with torch.no_grad():
        planes = [network.triplane(golden.views).planes for network in networks]
    assert 1e-5 < (planes[0] - planes[1]).abs().max() / planes[0].abs().max() < 1e-2


def test_camera_embedding_that_is_folded_equals_the_peers():
    ours = orbit([30.0, 150.0], [20.0, -10.0], 4.0, 30.0)
    theirs = camera_vector(ours).clone()
    theirs[:, :12] = opencv(ours.cam_to_world)[:, :3].flatten(1)
    # the peer's own builder: z points back from the target, x = up x z, y = z x x
    back = torch.nn.functional.normalize(ours.positions, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([[0.0, 0, 1]]).expand(2, 3), back), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(back, right), back], dim=-1)
    torch.testing.assert_close(theirs[:, :12].unflatten(1, (3, 4))[..., :3], rotation, atol=1e-6, rtol=1e-5)
    weight = torch.randn(8, 16)
    torch.testing.assert_close(camera_vector(ours) @ rotated_camera(weight)[0].T, theirs @ weight.T)


def test_assumed_camera_of_openlrm_is_that_of_its_training():
    golden = Golden("openlrm")
    architecture = convert.to_native("openlrm", bare(golden), settings(golden)).architecture
    known = golden.views.cameras[0]  # of the set, which holds the one of its inference code
    camera = assumed_camera(architecture)
    torch.testing.assert_close(camera.cam_to_world, known.cam_to_world, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(camera.intrinsics, known.intrinsics, atol=1e-6, rtol=1e-5)
    assert camera_warning(camera, architecture) is None
    assert "azimuth -90" in camera_warning(structured_cameras()[:1], architecture)
    network = convert.to_native("openlrm", bare(golden), settings(golden))
    with pytest.raises(ValueError, match="one image, got 2"):
        network.triplane(golden.views[:, [0, 0]])


def test_camera_warning_names_cameras_outside_the_training():
    architecture = convert.to_native(
        "instantmesh", bare(Golden("instantmesh")), settings(Golden("instantmesh"))
    ).architecture
    assert camera_warning(Golden("instantmesh").views.cameras, architecture) is None
    assert camera_warning(structured_cameras(), architecture) is None
    high = camera_warning(orbit([0.0, 90.0], 70.0, 2.7, 50.0), architecture)
    assert "elevations of 70 (trained on -22 to 53 degrees)" in high
    assert "fields of view of 80" in camera_warning(orbit(0.0, 20.0, 2.7, 80.0)[None], architecture)
    assert camera_warning(orbit(0.0, 70.0, 9.0, 80.0)[None], Architecture()) is None


def test_write_back_refuses_another_architecture(tmp_path):
    golden = Golden("instantmesh")
    network = convert.to_native("instantmesh", bare(golden), settings(golden))
    with torch.device("meta"):
        other = Reconstructor(replace(network.architecture, encoder="plucker", camera="none"))
    with pytest.raises(ValueError, match="not the architecture of InstantMesh"):
        convert.to_original("instantmesh", other)


@pytest.mark.slow
def test_convert_writes_safetensors_with_the_networks_names_alone(tmp_path):
    convert.convert("triposr", Golden("triposr").folder, tmp_path)
    network = Reconstructor.from_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == network.state_dict().keys()


def test_to_original_of_openlrms_first_version_comes_back_bit_by_bit():
    torch.manual_seed(0)
    sizes = {"encoder_width": 48, "encoder_depth": 2, "encoder_heads": 4, "position_side": 14, "encoder_feed": 96}
    sizes |= {"width": 64, "depth": 2, "heads": 4, "token_side": 4, "plane_side": 8, "channels": 6, "decoder_layers": 4}
    architecture = Architecture(
        image_size=224, **sizes, encoder_epsilon=1e-12, positions="dino", camera="decoder", camera_width=40, feed=256,
        epsilon=1e-6, last_epsilon=1e-6, plane_order="xy xz zy", resize="bicubic_corners", foreground=0.8,
        assumed_camera=(-90.0, 0.0, 2.0, 67.38013505195957),
    )  # fmt: skip
    ours = Reconstructor(architecture)
    theirs = convert.to_original("openlrm", ours)
    assert {"transformer.deconv.weight", "encoder.model.embeddings.cls_token"} <= theirs.keys()
    again = convert.to_native("openlrm", theirs, convert.original_config("openlrm", ours))
    assert again.architecture == architecture
    assert all(torch.equal(again.state_dict()[key], value) for key, value in ours.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["instantmesh", "openlrm", "triposr"])
def test_convert_makes_float8_weights_the_network_of_their_values(tmp_path, family):
    golden = Golden(family)
    rough = {key: value.to(torch.float8_e4m3fn) for key, value in golden.weights.items()}
    for name, tensors in (("rough", rough), ("same", {key: value.float() for key, value in rough.items()})):
        (tmp_path / name).mkdir()
        shutil.copy(golden.folder / "config.json", tmp_path / name)
        save_file(tensors, tmp_path / name / "model.safetensors")
    found, wanted = (convert.inspect(family, tmp_path / name).network.state_dict() for name in ("rough", "same"))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
