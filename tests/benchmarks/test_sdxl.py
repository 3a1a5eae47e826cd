"""The benchmark of the full-size SDXL counts and times what sampling really does."""

import itertools

import pytest
import torch
from tiny_sdxl import SIZES, tiny_sdxl

from benchmarks import sdxl
from benchmarks.weightless import Cost
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling

pytestmark = pytest.mark.slow

FOUND = {
    name: Cost(operations, {"linear": 0.5, "convolution": 0.25, "attention": 0.25}, weights * 2**30, 2**29)
    for name, operations, weights in (
        ("text encoder", 1 * 10**12, 1),
        ("text encoder 2", 2 * 10**12, 2),
        ("UNet, a guided step", 10 * 10**12, 4),
        ("VAE, encoding", 3 * 10**12, 1),
        ("VAE, decoding", 4 * 10**12, 1),
    )
}


def shapes(network, run):
    """Of all tensors that the network is called with, by name, one dictionary a call."""
    calls = []

    def note(_, inputs, keywords):
        arguments = {**keywords, **keywords["added_cond_kwargs"]}
        arguments |= dict(zip(("sample", "timestep", "encoder_hidden_states"), inputs, strict=False))
        calls.append({name: each.shape for name, each in arguments.items() if isinstance(each, torch.Tensor)})

    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        run()
    hook.remove()
    return calls


@pytest.mark.parametrize("grids", [1, 3])
def test_step_calls_the_unet_as_sampling_does(tmp_path, grids):
    parts = tiny_sdxl(tmp_path)
    sampler = GridSampler(parts)
    text, away = sampler.encode(["a red fire hydrant"] * grids)
    sampling = Sampling(steps=2)
    sampled = shapes(parts.unet, lambda: sampler.denoise(text, away, sampling=sampling, seeds=range(grids)))
    counted = shapes(parts.unet, sdxl.step(parts.unet, grids, length=text.tokens.shape[1]))
    assert sampled == 2 * counted
    assert counted[0]["sample"] == (2 * grids, 4, 8, 8)


def test_decoding_and_encoding_are_of_one_whole_grid(tmp_path):
    parts = tiny_sdxl(tmp_path)
    with torch.no_grad():
        assert sdxl.decoding(parts.vae)().shape == (1, 3, parts.grid_size, parts.grid_size)
        assert sdxl.encoding(parts.vae)().shape == (1, 4, 8, 8)
        assert sdxl.reading(parts.text_encoder_2)().text_embeds.shape == (1, 24)


def test_building_makes_networks_on_the_device_and_in_the_precision_given():
    with sdxl.building("meta", torch.bfloat16):
        vae = sdxl.build_part("vae", SIZES["vae"])
    assert {(each.device.type, each.dtype) for each in vae.parameters()} == {("meta", torch.bfloat16)}
    assert torch.empty(1).dtype == torch.float32
    assert torch.empty(1).device.type == "cpu"


def test_operations_of_a_grid_are_all_steps_and_the_rest_once():
    assert sdxl.operations_of_a_grid(FOUND, 30) == (30 * 10 + 1 + 2 + 3 + 4) * 10**12


def test_estimated_seconds_are_work_over_a_share_of_the_peak():
    lines = list(sdxl.estimated(FOUND, 0.5, 30))
    assert "ESTIMATED" in lines[0]
    assert "50% of the published" in lines[0]
    (found,) = (line.split()[1:] for line in lines if line.startswith("A100"))
    assert found == ["312", f"{10 / 156:.3f}", f"{310 / 156:.1f}"]


def test_counted_memory_is_of_all_networks_and_of_the_largest_results():
    lines = list(sdxl.counted(FOUND))
    assert len(lines) == 2 + len(FOUND) + 1
    assert lines[-1].startswith("All weights 8.00 GiB; with the largest activations 8.50 GiB")


def test_seconds_leave_out_the_first_runs(monkeypatch):
    clock, calls = [0.0], itertools.count()

    def run():
        clock[0] += 7.0 if next(calls) < sdxl.WARM_UP else 0.5

    monkeypatch.setattr(sdxl.time, "perf_counter", lambda: clock[0])
    assert sdxl.seconds(run, torch.device("cpu"), rounds=2, at_a_time=3) == [0.5, 0.5]
    assert next(calls) == sdxl.WARM_UP + 6


def test_measured_report_times_what_it_can_and_says_why_it_cannot_time_the_rest():
    lines = list(sdxl.measured(FOUND, ("sdpa", "xformers"), torch.device("cpu"), SIZES))
    assert lines[0].startswith("MEASURED on cpu: bfloat16, random weights")
    best, median, _ = (float(number) for number in lines[2].removeprefix("step, sdpa").split())
    assert 0 < best <= median
    assert "xformers works on CUDA only" in lines[3]
    assert lines[4].startswith("VAE, decoding")


def test_report_without_a_gpu_says_that_nothing_was_measured(monkeypatch):
    monkeypatch.setattr(sdxl, "costs", lambda: FOUND)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(sdxl.report(0.4, 30, sdxl.VARIANTS))[-1] == "Nothing measured: there is no CUDA device here."
