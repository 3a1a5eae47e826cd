"""Which networks are on the device, by their bytes: networks that only log their moves."""

import pytest
import torch
from torch import nn

from instant3d.pipelines.model_offload import ModelOffloader, fair_share, weight_bytes

META = torch.device("meta")  # a device that holds no bytes, so that a CPU stands in for the GPU


class LoggedNetwork(nn.Module):
    """A network of `size` bytes that logs its moves between devices."""

    def __init__(self, name: str, size: int, log: list[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size // 4))
        self.name, self.log = name, log

    def to(self, device):
        if torch.device(device).type != self.where:
            self.log.append(f"{self.name} to {torch.device(device).type}")
        self.where = torch.device(device).type
        return self

    where = "cpu"


SIZES = {"text": 400, "unet": 1600, "vae": 200, "stage2": 800}


def load_in_turn(
    limit: int | None, *steps: tuple[str, ...], device: torch.device = META
) -> tuple[list[str], ModelOffloader]:
    log: list[str] = []
    offloader = ModelOffloader({name: LoggedNetwork(name, size, log) for name, size in SIZES.items()}, device, limit)
    for step in steps:
        offloader.load_to_device(*step)
    return log, offloader


ROUND = (("text",), ("unet", "vae"), ("vae",), ("stage2",))


def test_offloader_moves_every_network_once_where_all_fit():
    log, _ = load_in_turn(3000, *ROUND, *ROUND)
    assert log == ["text to meta", "unet to meta", "vae to meta", "stage2 to meta"]


def test_offloader_moves_nothing_back_without_a_limit():
    assert load_in_turn(None, *ROUND, *ROUND)[0] == load_in_turn(3000, *ROUND)[0]


def test_offloader_moves_the_least_recently_used_network_back_first():
    log, offloader = load_in_turn(2700, *ROUND)
    assert log[-2:] == ["text to cpu", "stage2 to meta"]  # 400 less is enough: the larger unet, used later, stays
    assert offloader.present == ["unet", "vae", "stage2"]


def test_offloader_keeps_the_limit_whenever_one_step_fits_into_it():
    log: list[str] = []
    limit = SIZES["unet"] + SIZES["vae"]
    offloader = ModelOffloader({name: LoggedNetwork(name, size, log) for name, size in SIZES.items()}, META, limit)
    for step in ROUND * 2:
        offloader.load_to_device(*step)
        there = {name for name, part in offloader.parts.items() if part.where == "meta"}
        assert set(step) <= there == set(offloader.present)
        assert sum(SIZES[name] for name in there) <= limit


def test_offloader_makes_room_before_anything_moves_in():
    log, _ = load_in_turn(1900, ("text",), ("unet", "vae"))
    assert log == ["text to meta", "text to cpu", "unet to meta", "vae to meta"]


def test_offloader_loads_what_is_needed_together_even_beyond_the_limit():
    _, offloader = load_in_turn(100, ("text",), ("unet", "vae"))
    assert offloader.present == ["unet", "vae"]


def test_offloader_moves_nothing_on_a_cpu():
    assert load_in_turn(100, *ROUND, device=torch.device("cpu"))[0] == []


def test_weight_bytes_count_buffers_and_each_precision():
    network = nn.BatchNorm1d(10).half()  # weight, bias, mean and variance of 10, and one count of 8 bytes
    assert weight_bytes(network) == 4 * 10 * 2 + 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fair_share_is_less_than_the_free_memory_of_a_gpu():
    assert 0 < fair_share(torch.device("cuda")) < torch.cuda.mem_get_info()[0]


def test_fair_share_is_no_limit_on_a_cpu():
    assert fair_share(torch.device("cpu")) is None
