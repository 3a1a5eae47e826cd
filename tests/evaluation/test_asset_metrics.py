"""Metrics of fields and meshes against answers known beforehand: a sphere, and what a wrong image scores."""

import dataclasses
import math

import pytest
import torch
import trimesh
from ball_views import Ball, BallAsset, ball
from torch.nn import functional as F

from instant3d.cameras import orbit
from instant3d.evaluation.asset_metrics import (
    compare,
    field_metrics,
    geometry_metrics,
    mesh_metrics,
    render_like,
    render_mesh_like,
)
from instant3d.mesh import Mesh
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

pytestmark = pytest.mark.slow

LIGHT = MeshOptions(faces=600, texture=None)


def test_compare_scores_the_field_of_the_object_high_with_small_depth_error():
    wanted = ball(orbit([30.0, 160.0], [10.0, 50.0]), size=64)
    numbers = compare(render_like(Ball(), wanted), wanted)
    assert numbers["psnr"] > 22  # the exact images' edges are hard, half a pixel off
    assert numbers["mask_iou"] > 0.97
    assert numbers["depth_error"] < 0.02


def test_geometry_metrics_of_a_moved_ball_are_half_the_move_on_average_and_less_for_half():
    # a point of a sphere moved by d lies d |cos| away from where the sphere was: evenly spread between 0 and d
    truth = 0.7 * F.normalize(torch.randn(50_000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    still, moved = (geometry_metrics(Ball((0.0, shift, 0.0)), truth) for shift in (0.0, 0.1))
    assert still["f_score"] == 1
    assert still["chamfer"] < 0.01
    assert moved["f_score"] == pytest.approx(0.5, abs=0.05)
    assert moved["chamfer"] == pytest.approx(0.05, abs=0.01)


def test_geometry_metrics_of_an_empty_field_find_no_surface():
    numbers = geometry_metrics(Ball(density=0.0), torch.zeros(10, 3))
    assert numbers["f_score"] == 0
    assert math.isnan(numbers["chamfer"])


def test_compare_scores_what_is_missing_by_the_colours_distance_from_white():
    wanted = Views(torch.full((2, 3, 16, 16), 0.5), torch.ones(2, 1, 16, 16), orbit([0.0, 90.0], 0.0))
    nothing = Views(torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 16, 16), wanted.cameras)
    numbers = compare(nothing, wanted)
    assert numbers["psnr"] == pytest.approx(-10 * math.log10(0.25), abs=1e-4)
    assert numbers["mask_iou"] == 0
    assert "depth_error" not in numbers


def test_compare_reports_lpips_under_the_name_of_its_network():
    shown, wanted = ball(orbit([0.0], 0.0), (0.5, 0.5, 0.5)), ball(orbit([0.0], 0.0), (0.2, 0.2, 0.2))
    numbers = compare(shown, wanted, similarity=lambda a, b: (a - b).abs().amax())
    assert numbers["lpips_vgg"] == pytest.approx(0.3)
    assert "lpips_vgg" not in compare(shown, wanted)


def test_render_mesh_like_shows_an_exact_sphere_with_its_mask_and_normals():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.7)
    mesh = Mesh(sphere.vertices, sphere.faces, normals=(sphere.vertices / 0.7).astype("float32"))
    wanted = ball(orbit([30.0, 160.0], [10.0, 50.0]), (1.0, 1.0, 1.0), size=64)
    numbers = compare(render_mesh_like(mesh, wanted), wanted)
    assert numbers["mask_iou"] > 0.98
    assert numbers["normal_error"] < 1


def test_render_mesh_like_has_the_size_of_targets_that_are_not_square():
    wanted = ball(orbit([30.0], 0.0), size=32)
    wide = Views(wanted.rgb[..., :20, :], wanted.alpha[..., :20, :], wanted.cameras)
    sphere = trimesh.creation.icosphere(subdivisions=2, radius=0.7)
    assert render_mesh_like(Mesh(sphere.vertices, sphere.faces), wide).rgb.shape == wide.rgb.shape


def test_mesh_metrics_of_the_object_are_high_though_the_mesh_would_stand_on_the_ground():
    wanted = ball(orbit([30.0, 160.0], [10.0, 50.0]), size=64)
    truth = 0.7 * F.normalize(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    numbers = mesh_metrics(BallAsset(Ball()), LIGHT, wanted, truth)
    assert numbers["psnr"] > 22
    assert numbers["mask_iou"] > 0.95
    assert numbers["normal_error"] < 15  # density that is a step has gradients to the nearest corners of a cell
    assert numbers["chamfer"] < 0.015
    assert numbers["f_score"] > 0.99


def test_mesh_metrics_without_a_surface_are_those_of_empty_images():
    wanted = ball(orbit([0.0], 0.0), (0.5, 0.5, 0.5))
    numbers = mesh_metrics(BallAsset(Ball(density=0.0)), LIGHT, wanted, torch.zeros(10, 3))
    covered = wanted.alpha.mean().item()
    assert numbers["psnr"] == pytest.approx(-10 * math.log10(0.25 * covered), abs=1e-3)
    assert numbers["mask_iou"] == 0
    assert numbers["f_score"] == 0


def test_field_metrics_have_normal_errors_only_where_the_views_have_normals():
    wanted = ball(orbit([0.0], 0.0), size=16)
    assert field_metrics(Ball(), wanted, with_normals=True)["normal_error"] < 8
    assert "normal_error" not in field_metrics(Ball(), wanted)
    bare = dataclasses.replace(wanted, normals=None)
    assert "normal_error" not in field_metrics(Ball(), bare, with_normals=True)
