"""How the learning rate goes on, by its values at known steps."""

import pytest
import torch

from instant3d.schedule import rate, scheduled


def test_it_rises_per_step_and_falls_to_nothing_by_half_a_cosine():
    factors = [rate(step, 10, 110) for step in range(111)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[35] == pytest.approx((1 + 0.5**0.5) / 2)
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0)


def test_without_an_end_it_stays_after_its_rise():
    assert [rate(step, 4, None) for step in (0, 1, 3, 4, 1000)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert rate(0, 0, None) == 1


def test_the_optimizer_takes_it_anew_at_every_step():
    weight = torch.nn.Parameter(torch.zeros(1))
    found = scheduled(torch.optim.SGD([weight], lr=2.0), 2, None)
    taken = []
    for _ in range(3):
        taken.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert taken == [1.0, 2.0, 2.0]
    assert found["lr_scheduler"]["interval"] == "step"
