"""View words by azimuth: shares at the pure views, the tables of both published schedules, symmetry."""

import math

import pytest
import torch

from instant3d.cameras import orbit
from instant3d.direct.view_prompts import (
    FRONT_AZIMUTH_DEG,
    VIEWS,
    from_front,
    negative_weights,
    view_shares,
    with_view_words,
)

ROUND = torch.arange(-180.0, 180.0, 0.5)
SCHEDULES = ["stable-dreamfusion", "threestudio"]


def test_front_azimuth_is_a_camera_at_negative_y_that_looks_along_positive_y():
    camera = orbit([FRONT_AZIMUTH_DEG], 0.0)
    torch.testing.assert_close(camera.positions[0] / 2.7, torch.tensor([0.0, -1, 0]), atol=1e-6, rtol=0)


def test_from_front_counts_the_shorter_way():
    found = from_front(torch.tensor([270.0, 0, 180, 90, 275 + 360, 265 - 720]))
    torch.testing.assert_close(found, torch.tensor([0.0, 90, -90, -180, 5, -5]))


def test_with_view_words_appends_the_view():
    assert [with_view_words("a wolf", view) for view in VIEWS] == [
        "a wolf, front view",
        "a wolf, side view",
        "a wolf, back view",
    ]


def test_view_shares_are_pure_at_their_views_and_half_and_half_between():
    found = view_shares(torch.tensor([0.0, 90, -90, 180, -180, 45, -135]))
    expected = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_view_shares_are_the_released_codes_ramps_in_its_own_angles():
    # there the front is at 180 and 0 = 360 is behind
    for azimuth in range(0, 361, 15):
        if 90 <= azimuth <= 270:
            r = 1 - abs(azimuth - 180) / 90
            expected = [r, 1 - r, 0]
        else:
            r = 1 - (azimuth - 270) / 90 if azimuth > 270 else azimuth / 90
            expected = [0, r, 1 - r]
        torch.testing.assert_close(
            view_shares(torch.tensor([azimuth - 180.0])), torch.tensor([expected]), msg=str(azimuth)
        )


def test_view_shares_sum_to_one_are_never_negative_and_have_no_jumps():
    found = view_shares(ROUND)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(ROUND)))
    assert found.min() >= 0
    assert (found - found.roll(1, 0)).abs().max() <= 0.5 / 90 + 1e-6  # across 180 too


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_view_shares_and_weights_are_symmetric_and_periodic(schedule):
    for function in (view_shares, lambda angle: negative_weights(angle, schedule)):
        torch.testing.assert_close(function(ROUND), function(-ROUND))
        torch.testing.assert_close(function(ROUND + 360), function(ROUND))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_negative_weights_of_a_view_for_itself_and_of_the_back_are_zero(schedule):
    poles = negative_weights(torch.tensor([0.0, 90, -90, 180]), schedule)
    assert (poles[0, 0], poles[1, 1], poles[2, 1]) == (0, 0, 0)
    weights = negative_weights(ROUND, schedule)
    assert weights.min() >= 0
    assert (weights[:, 2] == 0).all()
    assert (weights[ROUND.abs() > 90][:, 0] > 0.7).all()  # from behind, the front view is a strong negative


def test_negative_weights_of_threestudio_are_its_table_at_half_the_scale():
    found = 2 * negative_weights(torch.tensor([0.0, 45, 90, 180]), "threestudio")
    expected = torch.tensor([[0, 1.574, 0], [0.689, 0.689, 0], [1.574, 0, 0], [1.967, 0.394, 0]])
    torch.testing.assert_close(found, expected, atol=6e-4, rtol=0)


@pytest.mark.parametrize(
    ("angle", "front", "side"),
    [
        (9, 0, math.exp(-1)),  # r = 0.9 of front: none of itself
        (45, math.exp(-1), math.exp(-5)),
        (81, math.exp(-0.2), 0),  # r = 0.1: the side is near
        (99, 1, 0),  # r = 0.9 of side
        (135, 1, math.exp(-5) / 2),
        (180, 1, 0.5),
    ],
)
def test_negative_weights_of_stable_dreamfusion_are_its_branches(angle, front, side):
    for sign in (1, -1):
        found = negative_weights(torch.tensor([sign * float(angle)]), "stable-dreamfusion")
        torch.testing.assert_close(found, torch.tensor([[front, side, 0.0]]))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_negative_weights_are_zero_from_above(schedule):
    angle = torch.tensor([0.0, 90, 180])
    assert (negative_weights(angle, schedule, torch.full((3,), 61.0)) == 0).all()
    below = negative_weights(angle, schedule, torch.full((3,), 59.0))
    torch.testing.assert_close(below, negative_weights(angle, schedule))


def test_negative_weights_refuse_an_unknown_schedule_and_name_the_known_ones():
    with pytest.raises(ValueError, match=r"no schedule 'dreamfusion'.*choose among stable-dreamfusion, threestudio"):
        negative_weights(ROUND, "dreamfusion")
