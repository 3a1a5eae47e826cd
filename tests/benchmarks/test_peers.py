"""Converted peers are measured on what `reconstruct` would show them."""

import pytest
import torch

from benchmarks import peers
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.stage2.view_checks import assumed_camera


def test_peers_get_one_view_of_their_own_camera_or_four():
    one = Architecture(assumed_camera=(0.0, 0.0, 2.0, 40.0))
    views = peers.inputs(one)
    assert views.rgb.shape[0] == 1
    assert torch.equal(views.cameras.cam_to_world, assumed_camera(one).cam_to_world)
    assert peers.inputs(Architecture()).rgb.shape[0] == 4


@pytest.mark.slow
def test_peers_are_all_converted_at_the_size_of_their_golden_images(tmp_path):
    sizes = [read_architecture(folder / "config.json").image_size for folder in peers.converted(tmp_path)]
    assert sizes == [160, 168, 160]


def test_peers_table_has_a_row_for_a_checkpoint_with_the_columns_of_its_head():
    row = {"views": 4, "pixels": 160, "parameters": 1234567, "load": 0.5, "planes": 0.25, "image": 1, "mesh": 2,
           "memory": 33.4}  # fmt: skip
    head, line = peers.table({"some (tiny)": row})
    assert line.split() == [
        "some",
        "(tiny)",
        "4",
        "x",
        "160",
        "px",
        "1,234,567",
        "0.50",
        "0.250",
        "1.000",
        "2.00",
        "33",
    ]
    assert len(head) == len(line)


def test_timed_gives_the_best_time_and_the_last_result():
    results = iter(range(5))
    seconds, result = peers.timed(lambda: next(results), rounds=3)
    assert result == 2
    assert 0 <= seconds < 1
