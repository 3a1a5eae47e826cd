"""Warm start of variants: what they compute before the first step, what is frozen, what is refused."""

import dataclasses

import balls
import lightning as L
import pytest
import torch
from torch import nn

from instant3d.cameras import structured_cameras
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.data import ReconstructionBatch
from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.parameter_groups import split_parameters, train_only
from instant3d.stage2.warm_start import variant_of, warm_start

TINY = Architecture(
    image_size=32, encoder="plucker", encoder_width=32, encoder_depth=1, encoder_heads=2, patch=16, width=32, depth=2,
    heads=2, token_side=4, plane_side=16, channels=12, decoder_width=16, decoder_layers=3, lift_side=16, lift_width=16,
)  # fmt: skip
BRANCHES = {"pixel_features": "decoder.from_views", "lift_features": "lift.read.from_lifted",
            "surface_features": "lift.read.from_surface"}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder of weights all of which are random, so that each of them changes the output."""
    folder = tmp_path_factory.mktemp("weights")
    network = Reconstructor(TINY)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    network.licence = "as it is"
    network.save_pretrained(folder, dtype=torch.float32)
    return folder


def field_at_points(network):
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    with torch.no_grad():
        return network(views)(torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(1)) - 0.5)


@pytest.mark.parametrize("branch", BRANCHES)
def test_warm_start_computes_what_the_weights_do_until_the_new_branch_is_trained(weights, branch):
    expected = field_at_points(Reconstructor.from_pretrained(weights))
    network, added = warm_start(weights, dataclasses.replace(TINY, **{branch: 3}))
    assert all(torch.equal(one, two) for one, two in zip(field_at_points(network), expected, strict=True))
    assert any(name.startswith(BRANCHES[branch]) for name in added)
    assert network.licence == "as it is"
    last = [parameter for name, parameter in network.named_parameters() if name.startswith(BRANCHES[branch])]
    nn.init.ones_(last[0])
    assert not torch.equal(field_at_points(network)[1], expected[1])


def test_warm_start_without_changes_is_the_network_of_the_weights(weights):
    network, added = warm_start(weights, Architecture())
    assert network.architecture == TINY
    assert network.training
    assert added == []


def test_variant_keeps_what_the_changes_leave_at_its_default():
    changes = Architecture(image_size=128, depth=3, gated=True)
    assert variant_of(TINY, changes) == dataclasses.replace(TINY, depth=3, gated=True)


def test_warm_start_names_the_tensors_that_a_smaller_variant_has_no_place_for(weights):
    with pytest.raises(ValueError, match=r"no place for \d+ tensors .*blocks\.1\..*model\.start"):
        warm_start(weights, dataclasses.replace(TINY, depth=1))


def test_warm_start_names_the_shapes_that_differ(weights):
    with pytest.raises(ValueError, match=r"lift\.to_planes\.weight \(80, 16, 3, 3\) instead of \(12, 16, 3, 3\)"):
        warm_start(weights, dataclasses.replace(TINY, plane_side=32, channels=20))


def test_training_changes_named_parts_and_new_branches_alone(weights):
    module = Stage2Module(
        dataclasses.replace(TINY, pixel_features=3),
        start=str(weights),
        trainable=["decoder", "lift.to_planes"],
        ray_marching=RayMarching(8, 8),
        loss_weights=LossWeights(perceptual=0, mask=1),
        vgg_weights=None,
    )
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    module.log = module.log_dict = lambda *args, **kwargs: None  # there is no trainer
    decayed, plain = split_parameters(module.network)
    optimizer = torch.optim.AdamW([*decayed, *plain], lr=1e-2, weight_decay=0.1)
    views = balls.position_coloured_ball(structured_cameras(), size=32)[None]
    for _ in range(2):  # the gradient reaches a branch after its last layer has left zero
        module.training_step(ReconstructionBatch(views, views), 0).backward()
        optimizer.step()
    moved = {name for name, value in module.network.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("decoder.", "lift.to_planes.", "pixels.")
    assert moved == {name for name in before if name.startswith(parts)}


def test_new_branches_alone_have_the_added_learning_rate(weights):
    module = Stage2Module(
        dataclasses.replace(TINY, pixel_features=3),
        start=str(weights),
        learning_rate=1e-4,
        added_learning_rate=3e-3,
        vgg_weights=None,
    )
    module.trainer = L.Trainer(max_steps=10, accelerator="cpu", logger=False, enable_checkpointing=False)
    rates = {
        id(parameter): group["initial_lr"]
        for group in module.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    }
    for name, parameter in module.network.named_parameters():
        assert rates[id(parameter)] == (3e-3 if "from_views" in name or "pixels" in name else 1e-4), name


def test_trainable_part_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"no 'decode'; its parts are blocks, decoder, encoder, lift, norm, tokens"):
        train_only(Reconstructor(TINY), ["decode"])
