"""Losses of the reconstructor: colour, gradients, mask, depth, normals, free space, eikonal and LPIPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.modules.frozen import FrozenModule
from instant3d.nerf.field import Field, finite_difference_gradient
from instant3d.nerf.ray_sampling import box_span
from instant3d.utils.random_numbers import rand_like
from instant3d.utils.tensor_files import load_weights_only
from instant3d.views import Views


def photometric_losses(rendered: Views, target: Views, background: Tensor) -> dict[str, Tensor]:
    """Mean squared errors of colour and alpha.

    Args:
        rendered: Rendered views.
        target: Ground truth of the same shape, images in [0, 1].
        background: Colour behind both, (..., 3).

    Returns:
        `rgb` and `mask`.
    """
    return {
        "rgb": F.mse_loss(rendered.composite(background), target.composite(background)),
        "mask": F.mse_loss(rendered.alpha, target.alpha),
    }


def geometric_losses(rendered: Views, target: Views) -> dict[str, Tensor]:
    """Depth and normal losses over pixels where both rendering and target show the object.

    Returns:
        `depth`, mean absolute error in world units, and `normal`, mean of 1 - cosine; each only if both views have it.
    """
    both = ((target.alpha > 0.99) & (rendered.alpha.detach() > 0.5)).float()
    count = both.sum().clamp(min=1)
    losses = {}
    if rendered.depth is not None and target.depth is not None:
        losses["depth"] = (both * (rendered.depth - target.depth).abs()).sum() / count
    if rendered.normals is not None and target.normals is not None:
        losses["normal"] = (both * (1 - (rendered.normals * target.normals).sum(-3, keepdim=True))).sum() / count
    return losses


def free_space_loss(field: Field, target: Views, generator: torch.Generator | None = None) -> Tensor:
    """Opacity between the camera and the ground-truth depth, where there can be none (MeshLRM, eq. 3).

    One point is drawn at random on each ray before its surface, or anywhere in the cube if the ray hits none; its loss
    is the opacity that its density would give to the remaining way, at most 0.2 world units.

    Args:
        field: Density field of the objects.
        target: Views (..., V, 3, H, W) with depth.
        generator: Random numbers.

    Raises:
        ValueError: The views have no depth.
    """
    if target.depth is None:
        raise ValueError(
            "the free-space loss needs views with depth; render the scenes with depth or set its weight to 0"
        )
    rays = target.cameras.rays(target.height, target.width)
    near, far = box_span(rays)
    forward = (rays.directions * target.cameras.cam_to_world[..., None, None, :3, 2]).sum(-1)
    alpha, depth = target.alpha[..., 0, :, :], target.depth[..., 0, :, :]
    surface = torch.where(alpha > 0.99, depth / forward, far)
    sharp = ((alpha > 0.99) & (depth > 0)) | (alpha < 0.01)  # a pixel on an edge is neither
    distance = near + rand_like(surface, generator) * (surface - near).clamp(min=0)
    density = field.density(rays.at(distance[..., None]).flatten(-5, -2)).reshape(distance.shape)
    remaining = (surface - distance).clamp(0, 0.2)
    opacity = -torch.expm1(-density * remaining)
    return (opacity * sharp).sum() / sharp.sum().clamp(min=1)


def gradient_loss(rendered: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of the differences of neighbouring pixels: edges (Mathieu et al., arXiv 1511.05440, eq. 6).

    Args:
        rendered: Images (..., 3, H, W).
        target: Ground truth of the same shape.
    """
    error = rendered - target
    return (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2


def eikonal_loss(field: Field, points: Tensor) -> Tensor:
    """Mean of (|gradient| - 1)^2 of a signed distance (IGR, arXiv 2002.10099, eq. 3).

    The gradient is one of finite differences (Neuralangelo, arXiv 2306.03092), since that of plane sampling has no
    derivative of its own.

    Args:
        field: Field of the objects, whose `raw_density` is a distance.
        points: (..., N, 3).
    """
    return (finite_difference_gradient(field, points).norm(dim=-1) - 1).square().mean()


class PerceptualLoss(FrozenModule):
    """LPIPS with a VGG-16 (Zhang et al. 2018); its weights are frozen and not saved with a model.

    Args:
        weights: File of torchvision's VGG-16 weights, or "download" to let torchvision download them.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds something else.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        from torchmetrics.functional.image.lpips import _LPIPS

        if weights != "download" and not Path(weights).is_file():
            raise FileNotFoundError(
                f"there are no VGG-16 weights at {weights}; give torchvision's vgg16-397923af.pth, `download` or null"
            )
        self.net = _LPIPS(pretrained=True, net="vgg", pnet_rand=weights != "download", use_dropout=True)
        if weights != "download":
            _load_vgg(self.net.net, load_weights_only(Path(weights)))
        self.freeze()

    def forward(self, rendered: Tensor, target: Tensor) -> Tensor:
        """Mean LPIPS distance of images (..., 3, H, W) in [0, 1]."""
        return self.net(rendered.flatten(0, -4), target.flatten(0, -4), normalize=True).mean()


def _load_vgg(slices: nn.Module, weights: Any) -> None:
    """Load torchvision's `features.N.*` into torchmetrics' slices, which keep N as the layer's name."""
    expected = slices.state_dict()
    if not isinstance(weights, dict):
        raise ValueError(
            f"the VGG-16 file holds a {type(weights).__name__}, not tensors by name; "
            "give torchvision's vgg16-397923af.pth"
        )
    found = {
        key: weights[f"features.{key.split('.', 1)[1]}"]
        for key in expected
        if f"features.{key.split('.', 1)[1]}" in weights
    }
    if set(found) != set(expected):
        raise ValueError(
            f"the VGG-16 file lacks {len(expected) - len(found)} of {len(expected)} tensors; "
            "give torchvision's vgg16-397923af.pth"
        )
    other = [key for key, value in found.items() if getattr(value, "shape", None) != expected[key].shape]
    if other:
        raise ValueError(f"the VGG-16 file's {other[0]} has another shape; give torchvision's vgg16-397923af.pth")
    slices.load_state_dict(found)
