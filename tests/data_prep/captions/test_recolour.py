"""Painted scenes: their colours, their captions, and what is left out."""

import json

import no_pool
import pytest
import torch

from data_prep.captions import recolour
from data_prep.execution import process_pool
from data_prep.procedural.colours import NAMED_COLOURS, nearest_name
from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.views import Views


def two_tone(dark: float = 0.3, light: float = 0.6) -> Views:
    """Four views of a disc, three quarters of it of the middling grey `light`, the rest `dark`."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    alpha = (((x - 15.5) ** 2 + (y - 15.5) ** 2) < 12**2).float().expand(4, 1, 32, 32)
    rgb = torch.full((4, 3, 32, 32), light)
    rgb[..., :10, :] = dark
    return Views(rgb, alpha, structured_cameras())


@pytest.fixture
def source(tmp_path):
    for name, caption in {"a": "red chair", "b": "armchair", "c": "apple"}.items():
        scenes.write(tmp_path / "in" / name, two_tone(), caption=caption)
    return tmp_path / "in"


@pytest.fixture
def in_this_process(monkeypatch):
    """No processes, which take seconds to start."""
    monkeypatch.setattr(process_pool, "run", no_pool.run)


def run(source, out, *more) -> dict[str, str]:
    assert recolour.main([str(source), "-o", str(out), "--workers", "1", *map(str, more)]) == 0
    return {path.parent.name: json.loads(path.read_text())["caption"] for path in out.glob("*/transforms.json")}


@pytest.mark.parametrize("name", recolour.COLOURS)
def test_recolour_gives_medium_lightness_exactly_the_colour(name):
    painted = recolour.painted(two_tone(), NAMED_COLOURS[name])
    expected = torch.tensor(NAMED_COLOURS[name]) / 255
    torch.testing.assert_close(painted.rgb[0, :, 16, 16], expected, atol=1e-6, rtol=0)


def test_recolour_keeps_dark_parts_darker_and_outlines_where_they_are():
    views = two_tone()
    painted = recolour.painted(views, (200, 100, 50))
    assert (painted.rgb[0, :, 6, 16] < painted.rgb[0, :, 16, 16] - 0.05).all()
    assert torch.equal(painted.alpha, views.alpha)


def test_recolour_gives_an_object_a_colour_that_keeps_its_name_and_never_changes():
    for name in recolour.COLOURS:
        drawn = {recolour.random_colour(name, f"object_{k}") for k in range(8)}
        assert {nearest_name(colour) for colour in drawn} == {name}
        assert len(drawn) > 1
        assert recolour.random_colour(name, "object_0") == recolour.random_colour(name, "object_0")


@pytest.mark.slow
def test_recolour_puts_the_new_colour_in_place_of_the_old_in_captions(source, tmp_path):
    found = run(source, tmp_path / "out")
    assert len(found) == 3 * (1 + len(recolour.COLOURS))
    assert found["a"] == "a red chair"
    assert found["a-blue"] == "a blue chair"
    assert found["c-orange"] == "an orange apple"
    assert found["c"] == "an apple"


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_recolour_leaves_out_held_out_pairs_even_under_a_longer_name(source, tmp_path):
    scenes.write(source / "d", two_tone(), caption="wooden chair")
    (tmp_path / "list.txt").write_text("# held out\na red chair\n")
    found = run(source, tmp_path / "out", "--without", tmp_path / "list.txt")
    assert {"a", "a-red", "d-red"}.isdisjoint(found)  # the chair as it is was red
    assert {"a-blue", "d-blue", "b-red"} <= set(found)  # an armchair is another word


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_recolour_options_keep_only_named_objects_and_the_first_frames(source, tmp_path):
    (tmp_path / "names.txt").write_text("apple\n")
    found = run(source, tmp_path / "out", "--only", tmp_path / "names.txt", "--frames", "2")
    assert {name.split("-")[0] for name in found} == {"c"}
    assert len(scenes.names(tmp_path / "out" / "c-red")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_recolour_with_a_few_colours_for_each_object_does_not_take_the_same_for_all(source, tmp_path):
    found = run(source, tmp_path / "out", "--colours", "3")
    colours = {name: {key.split("-")[1] for key in found if key.startswith(f"{name}-")} for name in "abc"}
    assert [len(drawn) for drawn in colours.values()] == [3, 3, 3]
    assert len(set(map(frozenset, colours.values()))) > 1


def test_recolour_reads_captions_without_images(source, tmp_path):
    for image in source.glob("*/images/*"):
        image.unlink()
    found = recolour.jobs(sorted(source.iterdir()), tmp_path, without=[], only=[], frames=None, colours=0)
    assert [job.caption for job in found] == ["a red chair", "an armchair", "an apple"]


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_recolour_writes_nothing_in_a_second_run(source, tmp_path):
    run(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/transforms.json")}
    run(source, tmp_path / "out")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/transforms.json")}


def test_recolour_refuses_a_scene_without_a_caption(tmp_path, capsys):
    scenes.write(tmp_path / "in" / "a", two_tone())
    assert recolour.main([str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    assert "has no caption" in capsys.readouterr().err
