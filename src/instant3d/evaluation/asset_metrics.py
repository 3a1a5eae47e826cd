"""Metrics of one reconstructed object, as a field or as a mesh, against true views and points of the true surface."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.mesh import Mesh, sample_points
from instant3d.modules import metrics
from instant3d.modules.losses import PerceptualLoss
from instant3d.nerf.asset import Asset
from instant3d.nerf.field import Field
from instant3d.nerf.mesh_extraction import extract_mesh
from instant3d.nerf.mesh_rendering import render_mesh
from instant3d.nerf.occupancy_render import render
from instant3d.utils.mesh_options import MeshOptions
from instant3d.views import Views

POINTS = 50_000  # on each of two surfaces that are compared
CELLS = 128  # cells a side of the grid on which a field's surface is extracted for them
NEAR = 0.05  # distance threshold of the F-score, world units
SAMPLES = (
    3  # a side of a pixel in renders of meshes; odd, so that no half-covered pixel lies on the threshold of a mask
)

Metrics = dict[str, float]


def field_metrics(
    field: Field,
    targets: Views,
    truth: Tensor | None = None,
    similarity: PerceptualLoss | None = None,
    *,
    with_normals: bool = False,
) -> Metrics:
    """Metrics of a field's volume renders, and of its surface.

    Args:
        field: One object's density and colour.
        targets: True views (T,).
        truth: Points (N, 3) on the true surface, if it is known.
        similarity: LPIPS; left out if None.
        with_normals: Measure normals too, if the targets have them.
    """
    with_normals = with_normals and targets.normals is not None
    numbers = compare(render_like(field, targets, with_normals=with_normals), targets, similarity)
    return numbers if truth is None else numbers | geometry_metrics(field, truth)


def mesh_metrics(
    asset: Asset,
    options: MeshOptions,
    targets: Views,
    truth: Tensor | None = None,
    similarity: PerceptualLoss | None = None,
) -> Metrics:
    """Metrics of unlit renders of an asset's mesh, and of its surface; those of empty images if there is no surface.

    Args:
        asset: The asset.
        options: How the mesh is made. Its origin is ignored: it stays in the world of the cameras.
        targets: True views (T,).
        truth: Points (N, 3) on the true surface, if it is known.
        similarity: LPIPS; left out if None.

    Raises:
        ValueError: The texture has no room for so many faces.
    """
    mesh = None
    if has_surface(asset):
        mesh = asset.build_mesh(dataclasses.replace(options, origin="world")).mesh
    numbers = compare(render_mesh_like(mesh, targets), targets, similarity)
    return numbers if truth is None else numbers | surface_metrics(mesh, truth)


def has_surface(asset: Asset) -> bool:
    """Whether the asset's field is neither empty nor full."""
    try:
        return len(asset.surface.faces) > 0
    except ValueError:
        return False


def render_like(field: Field, targets: Views, *, with_normals: bool = False) -> Views:
    """Render a field from the target cameras at their size.

    Args:
        field: One object's density and colour.
        targets: Views (T,) whose cameras and size are used.
        with_normals: Also render normals.

    Returns:
        Views (T,); depth and normals are 0 where alpha is at most 1/2.
    """
    shown = render(field, targets.cameras, targets.height, targets.width, with_normals=with_normals)
    solid = shown.alpha > 0.5
    depth = None if shown.depth is None else shown.depth * solid
    normals = None if shown.normals is None else F.normalize(shown.normals, dim=-3) * solid
    return Views(shown.rgb.clamp(0, 1), shown.alpha.clamp(0, 1), shown.cameras, depth, normals)


def render_mesh_like(mesh: Mesh | None, targets: Views) -> Views:
    """Render a mesh, unlit and anti-aliased, from the target cameras at their size; None gives empty images.

    Normals are 0 where alpha is at most 1/2.
    """
    if mesh is None:
        return Views(torch.zeros_like(targets.rgb), torch.zeros_like(targets.alpha), targets.cameras)
    side = max(targets.height, targets.width)
    shown = render_mesh(mesh, targets.cameras.to("cpu"), side, supersample=SAMPLES)
    shown = shown.resized(targets.height, targets.width).to(targets.rgb.device)
    normals = None if shown.normals is None else shown.normals * (shown.alpha > 0.5)
    return dataclasses.replace(shown, normals=normals)


def compare(rendered: Views, targets: Views, similarity: PerceptualLoss | None = None) -> Metrics:
    """Metrics of rendered views against targets (T,), means over views.

    Args:
        rendered: Views to measure.
        targets: True views.
        similarity: LPIPS; left out if None.

    Returns:
        PSNR (dB), SSIM and mask IoU; LPIPS if given; the errors of depth (world units) and normals (degrees) if both
        views have them.
    """
    a, b = rendered.composite(1.0), targets.composite(1.0)
    numbers = {
        "psnr": metrics.psnr(a, b),
        "ssim": metrics.ssim(a, b),
        "mask_iou": metrics.mask_iou(rendered.alpha, targets.alpha),
    }
    if similarity is not None:
        numbers["lpips_vgg"] = similarity(a, b)
    if rendered.depth is not None and targets.depth is not None:
        numbers["depth_error"] = metrics.depth_error(rendered.depth, targets.depth)
    if rendered.normals is not None and targets.normals is not None:
        numbers["normal_error"] = metrics.normal_error(rendered.normals, targets.normals)
    return {name: value.nanmean().item() for name, value in numbers.items()}


def geometry_metrics(field: Field, truth: Tensor) -> Metrics:
    """Compare a field's surface with points on the true surface.

    Args:
        field: One object's density and colour.
        truth: Points (N, 3) on the true surface.

    Returns:
        The metrics of `surface_metrics`; those without a surface if the field is empty or full.
    """
    try:
        surface = extract_mesh(field, CELLS)
    except ValueError:
        surface = None
    return surface_metrics(surface, truth)


def surface_metrics(surface: Mesh | None, truth: Tensor) -> Metrics:
    """Chamfer distance (world units) and F-score between a surface and points (N, 3) on the true one.

    Without a surface the Chamfer distance is NaN and the F-score 0.
    """
    if surface is None:
        return {"chamfer": math.nan, "f_score": 0.0}
    points = points_on([surface])
    return {"chamfer": metrics.chamfer(points, truth), "f_score": metrics.f_score(points, truth, NEAR)}


def points_on(parts: Sequence[Mesh]) -> Tensor:
    """Sample POINTS points (POINTS, 3) on a surface, the same ones each time."""
    return sample_points(parts, POINTS, torch.Generator().manual_seed(0))
