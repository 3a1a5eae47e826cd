"""Where random numbers are drawn: torch's own functions, and torch's meta device for one that this machine may lack."""

import pytest
import torch
from scipy import stats

from instant3d.utils.data_order import generator_from_key
from instant3d.utils.random_numbers import (
    GOLDEN,
    _mixed,
    generator_kwargs,
    normal_by_index,
    rand_like,
    randn_like,
    uniform_by_index,
)

LIKE = torch.zeros(3, 5, dtype=torch.float64)


def cpu(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("ours", "torchs"), [(rand_like, torch.rand), (randn_like, torch.randn)])
def test_rand_like_on_the_cpu_gives_the_numbers_of_torch(ours, torchs):
    assert torch.equal(ours(LIKE, cpu()), torchs(3, 5, generator=cpu()).double())


@pytest.mark.parametrize("draw", [rand_like, randn_like])
def test_rand_like_draws_on_the_generators_device_when_the_tensors_is_another(draw):
    generator = cpu()
    found = draw(torch.zeros(4, device="meta"), generator)
    assert found.device.type == "meta"
    assert not torch.equal(generator.get_state(), cpu().get_state())


@pytest.mark.parametrize("draw", [rand_like, randn_like])
def test_rand_like_draws_on_the_tensors_device_without_a_generator(draw):
    before = torch.get_rng_state()
    draw(torch.zeros(4, device="meta"))
    assert torch.equal(torch.get_rng_state(), before)


def test_generator_kwargs_draw_on_the_gpu_of_a_generator():
    class OnGPU:
        device = torch.device("cuda", 1)

    assert generator_kwargs(OnGPU())["device"] == torch.device("cuda", 1)


def test_generator_from_key_makes_generators_on_the_given_device(monkeypatch):
    asked, generator = [], cpu()
    monkeypatch.setattr(torch, "Generator", lambda device: asked.append(device) or generator)
    generator_from_key(1, 2, device="cuda")
    assert asked == ["cuda"]


def test_splitmix64_mixes_bits_as_published():
    states = torch.tensor([1234567], dtype=torch.int64) + torch.arange(1, 4) * GOLDEN  # wraps modulo 2**64
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # of seed 1234567
    assert [int(value) % 2**64 for value in _mixed(states)] == published


@pytest.mark.parametrize(("draw", "law"), [(uniform_by_index, "uniform"), (normal_by_index, "norm")])
def test_uniform_and_normal_by_index_follow_their_law_within_and_across_examples(draw, law):
    found = draw(torch.arange(1000), (64,), 0, 1)
    assert stats.kstest(found.flatten().numpy(), law).pvalue > 0.01
    assert stats.kstest(found[:, 0].numpy(), law).pvalue > 0.01
    neighbours = torch.corrcoef(torch.stack([found[:-1].flatten(), found[1:].flatten()]))[0, 1]
    assert abs(float(neighbours)) < 0.02


def test_normal_by_index_depends_on_the_examples_number_and_the_key_alone():
    alone, among = normal_by_index(torch.tensor([7]), (2, 3), 5, 1), normal_by_index(torch.tensor([3, 7]), (2, 3), 5, 1)
    assert torch.equal(alone[0], among[1])
    for other in (
        normal_by_index(torch.tensor([7]), (2, 3), 1, 5),
        normal_by_index(torch.tensor([7]), (2, 3), 5, 2),
        among[:1],
    ):
        assert not torch.isclose(alone, other).any()


def test_uniform_by_index_of_one_number_each_has_the_batchs_shape():
    assert uniform_by_index(torch.arange(5), (), 0).shape == (5,)
