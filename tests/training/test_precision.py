"""The precision of training on processors with and without bfloat16 products."""

import pytest
import torch
from jsonargparse import Namespace

from instant3d.training import fit


def settings(accelerator, precision, half_base=True):
    trainer = Namespace(accelerator=accelerator, precision=precision)
    return Namespace(trainer=trainer, model=Namespace(half_base=half_base))


def set_machine(monkeypatch, fast, cuda):
    monkeypatch.setattr(fit, "fast_dtype", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


@pytest.mark.parametrize(
    ("accelerator", "cuda", "fast", "precision"),
    [
        ("cpu", False, torch.float32, "32-true"),
        ("auto", False, torch.float32, "32-true"),
        ("cpu", False, torch.bfloat16, "bf16-mixed"),
        ("auto", True, torch.float32, "bf16-mixed"),
        ("gpu", True, torch.float32, "bf16-mixed"),
    ],
)
def test_precision_is_float32_only_where_the_processor_emulates_bfloat16(
    accelerator, cuda, fast, precision, monkeypatch, capsys
):
    set_machine(monkeypatch, fast, cuda)
    config = settings(accelerator, "bf16-mixed")
    fit.avoid_emulated_bfloat16(config)
    replaced = precision == "32-true"
    assert (config.trainer.precision, config.model.half_base) == (precision, not replaced)
    assert ("float32" in capsys.readouterr().err) == replaced


def test_precision_other_than_bfloat16_stays(monkeypatch, capsys):
    set_machine(monkeypatch, torch.float32, False)
    config = settings("cpu", "64-true")
    fit.avoid_emulated_bfloat16(config)
    assert config.trainer.precision == "64-true"
    assert capsys.readouterr().err == ""
