"""Charts against where a ruler would put their points."""

import math

import numpy as np
import pytest
from PIL import Image

from instant3d.utils.line_chart import (
    BOTTOM,
    FINER,
    HEIGHT,
    HUES,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axes,
    Line,
    levels,
    line_chart,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(12.2, 19.4, [12, 14, 16, 18, 20]), (0, 1, [0, 0.25, 0.5, 0.75, 1]), (-3, 3, [-4, -2, 0, 2, 4])],
)
def test_levels_are_round_and_enclose_what_is_shown(low, high, expected):
    assert levels(low, high) == pytest.approx(expected)


def test_levels_of_a_single_value_still_have_a_height():
    found = levels(7.0, 7.0)
    assert found[0] <= 7.0 <= found[-1]
    assert len(found) > 1


def test_axes_put_ten_half_way_from_one_to_a_hundred_and_more_higher():
    frame = Axes([1, 100], [0, 4])
    left, right = frame.at(1, 0)[0], frame.at(100, 0)[0]
    assert frame.at(10, 0)[0] == pytest.approx((left + right) / 2)
    assert (left, right) == (FINER * LEFT, FINER * (WIDTH - RIGHT))
    assert frame.at(1, 4)[1] == FINER * TOP
    assert frame.at(1, 0)[1] == FINER * (HEIGHT - BOTTOM)


def test_line_chart_gives_each_line_its_own_colour_at_its_points_and_leaves_out_gaps(tmp_path):
    lines = [Line("up", [(1, 0.0), (10, math.nan), (100, 4.0)]), Line("down", [(100, 0.0), (1, 4.0)])]
    line_chart(lines, tmp_path / "chart.png", across="steps", up="dB")
    page = np.asarray(Image.open(tmp_path / "chart.png"))
    frame = Axes([1, 100], [0, 1, 2, 3, 4])
    for (x, y), hue in (((1, 0), HUES[0]), ((100, 4), HUES[0]), ((1, 4), HUES[1]), ((100, 0), HUES[1])):
        across, down = (round(value / FINER) for value in frame.at(x, y))
        assert np.abs(page[down - 1, across - 1].astype(int) - hue).max() < 30


def test_line_chart_refuses_a_chart_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="at least one point"):
        line_chart([Line("none", [(1, math.nan)])], tmp_path / "chart.png", across="", up="")
    assert not list(tmp_path.iterdir())
