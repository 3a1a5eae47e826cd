"""Consistency against closed forms: equal images, a known shift of grey, boxes counted by hand."""

import json
import math

import pytest
import torch
from sphere_network import sphere_network

from instant3d.cameras import structured_cameras
from instant3d.evaluation import view_consistency
from instant3d.evaluation.view_cache import view_requests
from instant3d.evaluation.view_consistency import LEAST, LPIPS_SIDE, MARGIN, Box, foreground, measure
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.stage1.sampling_options import Sampling
from instant3d.views import Views


def tiles(grey: float = 0.5, *, filled: int = 4, size: int = 48) -> Views:
    """Four tiles, of which so many hold a 20 x 20 square of that grey on nothing."""
    alpha = torch.zeros(4, 1, size, size)
    alpha[:filled, :, 10:30, 12:32] = 1
    return Views(torch.full((4, 3, size, size), grey), alpha, structured_cameras())


def mask(top: int, bottom: int, left: int, right: int, size: int = 64) -> torch.Tensor:
    alpha = torch.zeros(size, size)
    alpha[top:bottom, left:right] = 1
    return alpha


def test_box_is_around_the_foreground_with_a_margin():
    assert foreground(mask(10, 40, 5, 50)) == Box(5 - MARGIN, 10 - MARGIN, 50 + MARGIN, 40 + MARGIN)


@pytest.mark.parametrize(("begin", "end"), [(0, 64), (0, 30), (40, 64), (1, 2), (62, 63), (30, 31)])
def test_box_stays_inside_the_image_and_is_never_too_small(begin, end):
    box = foreground(mask(begin, end, 20, 40))
    assert 0 <= box.top <= begin < end <= box.bottom <= 64
    assert box.bottom - box.top >= LEAST


def test_box_crops_by_rows_and_columns():
    image = torch.arange(24.0).reshape(4, 6)
    assert Box(1, 2, 3, 4).of(image).tolist() == [[13.0, 14.0], [19.0, 20.0]]


def test_measure_of_equal_tiles_is_full_agreement():
    numbers = measure(tiles(), tiles())
    assert numbers == {"psnr": 100.0, "ssim": pytest.approx(1.0), "empty": 0.0, "uncut": 0.0}


def test_consistency_is_measured_only_in_the_box():
    # the square is 20 x 20 of a box of 24 x 24: an error of 0.1 there is diluted by that, and by no more background
    expected = -10 * math.log10(0.1**2 * 20**2 / (20 + 2 * MARGIN) ** 2)
    for size in (48, 96):
        assert measure(tiles(0.5, size=size), tiles(0.6, size=size))["psnr"] == pytest.approx(expected, abs=1e-3)


def test_measure_counts_empty_tiles_and_uses_them_nowhere_else():
    numbers = measure(tiles(filled=3), tiles(filled=3))
    assert numbers["empty"] == 0.25
    assert numbers["psnr"] == 100
    nothing = measure(tiles(filled=0), tiles())
    assert nothing["empty"] == 1
    assert math.isnan(nothing["psnr"])


def test_measure_counts_uncut_tiles():
    full = tiles()
    full.alpha[1] = 1
    assert measure(full, full)["uncut"] == 0.25


def test_measure_mrc_is_lpips_of_resized_boxes_averaged_over_tiles():
    sides = []

    def distance(a, b):
        sides.append(tuple(a.shape))
        return (a - b).abs().amax()

    numbers = measure(tiles(0.5), tiles(0.7), distance)
    assert numbers["mrc"] == pytest.approx(0.2, abs=1e-3)
    assert sides == [(1, 3, LPIPS_SIDE, LPIPS_SIDE)] * 4


def test_settings_are_all_combinations_with_steps_in_order():
    found = view_consistency.settings([10, 4], ["blob", "noise"], ["euler"], Sampling(guidance=3.0))
    assert list(found) == [
        "blob, euler, 4 steps",
        "blob, euler, 10 steps",
        "noise, euler, 4 steps",
        "noise, euler, 10 steps",
    ]
    assert found["noise, euler, 10 steps"] == Sampling(steps=10, start="noise", guidance=3.0)


class FixedViews:
    """A view cache of spheres as the network reconstructs them, except for a factor on their colour."""

    def __init__(self, model: ViewsTo3D, factor: float, sampling: Sampling) -> None:
        self.sampling = sampling
        rendered = model(tiles(size=32)).render(structured_cameras(), 64)
        self.shown = Views(rendered.rgb.clamp(0, 1) * factor, rendered.alpha, rendered.cameras)

    def fill(self, requests):
        pass

    def views(self, request):
        return self.shown

    def seconds(self, request):
        return 2.0


@pytest.mark.slow
def test_evaluate_ranks_consistent_views_first_and_writes_its_report_whole(tmp_path, capsys):
    model = ViewsTo3D(sphere_network())
    caches = {
        "blob, euler, 30 steps": FixedViews(model, 1.0, Sampling(steps=30)),
        "noise, euler, 4 steps": FixedViews(model, 0.5, Sampling(steps=4, start="noise")),
    }
    wanted = view_requests(["a ball", "another ball"])
    report = view_consistency.evaluate(wanted, tmp_path / "out", caches=caches, model=model)
    good, bad = report["settings"].values()
    assert good["psnr"] > 60 > 30 > bad["psnr"]
    assert good["ssim"] > bad["ssim"]
    assert good["seconds"] == 2.0
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(written["settings"]["noise, euler, 4 steps"]["assets"]) == 2
    assert written["settings"]["noise, euler, 4 steps"]["sampling"]["start"] == "noise"
    table = (tmp_path / "out" / "table.md").read_text()
    assert [row.split(" | ")[0] for row in table.splitlines()] == ["| setting", "| ---", *(f"| {n}" for n in caches)]
    assert table in capsys.readouterr().out
    assert (tmp_path / "out" / "figure.png").is_file()
    assert [(line.name, line.points[0][0]) for line in view_consistency.lines(report)] == [
        ("blob, euler", 30),
        ("noise, euler", 4),
    ]
