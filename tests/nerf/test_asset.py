"""Assets and the pipeline, on a network that returns a sphere: its images, mesh and file against the closed form."""

import json
import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sphere_network import RADIUS, SHARPNESS, sphere_network

from instant3d import mesh as meshes
from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.nerf.asset import FILE, Asset
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane
from instant3d.nerf.triplane_file import write_triplane
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.utils import visualization
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

pytestmark = pytest.mark.slow

PLAIN = MeshOptions(faces=None, texture=None, origin="world", blend_views=False)  # the full surface where it is


def views(size: int = 32, count: int = 4) -> Views:
    cameras = structured_cameras()[torch.arange(count) % 4]
    return Views(torch.rand(count, 3, size, size), torch.ones(count, 1, size, size), cameras)


@pytest.fixture(scope="module")
def asset() -> Asset:
    return ViewsTo3D(sphere_network())(views(), resolution=48)


def test_asset_render_of_a_sphere_covers_the_disc_that_its_cone_cuts_out_of_the_image(asset):
    """From distance d a sphere subtends asin(r / d): a disc of radius f tan(asin(r / d)) image widths.

    A ray meets it at 2.7 - r; density then grows as 2 r s t, so light falls as exp(-r s t^2), on average ending
    sqrt(pi / (4 r s)) = 0.026 deep.
    """
    focal = 0.5 / math.tan(math.radians(25))
    radius = focal * math.tan(math.asin(RADIUS / 2.7))
    rendered = asset.render(structured_cameras(), 64)
    assert rendered.alpha.mean().item() == pytest.approx(math.pi * radius**2, rel=0.05)
    depth = rendered.depth[:, 0, 31:33, 31:33].mean().item()
    assert depth == pytest.approx(2.7 - RADIUS + math.sqrt(math.pi / (4 * RADIUS * SHARPNESS)), abs=0.015)


def test_asset_render_normals_point_outward_and_colours_follow_the_axes(asset):
    """In the middle of the first view, at azimuth 45 and elevation 20, the normal points at the camera."""
    rendered = asset.render(structured_cameras(), 33, with_normals=True)
    toward = torch.nn.functional.normalize(structured_cameras().positions, dim=-1)
    torch.testing.assert_close(rendered.normals[:, :, 16, 16], toward, atol=0.1, rtol=0)
    torch.testing.assert_close(rendered.rgb[:, :, 16, 16], torch.sigmoid(4 * RADIUS * toward), atol=0.04, rtol=0)


def test_asset_mesh_is_a_sphere_coloured_by_place(asset):
    distance = np.linalg.norm(asset.surface.vertices, axis=1)
    assert abs(distance - RADIUS).max() < 0.03
    expected = 1 / (1 + np.exp(-4 * asset.surface.vertices))
    assert abs(asset.mesh().colors - expected).max() < 0.05


def test_asset_renders_as_before_after_save_and_load(asset, tmp_path):
    asset.save(tmp_path / "out", formats=("ply",))
    loaded = Asset.load(tmp_path / "out")
    again, first = loaded.render(structured_cameras(), 32), asset.render(structured_cameras(), 32)
    torch.testing.assert_close(again.composite(1.0), first.composite(1.0), atol=5e-3, rtol=0)
    assert Asset.load(tmp_path / "out" / FILE).decoder.config == asset.decoder.config


@pytest.mark.parametrize("name", ["glb", "obj", "ply"])
def test_asset_save_writes_the_same_surface_in_every_format_in_world_axes(asset, tmp_path, name):
    asset.save(tmp_path, (name,), PLAIN)
    (part,) = meshes.load(tmp_path / f"mesh.{name}")
    low, high = meshes.bounds([part])
    np.testing.assert_allclose([low, high], [asset.surface.vertices.min(0), asset.surface.vertices.max(0)], atol=1e-4)
    top = part.vertices[:, 2].argmax()  # blue grows with z: a file with y and z swapped would be green here
    color = meshes.vertex_colors(part)[top]
    assert color[2] > 0.8
    assert abs(color[:2] - 0.5).max() < 0.15


@pytest.mark.parametrize("name", ["glb", "obj", "ply"])
def test_asset_save_writes_meshes_with_the_formats_up_axis_and_not_mirrored(asset, tmp_path, name):
    """Another reader finds world x, y, z (red, green, blue) along a .glb's x, -z, y: a turn, and no mirror."""
    asset.save(tmp_path, (name,), PLAIN)
    (read,) = trimesh.load_scene(tmp_path / f"mesh.{name}", process=False).geometry.values()
    look = read.visual.to_color() if name == "obj" else read.visual
    colors = look.vertex_attributes["color"] if name == "glb" else look.vertex_colors
    correlation = np.corrcoef(np.hstack([colors[:, :3], read.vertices]).T)[:3, 3:]
    expected = np.eye(3) if name == "ply" else np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert abs(correlation - expected).max() < 0.2
    assert read.volume > 0  # faces look outward


def test_asset_save_writes_printers_formats_of_the_size_given(asset, tmp_path):
    asset.save(tmp_path, formats=("stl", "3mf"), size_mm=30)
    assert trimesh.load(tmp_path / "mesh.stl").extents.max() == pytest.approx(30, rel=1e-4)
    assert (tmp_path / "mesh.3mf").is_file()


def test_asset_save_keeps_the_other_files_of_the_folder(asset, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    asset.save(tmp_path, formats=("ply",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mesh.ply", "notes.txt", FILE]


def test_asset_save_leaves_nothing_for_a_format_that_cannot_be_written(asset, tmp_path):
    with pytest.raises(ValueError, match="'fbx'; choose among glb, obj, ply, stl, 3mf, usdz"):
        asset.save(tmp_path / "out", formats=("ply", "fbx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "choices",
    [
        {"activation": "relu", "density": "softplus"},
        {"activation": "silu", "density": "exp"},
        {"activation": "softplus", "aggregate": "mean", "blob": 2.5, "blob_radius": 0.5, "rgb": "scaled"},
    ],
)
def test_write_triplane_stores_every_choice_of_the_decoder(tmp_path, choices):
    decoder = Decoder(DecoderConfig(6, 8, 3, density_bias=-2.5, **choices))
    torch.nn.init.normal_(decoder.last.bias)
    for alpha in decoder.buffers():
        alpha.fill_(0.625)
    given = Asset(Triplane(torch.randn(3, 6, 5, 5)), decoder)
    write_triplane(given.triplane, decoder, tmp_path / FILE)
    loaded = Asset.load(tmp_path)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for got, expected in zip(loaded.field(points), given.field(points), strict=True):
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


def test_write_triplane_leaves_out_the_rarer_choices_of_a_usual_decoder(tmp_path):
    """Files written before there were any read the same as those written now."""
    decoder = Decoder(DecoderConfig(4, 8, 3))
    write_triplane(Triplane(torch.zeros(3, 4, 5, 5)), decoder, tmp_path / FILE)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        written = file.metadata()["decoder"]
        assert len(file.keys()) == 2 * 3 + 1
    assert written == (  # as version 0.1.0 wrote it
        '{"channels": 4, "width": 8, "layers": 3, "activation": "relu", "density": "softplus", "density_bias": -1.0, '
        '"rgb_margin": 0.001}'
    )


def test_asset_colours_beyond_white_are_white_in_images_meshes_and_scenes(tmp_path):
    """A ball whose red and green are at the ends of the scaled sigmoid's range, 2 and 0, and whose blue is half-way."""
    decoder = Decoder(DecoderConfig(2, 8, 2, density_bias=0.0, blob=400.0, blob_radius=0.5, rgb="scaled"))
    torch.nn.init.zeros_(decoder.last.weight)
    with torch.no_grad():
        decoder.last.bias.copy_(torch.tensor([0.0, 50.0, -50.0, 0.0]))
        decoder.alpha.fill_(0.5)
    bright = Asset(Triplane(torch.zeros(3, 2, 4, 4)), decoder.requires_grad_(False), resolution=48)
    assert bright.field(torch.zeros(1, 3))[1].tolist()[0] == pytest.approx([2, 0, 1], abs=1e-6)
    shown = bright.render(structured_cameras(), 24)
    torch.testing.assert_close(shown.rgb[:, :, 12, 12], torch.tensor([[2.0, 0.0, 1.0]]).expand(4, 3), atol=0.01, rtol=0)
    np.testing.assert_allclose(
        bright.mesh().colors, np.array([[1.0, 0.0, 1.0]] * len(bright.surface.vertices)), atol=1e-5
    )
    assert np.linalg.norm(bright.surface.vertices, axis=1) == pytest.approx(
        0.48, abs=0.005
    )  # where density is half-way
    visualization.write_image(shown.rgb[0], tmp_path / "image.png")
    assert Image.open(tmp_path / "image.png").getpixel((12, 12)) == (255, 0, 255)
    scenes.write(tmp_path / "scene", shown)
    again = scenes.read(tmp_path / "scene").views
    torch.testing.assert_close(again.rgb[:, :, 12, 12], torch.tensor([[1.0, 0.0, 1.0]]).expand(4, 3), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a file of tensors", "not a whole safetensors file"),
        ({"format": "another"}, "not a triplane of this version"),
        ({"format": "instant3d-triplane-1", "decoder": "{"}, "damaged metadata"),
        ({"format": "instant3d-triplane-1", "decoder": "[1]"}, "other tensors than its metadata describes"),
        ({"format": "instant3d-triplane-1", "decoder": '{"channels": 5}'}, "other tensors than its metadata describes"),
    ],
)
def test_read_triplane_explains_a_broken_file(tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    else:
        save_file({"planes": torch.zeros(3, 4, 2, 2)}, tmp_path / FILE, metadata=content)
    with pytest.raises(ValueError, match=message):
        Asset.load(tmp_path)


def test_read_triplane_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"triplane\.safetensors does not exist"):
        Asset.load(tmp_path)


def test_write_triplane_stores_planes_in_half_precision(asset, tmp_path):
    asset.save(tmp_path, formats=())
    tensors = load_file(tmp_path / FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


@pytest.mark.parametrize("count", [1, 4, 40])
def test_views_to_3d_takes_any_number_of_views(count):
    assert ViewsTo3D(sphere_network())(views(count=count)).triplane.planes.shape == (3, 4, 16, 16)


def test_views_to_3d_gives_the_same_asset_for_a_scene_and_its_views(tmp_path):
    scenes.write(tmp_path / "s", views())
    scene = scenes.read(tmp_path / "s")
    model = ViewsTo3D(sphere_network())
    assert torch.equal(model(scene).triplane.planes, model(scene.views).triplane.planes)


def test_views_to_3d_with_weights_from_a_folder_gives_the_asset_of_the_saved_network(tmp_path, asset):
    sphere_network().save_pretrained(tmp_path / "weights")
    loaded = ViewsTo3D.from_pretrained(tmp_path / "weights")(views())
    torch.testing.assert_close(loaded.triplane.planes, asset.triplane.planes, atol=5e-3, rtol=0)
    assert not any(parameter.requires_grad for parameter in loaded.decoder.parameters())


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 8), (4, 3, 8, 12)])
def test_views_to_3d_explains_views_of_another_shape(shape):
    cameras = (
        structured_cameras() if len(shape) == 4 else structured_cameras()[None].map(lambda t: t.expand(2, *t.shape[1:]))
    )
    wrong = Views(torch.rand(shape), torch.rand(*shape[:-3], 1, *shape[-2:]), cameras)
    with pytest.raises(ValueError, match=r"views of one object have the shape|views are to be square, got 12 x 8"):
        ViewsTo3D(sphere_network())(wrong)


def test_save_pretrained_config_names_its_model(tmp_path):
    sphere_network().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "stage2"
