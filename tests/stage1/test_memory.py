"""Computed memory of fine-tuning SDXL against measurements on an H200, and shipped configs against their cards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.lora_training import with_lora
from instant3d.modules.diffusion.sdxl import SIZES
from instant3d.stage1.memory import CLASSES, UNET, FineTuning

CONFIGS = Path(__file__).parents[2] / "configs" / "stage1"
LORA = 23_224_320  # parameters of rank 16


def read(name):
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def from_class(name):
    config = read(name)
    return FineTuning(config["data"]["batch_size"], config["model"]["gradient_checkpointing"], LORA, sampled=True)


@pytest.mark.slow
def test_memory_counts_the_parameters_of_sdxl_and_of_the_shipped_rank():
    with torch.device("meta"):
        unet = build_part("unet", SIZES["unet"]).requires_grad_(False)
        assert sum(parameter.numel() for parameter in unet.parameters()) == UNET
        with_lora(unet, read("one_gpu_lora")["model"]["lora_rank"], 1.0)
    assert sum(parameter.numel() for parameter in unet.parameters() if parameter.requires_grad) == LORA


@pytest.mark.parametrize(("batch", "checkpointing", "measured"), [(2, True, 6.6), (8, False, 47.0)])
def test_memory_of_lora_is_what_was_measured(batch, checkpointing, measured):
    assert FineTuning(batch, checkpointing, LORA).gib == pytest.approx(measured, rel=0.02)


def test_memory_of_the_whole_unet_is_a_fifth_above_what_was_measured_at_most():
    assert 41 < FineTuning(8, averaged=False).gib < 1.2 * 41


@pytest.mark.parametrize("name", CLASSES)
def test_memory_of_each_class_fits_with_sample_grids_and_sixteen_grids_make_a_step(name):
    config, trainer = read(name), read(name)["trainer"]
    assert from_class(name).gib < 0.95 * CLASSES[name]
    assert config["data"]["batch_size"] * trainer["accumulate_grad_batches"] == 16
    assert trainer["val_check_interval"] == 500 * trainer["accumulate_grad_batches"]


@pytest.mark.parametrize("name", ["24gb", "48gb"])
def test_memory_of_smaller_classes_has_no_room_for_kept_activations(name):
    assert replace(from_class(name), checkpointing=False).gib > CLASSES[name]


def test_memory_of_the_paper_config_needs_80_gb_by_ddp_and_24_gb_sharded_over_eight_gpus():
    batch = read("paper")["data"]["batch_size"]
    ddp = FineTuning(batch, copies=2, sampled=True).gib
    assert CLASSES["48gb"] < ddp < CLASSES["80gb"]
    assert FineTuning(batch, averaged=False, shards=8, sampled=True).gib < CLASSES["24gb"]
    assert FineTuning(batch, averaged=False, shards=2).gib > CLASSES["24gb"]


def test_memory_of_eight_bit_state_saves_six_bytes_a_parameter():
    whole, small = (FineTuning(2, averaged=False, state=state).gib for state in (8, 2))
    assert whole - small == pytest.approx(6 * 2_567_463_684 / 2**30)
    assert small < CLASSES["48gb"] < whole + 4
