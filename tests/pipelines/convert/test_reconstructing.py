"""What `instant3d reconstruct` shows to a converted network."""

import pytest
import torch
from golden_sets import Golden
from torchvision.transforms.v2 import functional as torchvision

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.pipelines import convert
from instant3d.pipelines.reconstruct import reconstruct
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.view_checks import assumed_camera, resize_inputs
from instant3d.views import Views


class NetworkInput(Exception):
    """Raised in place of the network's pass, with its input."""


@pytest.fixture
def scene(tmp_path):
    rgb = torch.rand(4, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    alpha = torch.zeros(4, 1, 100, 100)
    alpha[..., 20:80, 30:70] = 1
    scenes.write(tmp_path / "scene", Views(rgb, alpha, structured_cameras()))
    return tmp_path / "scene"


def shown_to(family, scene, tmp_path, monkeypatch, **options):
    """The network of a family and the views (1, V) that `reconstruct` gave it."""
    convert.convert(family, Golden(family).folder, tmp_path / "weights", image_size=112)

    def stop(self, views):
        raise NetworkInput(self, views)

    monkeypatch.setattr(Reconstructor, "triplane", stop)
    with pytest.raises(NetworkInput) as raised:
        reconstruct(scene, tmp_path / "out", weights=tmp_path / "weights", device="cpu", **options)
    return raised.value.args


@pytest.mark.slow
@pytest.mark.parametrize("family", ["openlrm", "triposr"])
def test_single_image_network_gets_the_first_view_with_its_own_camera(family, scene, tmp_path, monkeypatch):
    network, views = shown_to(family, scene, tmp_path, monkeypatch)
    assert views.rgb.shape == (1, 1, 3, 112, 112)
    assert torch.equal(views.cameras.cam_to_world[0], assumed_camera(network.architecture).cam_to_world)
    first = resize_inputs(scenes.read(scene, frames=[0]).views, network.architecture)
    torch.testing.assert_close(views.composite(0.5)[0], first.composite(0.5))


@pytest.mark.slow
def test_single_image_network_refuses_four_views(scene, tmp_path):
    convert.convert("triposr", Golden("triposr").folder, tmp_path / "weights")
    with pytest.raises(ValueError, match="one image, got 4"):
        reconstruct(scene, tmp_path / "out", weights=tmp_path / "weights", device="cpu", views=[0, 1, 2, 3])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_reconstruct_gives_instantmesh_four_views_resized_as_its_own_code_does(scene, tmp_path, monkeypatch):
    _, views = shown_to("instantmesh", scene, tmp_path, monkeypatch)
    wanted = torchvision.resize(
        scenes.read(scene).views.composite(1.0), [112, 112], torchvision.InterpolationMode.BICUBIC, antialias=True
    )
    torch.testing.assert_close(views.composite(1.0)[0], wanted.clamp(0, 1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(views.cameras.cam_to_world[0], structured_cameras().cam_to_world, atol=1e-6, rtol=1e-5)


def test_resize_inputs_of_openlrm_keeps_corners_where_they_are():
    """A ramp stays a ramp from corner pixel to corner pixel."""
    architecture = convert.convert("openlrm", Golden("openlrm").folder, image_size=112).architecture
    ramp = torch.linspace(0.2, 0.7, 57).expand(1, 3, 57, 57)
    shown = resize_inputs(Views(ramp, torch.ones(1, 1, 57, 57), structured_cameras()[:1]), architecture)
    torch.testing.assert_close(shown.rgb[0, 0, 50, [0, -1]], torch.tensor([0.2, 0.7]))
    # torch's cubic bends a ramp by less than 5e-4; the other convention would be 2e-3 away
    torch.testing.assert_close(shown.rgb[0, 0, 50, 3:-3], torch.linspace(0.2, 0.7, 112)[3:-3], atol=6e-4, rtol=0)


@pytest.mark.slow
def test_convert_gives_triposr_a_grey_background():
    network = convert.convert("triposr", Golden("triposr").folder).network
    views = Golden("triposr").views
    alpha = torch.zeros_like(views.alpha)
    alpha[..., 40:120, 40:120] = 1
    cut, whole = Views(views.rgb, alpha, views.cameras), torch.ones_like(alpha)
    grey, white = (Views(views.rgb * alpha + tone * (1 - alpha), whole, views.cameras) for tone in (0.5, 1.0))
    with torch.no_grad():
        planes, on_grey, on_white = (network.triplane(each).planes for each in (cut, grey, white))
    torch.testing.assert_close(planes, on_grey, atol=1e-5, rtol=1e-5)
    assert (planes - on_white).abs().max() > 1e-2


def test_resize_inputs_changes_nothing_without_a_known_size():
    architecture = convert.convert("instantmesh", Golden("instantmesh").folder).architecture
    assert architecture.image_size == 0
    for size, taken in ((160, 160), (100, 96)):
        views = Views(torch.rand(1, 3, size, size), torch.ones(1, 1, size, size), structured_cameras()[:1])
        assert resize_inputs(views, architecture).width == taken
