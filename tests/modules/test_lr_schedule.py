"""Learning-rate schedules, by their values at known steps and seconds."""

import time
from datetime import timedelta
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Timer

from instant3d.modules.lr_schedule import lr_factor, training_progress, with_lr_schedule


class Line(L.LightningModule):
    """One weight whose learning rates are noted; every step takes `seconds`."""

    def __init__(self, warmup: int, seconds: float = 0.0) -> None:
        super().__init__()
        self.weight, self.warmup, self.seconds = torch.nn.Parameter(torch.zeros(1)), warmup, seconds
        self.rates: list[float] = []
        self.ends: list[float] = []

    def training_step(self, batch, _):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        time.sleep(self.seconds)
        self.ends.append(time.monotonic())
        return (self.weight * batch.sum()).sum()

    def configure_optimizers(self):
        return with_lr_schedule(torch.optim.SGD([self.weight], lr=2.0), self.warmup, self.trainer)


def trained(module, **settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **settings)
    trainer.fit(module, torch.utils.data.DataLoader(torch.ones(1000, 1)))
    return trainer


def test_lr_factor_rises_per_step_and_falls_to_zero_by_half_a_cosine():
    assert [lr_factor(step, 10, 0.0) for step in (0, 4, 9, 10, 50)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [lr_factor(20, 10, share) for share in (0.25, 0.5, 1, 7)] == pytest.approx([(1 + 0.5**0.5) / 2, 0.5, 0, 0])
    assert lr_factor(0, 0, 0.0) == 1


def test_lr_schedule_falls_over_the_steps_after_the_warmup():
    module = Line(warmup=2)
    trained(module, max_steps=6)
    assert module.rates == pytest.approx([1, 2, 2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5])


@pytest.mark.slow
def test_lr_schedule_falls_over_seconds_where_a_run_has_a_time_limit():
    module = Line(warmup=0, seconds=0.02)
    start = time.monotonic()
    trained(module, max_steps=-1, max_time=timedelta(seconds=1))
    assert module.rates[0] == pytest.approx(2, abs=0.1)
    assert module.rates[-1] < 0.1
    middle = next(k for k, end in enumerate(module.ends) if end - start > 0.5 * (module.ends[-1] - start))
    assert module.rates[middle] == pytest.approx(1, abs=0.4)


def test_training_progress_goes_on_with_the_seconds_of_an_interrupted_run():
    timer = Timer(timedelta(seconds=100))
    timer.load_state_dict({"time_elapsed": {"train": 25.0}})
    strategy = SimpleNamespace(broadcast=lambda value: value)
    trainer = SimpleNamespace(callbacks=[timer], estimated_stepping_batches=float("inf"), strategy=strategy)
    assert training_progress(trainer, step=7) == pytest.approx(0.25)


def test_lr_schedule_without_an_end_stays_constant_after_the_warmup():
    weight = torch.nn.Parameter(torch.zeros(1))
    found = with_lr_schedule(torch.optim.SGD([weight], lr=2.0), 2, None)
    taken = []
    for _ in range(4):
        taken.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert taken == [1.0, 2.0, 2.0, 2.0]
    assert found["lr_scheduler"]["interval"] == "step"
