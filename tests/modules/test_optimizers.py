"""AdamW by PyTorch and by a stand-in for bitsandbytes."""

import sys
import types

import pytest
import torch
from torch import nn

from instant3d.modules.optimizers import make_adamw

SETTINGS = {"lr": 0.5, "betas": (0.0, 0.0), "weight_decay": 0.1}


def test_make_adamw_steps_by_the_rate_and_decays_the_weight():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = make_adamw([weight], "adamw", **SETTINGS)
    (3 * weight).sum().backward()
    optimizer.step()
    # without momentum Adam's step is the rate; before it, the weight decays by rate times decay
    torch.testing.assert_close(weight.data, torch.tensor([2.0 * (1 - 0.5 * 0.1) - 0.5]))


@pytest.mark.parametrize(("kind", "name"), [("adamw_8bit", "AdamW8bit"), ("paged_adamw_8bit", "PagedAdamW8bit")])
def test_make_adamw_of_8_bits_is_that_of_bitsandbytes(kind, name, monkeypatch):
    made = []
    optim = types.SimpleNamespace(
        **{name: lambda parameters, **settings: made.append((parameters, settings)) or "made"}
    )
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.SimpleNamespace(optim=optim))
    weights = [nn.Parameter(torch.zeros(1))]
    assert make_adamw(weights, kind, **SETTINGS) == "made"
    assert made == [(weights, SETTINGS)]


def test_make_adamw_of_8_bits_without_bitsandbytes_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match="needs bitsandbytes, which is not installed"):
        make_adamw([nn.Parameter(torch.zeros(1))], "adamw_8bit", **SETTINGS)
