"""BlenderProc for real, beside the fast renderer and closed forms. One process is shared; few tests need their own."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
import trimesh
from gltf_by_hand import ByHand, png_header, triangle
from PIL import Image

from data_prep.rendering import sanitized_gltf
from data_prep.rendering.blender import Blender, area_lights
from data_prep.rendering.blender_process import Crashed, command
from data_prep.rendering.rasterizer import render_views
from instant3d.cameras import Cameras, orbit, structured_cameras
from instant3d.mesh import Mesh, bounds, load, normalized, save, srgb_from_linear


def reason_to_skip():
    try:
        command()
    except FileNotFoundError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "Blender is there"),
]
UPRIGHT = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))


@pytest.fixture(scope="module")
def blender():
    with Blender() as one:
        yield one


def asymmetric():
    """An L with a texture that reads in one way only, and a painted lump with smooth normals; far from the origin."""
    arm = trimesh.creation.box((2.0, 0.6, 0.5))
    leg = trimesh.creation.box((0.5, 0.6, 1.6))
    leg.apply_translation((-0.75, 0, 1.0))
    solid = trimesh.util.concatenate([arm, leg])
    corners = solid.vertices[solid.faces].reshape(-1, 3)
    uv = np.stack([corners[:, 0] / 2 + 0.1 * corners[:, 1], 0.3 * corners[:, 2] - 0.2 * corners[:, 1]], 1)
    blocks = np.random.default_rng(3).integers(0, 256, (7, 5, 3), dtype=np.uint8).repeat(24, 0).repeat(24, 1)
    picture = np.dstack([blocks, np.full(blocks.shape[:2], 255, np.uint8)])
    lump = trimesh.creation.icosphere(4)
    bumps = 0.45 * (1 + 0.3 * lump.vertices[:, :1] * lump.vertices[:, 1:2] + 0.2 * lump.vertices[:, 2:])
    lump.vertices *= bumps
    painted = 0.5 + 0.5 * lump.vertices / np.abs(lump.vertices).max()
    parts = [
        Mesh(corners, np.arange(len(corners)).reshape(-1, 3), uv=uv, texture=picture, base_color=(0.9, 0.7, 1.0, 1.0)),
        Mesh(lump.vertices + np.array([0.8, 0.3, 0.7]), lump.faces, lump.vertex_normals, painted),
    ]
    return [dataclasses.replace(part, vertices=7 * part.vertices + (30.0, -20.0, 5.0)) for part in parts]


@pytest.fixture(scope="module")
def sculpture(tmp_path_factory):
    path = tmp_path_factory.mktemp("object") / "sculpture.glb"
    save(asymmetric(), path)
    return path


CAMERAS = Cameras.cat([structured_cameras(), orbit([10.0], -40.0, 2.5, 60.0)])


@pytest.fixture(scope="module")
def both(blender, sculpture):
    """The same views of the same object by Blender and by the fast renderer."""
    theirs = blender.render(sculpture, CAMERAS, 128, lighting="flat", samples=36)
    return theirs, render_views(normalized(load(sculpture)), CAMERAS, 128, supersample=6)


def psnr(one, other):
    return -10 * math.log10((one - other).square().mean())


def test_blender_agrees_with_our_renderer_in_silhouettes(both):
    theirs, ours = both
    inside = theirs.alpha > 0.5, ours.alpha > 0.5
    for k in range(len(CAMERAS.intrinsics)):
        assert (inside[0][k] & inside[1][k]).sum() / (inside[0][k] | inside[1][k]).sum() > 0.99
    assert (theirs.alpha - ours.alpha).abs().mean() < 1e-3
    grid = torch.arange(128) + 0.5
    for axis in (1, 2):  # centroids of the masks, in pixels
        places = [(views.alpha[:, 0].sum(axis) @ grid) / views.alpha[:, 0].sum((1, 2)) for views in both]
        assert (places[0] - places[1]).abs().max() < 0.1


def test_blender_agrees_with_our_renderer_in_depth_and_normals(both):
    theirs, ours = both
    assert ((theirs.depth > 0) != (ours.depth > 0)).float().mean() < 1e-3
    met = (theirs.depth > 0) & (ours.depth > 0)
    apart = (theirs.depth - ours.depth).abs()[met]
    assert apart.median() < 1e-4
    assert apart.quantile(0.99) < 1e-3
    turned = (theirs.normals - ours.normals).norm(dim=1, keepdim=True)
    assert turned[met].median() < 1e-3
    assert turned[met].quantile(0.99) < 0.02
    assert theirs.normals[(theirs.depth == 0).expand_as(theirs.normals)].abs().max() == 0


def test_blender_agrees_with_our_renderer_in_colours_under_flat_light(both):
    theirs, ours = both
    assert psnr(theirs.composite(1.0), ours.composite(1.0)) > 42
    solid = ((theirs.alpha == 1) & (ours.alpha == 1)).expand_as(ours.rgb)
    assert (theirs.rgb - ours.rgb)[solid].abs().median() <= 1.01 / 255
    mirrored = theirs.composite(1.0).flip(-1)
    assert psnr(mirrored, ours.composite(1.0)) < 20  # what is compared has a left and a right


def test_blender_puts_known_points_on_their_pixels(blender, tmp_path):
    # Three specks of pure colours at the ends of a lopsided frame that stays unseen; the last camera looks past its
    # centre. Nothing of the fast renderer is used here.
    places = np.array([[0.9, 0.1, -0.2], [-0.5, 0.6, 0.4], [0.1, -0.7, 0.6]])
    speck = trimesh.creation.icosphere(2)
    parts = [
        Mesh(0.04 * speck.vertices + place, speck.faces, base_color=(*color, 1.0))
        for place, color in zip(places, np.eye(3), strict=True)
    ]
    save(parts, tmp_path / "specks.glb")
    low, high = bounds(parts)
    scale = np.ptp(normalized(parts)[0].vertices[:, 0]) / np.ptp(parts[0].vertices[:, 0])
    centred = torch.from_numpy((places - (low + high) / 2) * scale).float()
    cameras = orbit([20.0, 200.0, 20.0], [35.0, -10.0, 35.0], 3.0)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[2, 2:] = torch.tensor([0.42, 0.57])
    cameras = Cameras(cameras.cam_to_world, intrinsics)
    views = blender.render(tmp_path / "specks.glb", cameras, 96, lighting="flat", samples=64, maps=())
    expected, _ = cameras.project(centred.expand(3, 3, 3))
    grid = (torch.arange(96) + 0.5) / 96
    for channel in range(3):
        weight = views.alpha[:, 0] * (views.rgb[:, channel] > 0.5)
        x = (weight.sum(1) @ grid) / weight.sum((1, 2))
        y = (weight.sum(2) @ grid) / weight.sum((1, 2))
        apart = 96 * (torch.stack([x, y], 1) - expected[:, channel]).abs()
        assert apart.max() < 0.1, f"{apart} pixels"


def test_blender_gives_a_round_object_its_own_colour_in_uniform_light(blender, tmp_path):
    ball = trimesh.creation.icosphere(4)
    save([Mesh(ball.vertices, ball.faces, ball.vertices, base_color=(0.6, 0.3, 0.1, 1.0))], tmp_path / "ball.glb")
    path = metallic(tmp_path / "ball.glb")  # in this light it is matte all the same
    views = blender.render(path, structured_cameras()[:1], 48, lighting="uniform", samples=32)
    inside = views.alpha[0, 0] == 1
    expected = torch.from_numpy(srgb_from_linear(np.array([0.6, 0.3, 0.1]))).float()
    for channel in range(3):
        assert views.rgb[0, channel][inside].mean().item() == pytest.approx(expected[channel].item(), abs=0.004)


def metallic(path):
    """The same .glb with a material of metal."""
    data = path.read_bytes()
    text = data[20 : 20 + int.from_bytes(data[12:16], "little")]
    changed = text.replace(b'"metallicFactor":0', b'"metallicFactor":1')
    assert len(changed) == len(text) != text.count(b'"metallicFactor":1')
    path.write_bytes(data.replace(text, changed))
    return path


def test_area_light_comes_from_its_lamps_which_depend_on_the_seed(blender, tmp_path):
    ball = trimesh.creation.icosphere(4)
    save([Mesh(ball.vertices, ball.faces, ball.vertices, base_color=(0.2, 0.2, 0.2, 1.0))], tmp_path / "ball.glb")
    cameras = orbit([0.0, 90.0, 180.0, 270.0], 20.0)

    def shades(seed):
        views = blender.render(tmp_path / "ball.glb", cameras, 32, lighting="area", samples=16, seed=seed)
        key = torch.nn.functional.normalize(torch.tensor(area_lights(seed)[0]["position"]), dim=0)
        toward = (views.normals * key[:, None, None]).sum(1)
        full = views.alpha[:, 0] == 1
        return views.rgb[:, 0], views.rgb[:, 0][full & (toward > 0.8)].mean(), views.rgb[:, 0][full & (toward < -0.2)]

    picture, lit, dim = shades(1)
    assert lit > dim.mean() + 0.1
    assert dim.min() > 0.05  # no side is left in the dark
    assert torch.equal(shades(1)[0], picture)
    assert (shades(2)[0] - picture).abs().mean() > 0.01


def test_blender_sends_no_maps_that_are_not_requested(blender, sculpture):
    both, depth, normals = (
        blender.render(sculpture, CAMERAS, 32, lighting="flat", samples=1, maps=maps)
        for maps in (("depth", "normals"), ("depth",), ("normals",))
    )
    assert torch.equal(depth.depth, both.depth)
    assert torch.equal(normals.normals, both.normals)
    assert depth.normals is None
    assert normals.depth is None


def test_blender_renders_a_second_object_as_a_fresh_process_does(blender, sculpture, tmp_path):
    # Normals above all: BlenderProc's own cleaning up leaves them wrong from the second object on.
    box = trimesh.creation.box((1.0, 0.5, 0.3), UPRIGHT)
    save([Mesh(box.vertices, box.faces, base_color=(0.1, 0.8, 0.3, 1.0))], tmp_path / "box.glb")
    blender.render(sculpture, CAMERAS, 48, lighting="area", samples=4)
    second = blender.render(tmp_path / "box.glb", CAMERAS, 48, lighting="flat", samples=4)
    with Blender() as fresh:
        alone = fresh.render(tmp_path / "box.glb", CAMERAS, 48, lighting="flat", samples=4)
    for name in ("rgb", "alpha", "depth", "normals"):
        torch.testing.assert_close(getattr(second, name), getattr(alone, name), atol=1e-5, rtol=0)


def moving():
    """A triangle with a texture cut out by half, an animation that carries it away, lamps, a camera, and notes."""
    uv = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    document = ByHand()
    picture = np.full((8, 8, 4), 255, np.uint8)
    picture[:, :4] = (255, 0, 0, 10)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    index = document.picture(stream.getvalue())
    document = triangle({"TEXCOORD_0": document.values(uv)}, document, material=0)
    look = {"pbrMetallicRoughness": {"baseColorTexture": {"index": index}}, "doubleSided": True}
    document.json["materials"] = [look | {"alphaMode": "BLEND", "name": "paint"}]
    times = document.values(np.array([0, 1], np.float32), min=[0], max=[1])
    path = document.values(np.array([[0, 0, 0], [50, 50, 50]], np.float32))
    sampler = {"input": times, "output": path}
    plain = {key: json.loads(json.dumps(value)) for key, value in document.json.items()}
    document.json["animations"] = [
        {"samplers": [sampler], "channels": [{"sampler": 0, "target": {"node": 0, "path": "translation"}}]}
    ]
    document.json["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}]
    lamp = {"type": "point", "intensity": 1e6, "color": [0, 1, 0]}
    document.json["extensions"] = {"KHR_lights_punctual": {"lights": [lamp]}}
    document.json["extensionsUsed"] = ["KHR_lights_punctual"]
    document.json["nodes"] = [
        {"mesh": 0, "extras": {"script": "import os"}},
        {"camera": 0, "translation": [0, 0, 9]},
        {"extensions": {"KHR_lights_punctual": {"light": 0}}, "translation": [0, 1, 1]},
        {"mesh": 0, "translation": [9, 9, 9]},
    ]
    document.json |= {"scenes": [{"nodes": [0, 1, 2]}, {"nodes": [3]}], "scene": 0}
    still = ByHand()
    still.json, still.data = plain, document.data
    return document, still


def test_sanitized_gltf_has_no_animations_lights_and_cameras_but_all_else(blender, tmp_path):
    document, still = moving()
    busy, quiet = document.save(tmp_path / "busy.gltf"), still.save(tmp_path / "quiet.gltf")
    cameras = orbit([30.0, 100.0, 30.0], 30.0)
    views, calm = (blender.render(path, cameras, 48, lighting="uniform", samples=8) for path in (busy, quiet))
    for name in ("rgb", "alpha", "depth", "normals"):
        assert torch.equal(getattr(views, name), getattr(calm, name))
    assert torch.equal(views.alpha[0], views.alpha[2])
    fast = render_views(normalized(load(busy)), cameras, 48)
    assert (views.alpha - fast.alpha).abs().mean() < 0.005  # cut out where the texture is all but transparent
    sanitized_gltf.write(busy, tmp_path / "plain.glb")
    text = (tmp_path / "plain.glb").read_bytes()
    for word in (b"animations", b"camera", b"lights", b"extras", b"script", b"paint", b"uri", b"BLEND"):
        assert word not in text


def test_blender_renders_an_obj_and_a_ply_as_the_glb(blender, tmp_path):
    lump = trimesh.creation.icosphere(3)
    mesh = Mesh(lump.vertices * (1, 0.6, 0.8) + (0, 0.3, 0), lump.faces, colors=(lump.vertices + 1) / 2)
    shown = []
    for suffix in ("glb", "obj", "ply"):
        save([mesh], tmp_path / f"a.{suffix}")
        shown.append(blender.render(tmp_path / f"a.{suffix}", structured_cameras(), 48, lighting="flat", samples=8))
    for other in shown[1:]:
        apart = (other.rgb - shown[0].rgb).abs() * 255  # a .glb's colours are linear in eight bits: coarse near black
        assert apart.max() < 9
        assert (apart > 2.01).float().mean() < 0.02
        torch.testing.assert_close(other.depth, shown[0].depth, atol=1e-4, rtol=0)


def with_texture(document, uri, use):
    """`document` with an image under a name that only `use` (a field of a material) shows."""
    document.json["images"] = [{"uri": uri}]
    document.json["textures"] = [{"source": 0}]
    document.json["materials"] = [{use: {"index": 0}}]
    document.json["meshes"][0]["primitives"][0]["material"] = 0
    return document


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("../secret.png", "outside its folder"),
        ("https://example.org/a.png", "outside its folder"),
        ("gone.png", "does not exist"),
        ("huge.png", "8192"),
        ("torn.png", "not a readable image"),
    ],
)
@pytest.mark.parametrize("use", ["normalTexture", "emissiveTexture"])
def test_sanitized_gltf_checks_images_that_only_blender_would_open(tmp_path, name, because, use):
    # `load` has no use for these textures and so never asks for them
    folder = tmp_path / "object"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (folder / "huge.png").write_bytes(png_header(30000, 30000))
    (folder / "torn.png").write_bytes(png_header(4, 4))
    path = with_texture(triangle(), name, use).save(folder / "a.gltf")
    assert load(path)
    with pytest.raises(ValueError, match=because) as caught:
        sanitized_gltf.write(path, tmp_path / "plain.glb")
    assert str(path) in str(caught.value)


def test_sanitized_gltf_refuses_an_array_beyond_its_buffer_even_if_unused(tmp_path):
    document = triangle()
    document.values(np.zeros((2, 4), np.float32))
    document.json["accessors"][-1]["count"] = 5000
    with pytest.raises(ValueError, match="reaches beyond"):
        sanitized_gltf.write(document.save(tmp_path / "a.gltf"), tmp_path / "plain.glb")


def test_blender_is_never_given_an_unknown_required_extension(blender, tmp_path):
    path = triangle().save(tmp_path / "a.gltf", extensionsRequired=["KHR_draco_mesh_compression"])
    with pytest.raises(ValueError, match="KHR_draco_mesh_compression"):
        blender.render(path, structured_cameras(), 16)


def test_blender_refuses_an_object_that_is_invisible(blender, tmp_path):
    far = np.array([[0, 0, 0], [1e-3, 0, 0], [0, 1e-3, 0], [1e6, 0, 0], [1e6, 1e-3, 0], [1e6, 0, 1e-3]])
    save([Mesh(far, [[0, 1, 2], [3, 4, 5]])], tmp_path / "outlier.ply")
    with pytest.raises(ValueError, match=r"outlier\.ply"):
        blender.render(tmp_path / "outlier.ply", structured_cameras(), 16, lighting="flat", samples=1)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"lighting": "soft"}, "lighting is one of"),
        ({"device": "tpu"}, "device one of"),
        ({"size": 0}, "from 1 on"),
        ({"samples": 0}, "from 1 on"),
        ({"cameras": orbit([], 0.0)}, "needs a camera"),
        ({"cameras": orbit([math.nan], 0.0)}, "not finite"),
        ({"cameras": Cameras(2 * torch.eye(4)[None], torch.ones(1, 4))}, "rigid"),
        ({"cameras": Cameras(torch.diag(torch.tensor([1.0, 1, -1, 1]))[None], torch.ones(1, 4))}, "rigid"),
        ({"cameras": Cameras(torch.eye(4)[None], torch.tensor([[1.0, 1.2, 0.5, 0.5]]))}, "square pixels"),
    ],
)
def test_blender_options_that_are_invalid_are_refused(tmp_path, change, because):
    arguments = {"path": tmp_path / "none.glb", "cameras": structured_cameras(), "size": 8} | change
    with Blender() as never_started, pytest.raises(ValueError, match=because):
        never_started.render(**arguments)


def test_blender_device_that_does_not_exist_is_reported(blender, sculpture):
    if os.path.exists("/dev/nvidia0"):
        pytest.skip("there is an NVIDIA GPU here")
    with pytest.raises(ValueError, match="finds no OPTIX device"):
        blender.render(sculpture, structured_cameras(), 8, device="optix")


def test_blender_crash_costs_one_object_and_the_next_one_is_rendered(blender, sculpture):
    blender.render(sculpture, structured_cameras()[:1], 8, lighting="flat", samples=1)
    pid = blender.pid
    threading.Timer(1.0, os.kill, (pid, signal.SIGSEGV)).start()
    with pytest.raises(Crashed, match=r"sculpture\.glb cannot be rendered: Blender crashed \(signal SIGSEGV"):
        blender.render(sculpture, CAMERAS, 512, lighting="uniform", samples=4096)
    assert blender.render(sculpture, structured_cameras()[:1], 8, lighting="flat", samples=1).alpha.any()
    assert blender.pid != pid


def test_blender_gives_up_an_object_that_takes_too_long(blender, sculpture):
    with pytest.raises(TimeoutError, match=r"sculpture\.glb took Blender longer than 1 s"):
        blender.render(sculpture, CAMERAS, 512, samples=4096, timeout_s=1)
    assert blender.pid is None


def test_blender_dies_with_the_process_that_started_it():
    host = (
        "from data_prep.rendering.blender_process import Process\n"
        "print(Process(1).pid, flush=True); import time; time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", host], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}/exe") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}/exe")
