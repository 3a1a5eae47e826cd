"""Severity of adaptive Perp-Neg, and the feature cache that it needs."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import orbit
from instant3d.direct.severity import (
    FeatureCache,
    directions_of,
    gather_across_processes,
    great_circle_cosine,
    negative_weight,
    other_views,
    severity,
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def one(angle_deg: float, cosine: float, **settings) -> float:
    """C of a view and one other, so many degrees apart on the equator and with features of this cosine."""
    directions = directions_of(orbit([0.0, angle_deg], 0.0))
    feature = torch.tensor([cosine, math.sqrt(1 - cosine**2)])
    found = severity(
        directions[:1],
        directions[None, 1:],
        torch.tensor([[1.0, 0.0]]),
        feature[None, None],
        torch.ones(1, 1, dtype=torch.bool),
        **settings,
    )
    return found.item()


def test_great_circle_cosine_is_that_of_the_angle_between_cameras():
    cosine = great_circle_cosine(orbit([0.0, 350, 30], [0.0, 0, 40]), orbit([100.0, 10, 30], [0.0, 0, -50]))
    expected = torch.tensor([100.0, 20, 90]).deg2rad().cos()
    torch.testing.assert_close(cosine, expected, atol=1e-6, rtol=0)
    # straight above, the azimuth has no effect
    torch.testing.assert_close(great_circle_cosine(orbit(0.0, 90.0), orbit(180.0, 90.0)), torch.tensor(1.0))


def test_severity_is_zero_from_the_same_side_and_one_only_for_an_equal_view_behind():
    assert one(0.0, 1.0) == pytest.approx(0, abs=1e-6)
    assert one(180.0, 1.0) == pytest.approx(1, abs=1e-6)
    assert one(180.0, -1.0) == pytest.approx(0, abs=1e-6)
    assert one(180.0, 0.9) == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize(("angle", "cosine"), [(90, 0.5), (90, 0.9), (60, 0.2), (135, -0.4)])
def test_severity_of_a_view_and_another_is_the_formula(angle, cosine):
    assert one(angle, cosine) == pytest.approx((1 - math.cos(math.radians(angle))) * (1 + cosine) / 4, abs=1e-6)


def test_severity_rises_with_the_angle_and_with_the_similarity():
    by_angle = [one(angle, 0.8) for angle in range(0, 181, 20)]
    by_likeness = [one(120, cosine / 10) for cosine in range(-10, 11)]
    assert by_angle == sorted(by_angle)
    assert by_likeness == sorted(by_likeness)
    assert one(-20, 0.8) == pytest.approx(one(20, 0.8), abs=1e-6)
    assert one(200, 0.8) == pytest.approx(one(160, 0.8), abs=1e-6)


def test_severity_of_any_features_and_directions_lies_between_0_and_1():
    n, count = 4, 2500
    found = severity(
        unit(count, 3),
        unit(n, count, 3, seed=1),
        unit(count, 5, seed=2),
        unit(n, count, 5, seed=3),
        torch.ones(n, count, dtype=torch.bool),
    )
    assert 0 <= found.min() < found.max() <= 1
    assert found.mean().item() == pytest.approx(0.25, abs=0.01)  # of independent directions and features


def test_severity_counts_only_existing_views_and_is_zero_without_any():
    directions, others, features, seen_features = unit(3, 3), unit(2, 3, 3, seed=1), unit(3, 4), unit(2, 3, 4, seed=2)
    seen = torch.tensor([[True, True, False], [True, False, False]])
    found = severity(directions, others, features, seen_features, seen)
    each = [severity(directions, others[[k]], features, seen_features[[k]], seen[:1] | True) for k in range(2)]
    torch.testing.assert_close(found[0], (each[0][0] + each[1][0]) / 2)
    torch.testing.assert_close(found[1], each[0][1])
    assert found[2] == 0


def test_severity_ignores_the_lengths_of_features_and_passes_no_gradient():
    directions, others, seen = unit(2, 3), unit(1, 2, 3, seed=1), torch.ones(1, 2, dtype=torch.bool)
    features, past = unit(2, 4, seed=2).requires_grad_(), unit(1, 2, 4, seed=3)
    found = severity(directions, others, features, past, seen)
    assert not found.requires_grad
    torch.testing.assert_close(severity(directions, others, 7 * features, 0.1 * past, seen), found)


def test_severity_with_constant_similarity_depends_on_angles_alone():
    assert one(90, 0.1, similarity="constant") == one(90, 0.9, similarity="constant")
    assert one(90, 0.1, similarity="constant", constant=0.6) == pytest.approx(0.4, abs=1e-6)
    assert one(180, 0.1, similarity="constant", constant=1.0) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"no similarity 'random'.*measured, constant"):
        one(90, 0.1, similarity="random")


def test_negative_weight_is_one_to_three():
    assert negative_weight(torch.tensor([0.0, 0.5, 1.0])).tolist() == [1, 2, 3]
    assert negative_weight(torch.tensor([0.0, 1.0]), least=0.5, span=0.0).tolist() == [0.5, 0.5]


def test_other_views_are_those_of_the_same_prompt():
    ids, directions, features = torch.tensor([4, 7, 4, 4]), unit(4, 3), unit(4, 5)
    others = other_views(ids, directions, features)
    assert others.seen.int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [1, 0, 1, 0]]
    found = severity(directions, others.directions, features, others.features, others.seen)
    pairs = (1 - directions @ directions.T) * (1 + features @ features.T) / 4
    expected = torch.stack(
        [pairs[0, [2, 3]].mean(), torch.tensor(0.0), pairs[2, [0, 3]].mean(), pairs[3, [0, 2]].mean()]
    )
    torch.testing.assert_close(found, expected)


def test_severity_compares_a_prompt_with_its_last_view_which_is_then_replaced():
    cache, ids = FeatureCache(6, 4), torch.tensor([1, 5])
    assert not cache.get(ids).seen.any()
    first, second = (unit(2, 3, seed=1), unit(2, 4, seed=2)), (unit(2, 3, seed=3), unit(2, 4, seed=4))
    cache.put(ids, *first)
    before = cache.get(ids)
    cache.put(ids, *second)
    torch.testing.assert_close((before.directions, before.features), first)
    now = cache.get(torch.tensor([5, 1, 0]))
    torch.testing.assert_close((now.directions[:2], now.features[:2]), (second[0].flip(0), second[1].flip(0)))
    assert now.seen.tolist() == [True, True, False]


def test_feature_cache_keeps_the_last_of_several_views_of_a_prompt():
    cache, directions, features = FeatureCache(3, 4), unit(5, 3), unit(5, 4)
    cache.put(torch.tensor([2, 0, 2, 2, 0]), directions, features)
    torch.testing.assert_close(cache.get(torch.tensor([2, 0])).features, features[[3, 4]])
    torch.testing.assert_close(cache.get(torch.tensor([2, 0])).directions, directions[[3, 4]])


def test_feature_cache_has_no_gradient_and_survives_a_checkpoint(tmp_path):
    cache, again = FeatureCache(3, 4), FeatureCache(3, 4)
    cache.put(torch.tensor([1]), unit(1, 3), unit(1, 4).requires_grad_())
    assert not cache.features.requires_grad
    torch.save(cache.state_dict(), tmp_path / "cache.pt")
    again.load_state_dict(torch.load(tmp_path / "cache.pt", weights_only=True))
    everything = torch.arange(3)
    torch.testing.assert_close(again.get(everything).features, cache.get(everything).features)
    torch.testing.assert_close(again.get(everything).directions, cache.get(everything).directions)
    assert again.get(everything).seen.tolist() == [False, True, False]


def test_gather_across_processes_of_one_process_is_the_identity():
    tensors = unit(2, 3), unit(2, 4)
    assert all(found is given for found, given in zip(gather_across_processes(*tensors), tensors, strict=True))


SEEN = {0: (torch.tensor([0, 3]), 2), 1: (torch.tensor([3, 2, 1]), 3)}  # prompts and their number, of each process


def _process(rank: int, meeting: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    cache, (ids, count) = FeatureCache(5, 4), SEEN[rank]
    cache.put(ids, unit(count, 3, seed=rank), unit(count, 4, seed=10 + rank))
    torch.save(cache.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_feature_cache_of_two_processes_holds_the_views_of_both(tmp_path):
    torch.multiprocessing.start_processes(
        _process, args=(str(tmp_path / "meeting"), str(tmp_path)), nprocs=2, start_method="fork"
    )
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert one["seen"].tolist() == [True, True, True, True, False]
    first, second = (unit(count, 4, seed=10 + rank) for rank, (_, count) in SEEN.items())
    expected = torch.stack([first[0], second[2], second[1], second[0], torch.zeros(4)])  # of prompt 3, the later rank's
    torch.testing.assert_close(one["features"], expected)
