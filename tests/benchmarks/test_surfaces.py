"""Ways to repair a surface that `benchmarks.surfaces` compares, on balls and slabs."""

import numpy as np
import pytest
import torch
import trimesh
from analytic_fields import Formula
from balls import ball_views

from benchmarks.mesh_comparison import table
from benchmarks.surfaces import ClosedField, without_floaters
from instant3d.mesh import Mesh


def test_without_floaters_drops_the_ball_that_no_silhouette_has_and_keeps_the_one_they_all_have():
    balls = [trimesh.creation.icosphere(2, 0.5), trimesh.creation.icosphere(2, 0.1)]
    balls[1].apply_translation((0, 0, 0.85))
    both = trimesh.util.concatenate(balls)
    kept = without_floaters(Mesh(both.vertices, both.faces), ball_views((1, 0, 0), radius=0.6))
    assert len(kept.faces) == len(balls[0].faces)
    assert np.linalg.norm(kept.vertices, axis=1).max() == pytest.approx(0.5, abs=1e-6)


def test_closed_field_fills_a_gap_of_one_node_and_no_wider_one():
    def slabs(points):  # solid but for gaps around x = 0 and x = 0.5
        x = points[..., 0]
        return 100.0 * ((x.abs() > 0.03) & ((x - 0.5).abs() > 0.15))

    field = ClosedField(Formula(slabs), 41, 3)  # nodes 0.05 apart
    inside, wide, solid = field.density(torch.tensor([[0.0, 0.1, 0.2], [0.5, 0.1, 0.2], [-0.5, 0.1, 0.2]]))
    assert (inside.item(), wide.item(), solid.item()) == (100, 0, 100)


def test_table_has_means_and_the_gain_on_the_first_way_with_its_standard_error():
    records = [{"a": {"psnr": 20.0}, "b": {"psnr": 21.0}}, {"a": {"psnr": 22.0}, "b": {"psnr": 25.0}}]
    assert table(records)[2:] == ["| a | 21.00 |  |", "| b | 23.00 | +2.000 ± 1.000 |"]
