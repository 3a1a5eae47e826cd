"""Sampling by a compiled UNet against the same UNet as it is; backend `eager` traces as the compiler does."""

import logging

import pytest
import torch
from tiny_sdxl import tiny_sdxl

from instant3d.cli.main import main
from instant3d.stage1 import compiled_unet
from instant3d.stage1.compiled_unet import CompiledUNet
from instant3d.stage1.sampler import GridSampler
from instant3d.stage1.sampling_options import Sampling

PROMPTS = ["a red fire hydrant", "a blue wooden chair", "a green teapot"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(compiled_unet, "BACKEND", "eager")
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def components(tmp_path_factory):
    return tiny_sdxl(tmp_path_factory.mktemp("tokenizer"))


class Doubling(torch.nn.Module):
    """A network whose output is known."""

    def forward(self, latents, timestep):
        return (2 * latents + timestep,)


@pytest.mark.slow
def test_compiled_sampler_gives_the_images_of_the_plain_one_with_and_without_guidance(components, caplog):
    caplog.set_level(logging.INFO, "instant3d")
    sampling = Sampling(4, 3.0, guidance_stop=0.5, sampler="dpm++")
    compiled = GridSampler(components, at_once=2, torch_compile=True)(PROMPTS, sampling=sampling)
    plain = GridSampler(components, at_once=2)(PROMPTS, sampling=sampling)
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=0)
    told = [record.getMessage() for record in caplog.records]
    sizes = (4, 2)  # two grids with guidance and without; the third grid, alone in its batch, is padded
    assert told == [f"compiling the UNet for batches of {size}, which may take minutes" for size in sizes]


def test_compiled_unet_gives_the_output_of_the_network_for_every_timestep():
    network = CompiledUNet(Doubling())
    latents = torch.arange(6.0).reshape(2, 3)
    outputs = [network(latents, torch.tensor(timestep)) for timestep in (1.0, 5.0)]
    torch.testing.assert_close(outputs[0], torch.tensor([[1.0, 3, 5], [7, 9, 11]]))
    torch.testing.assert_close(outputs[1], torch.tensor([[5.0, 7, 9], [11, 13, 15]]))


def test_compiled_unet_that_cannot_be_compiled_runs_as_it_is_after_one_warning(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("there is no compiler on this machine")

    monkeypatch.setattr(compiled_unet, "BACKEND", broken)
    network = CompiledUNet(Doubling())
    with pytest.warns(UserWarning, match="cannot be compiled here .*no compiler on this machine") as caught:
        outputs = [network(torch.ones(2), torch.tensor(3.0)) for _ in range(3)]
    assert [output.tolist() for output in outputs] == [[5, 5]] * 3
    assert len(caught) == 1


def test_compiled_unet_pads_to_the_smallest_size_that_is_there():
    network = CompiledUNet(Doubling())
    assert [network.padded(count) for count in (4, 3, 6, 5, 1, 7)] == [4, 4, 6, 6, 4, 7]


def test_torch_compile_of_the_direct_system_is_refused(capsys):
    assert main(["generate", "a cat", "-o", "x", "--system", "direct", "--torch-compile"]) == 2
    assert "--torch-compile belongs to the two-stage system" in capsys.readouterr().err
