"""Where random numbers are drawn: torch's own functions, and torch's meta device for one that this machine may lack."""

import pytest
import torch

from instant3d.utils.data_order import seeded
from instant3d.utils.random_numbers import drawn_on, rand_like, randn_like

LIKE = torch.zeros(3, 5, dtype=torch.float64)


def cpu(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("ours", "torchs"), [(rand_like, torch.rand), (randn_like, torch.randn)])
def test_on_the_cpu_the_numbers_are_those_of_torch(ours, torchs):
    assert torch.equal(ours(LIKE, cpu()), torchs(3, 5, generator=cpu()).double())


@pytest.mark.parametrize("draw", [rand_like, randn_like])
def test_a_generator_of_another_device_than_the_tensors_draws_on_its_own(draw):
    generator = cpu()
    found = draw(torch.zeros(4, device="meta"), generator)
    assert found.device.type == "meta"
    assert not torch.equal(generator.get_state(), cpu().get_state())


@pytest.mark.parametrize("draw", [rand_like, randn_like])
def test_without_a_generator_the_tensors_device_draws(draw):
    before = torch.get_rng_state()
    draw(torch.zeros(4, device="meta"))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_on_a_gpu_draws_there():
    class OnGPU:
        device = torch.device("cuda", 1)

    assert drawn_on(OnGPU())["device"] == torch.device("cuda", 1)


def test_seeds_give_generators_on_the_device_asked_for(monkeypatch):
    asked, generator = [], cpu()
    monkeypatch.setattr(torch, "Generator", lambda device: asked.append(device) or generator)
    seeded(1, 2, device="cuda")
    assert asked == ["cuda"]
