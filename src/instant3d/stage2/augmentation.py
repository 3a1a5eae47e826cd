"""Choice of input and target views, their cropping and augmentation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.views import Views

NOISE_SIDE = 16  # of the grid that smooth noise on colours is drawn on


@dataclass(frozen=True)
class ViewSampling:
    """Random choice of input and target views from a scene's frames, and their augmentation.

    Attributes:
        inputs: Number of input views.
        targets: Number of target views, drawn independently, so that some may be inputs (GS-LRM, section 4).
        structured_probability: Probability that the inputs are the four structured views.
        patch: Side of the targets' windows in pixels; 0 takes whole images.
        zoom: Range of the side in pixels that each target is resized to before its window is cropped: context or
            detail.
        coarse_steps: Training steps at the beginning whose windows and zooms have half the side: first the shape from
            many cheap steps, then detail (MeshLRM, arXiv 2404.12385, section 3.2).
        foreground_probability: Probability that a window is centred on the object rather than anywhere.
        random_rotation: Whether the world is rotated by a random multiple of 90 degrees about z.
        camera_jitter: Standard deviation of noise on input cameras, in radians and world units (LGM, section 3.4).
        warp_probability: Probability that an input image is warped by a smooth random grid, like errors of generated
            views.
        downsample_probability: Probability that inputs are reduced to half their pixels, like views of small
            generators.
        color_jitter: Standard deviation of a gain and an offset of each colour channel of each input view, drawn for
            each view alone: generated views differ in colour.
        color_noise: Standard deviation of smooth noise on the colours of each input view: generated views differ in
            detail.
        depth: Whether the targets' depth is read where there is some, for losses on it.
        normals: Whether the targets' normals are read, for a loss on them; then every scene needs them.
    """

    inputs: int = 4
    targets: int = 4
    structured_probability: float = 0.5
    patch: int = 128
    zoom: tuple[int, int] = (128, 384)
    coarse_steps: int = 0
    foreground_probability: float = 0.8
    random_rotation: bool = True
    camera_jitter: float = 0.0
    warp_probability: float = 0.0
    downsample_probability: float = 0.0
    color_jitter: float = 0.0
    color_noise: float = 0.0
    depth: bool = True
    normals: bool = False

    def __post_init__(self) -> None:
        if self.coarse_steps and self.patch < 2:
            raise ValueError(
                f"coarse_steps halve windows, so they need a patch of at least 2, got {self.patch}; set one of them"
            )

    @property
    def coarse(self) -> ViewSampling:
        """The same with windows and zooms of half the side."""
        return replace(self, patch=self.patch // 2, zoom=(self.zoom[0] // 2, self.zoom[1] // 2))

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that are read of the targets besides their images."""
        return ("depth",) * self.depth + ("normals",) * self.normals


def rotate_about_z(views: Views, angle_deg: float) -> Views:
    """Rotate the world of views about +z; images stay the same, cameras and normals turn."""
    angle = torch.deg2rad(torch.tensor(angle_deg))
    rotation = torch.eye(4)
    rotation[0, 0] = rotation[1, 1] = angle.cos()
    rotation[1, 0], rotation[0, 1] = angle.sin(), -angle.sin()
    normals = None if views.normals is None else torch.einsum("ij,...jhw->...ihw", rotation[:3, :3], views.normals)
    cameras = Cameras(rotation @ views.cameras.cam_to_world, views.cameras.intrinsics)
    return Views(views.rgb, views.alpha, cameras, views.depth, normals)


def crop_windows(views: Views, view_sampling: ViewSampling, generator: torch.Generator) -> Views:
    """Crop one square window of each view after a random zoom; the cameras' intrinsics follow.

    Args:
        views: Views (M,).
        view_sampling: Side of the window, range of the zoom, and how often a window is centred on the object.
        generator: Random numbers.
    """
    windows = []
    for view in (views[k] for k in range(len(views.rgb))):
        low, high = (max(view_sampling.patch, side) for side in view_sampling.zoom)
        side = int(torch.randint(low, high + 1, (), generator=generator))
        windows.append(_crop_window(view[None].resized(side, side), view_sampling, generator)[0])
    return Views.stack(windows)


def _crop_window(view: Views, view_sampling: ViewSampling, generator: torch.Generator) -> Views:
    side, patch = view.height, view_sampling.patch
    free = side - patch
    corner = torch.randint(0, free + 1, (2,), generator=generator)
    foreground = (view.alpha[0, 0] > 0.5).nonzero()
    if len(foreground) and float(torch.rand((), generator=generator)) < view_sampling.foreground_probability:
        centre = foreground[int(torch.randint(len(foreground), (), generator=generator))]
        corner = (centre - patch // 2).clamp(0, free)
    top, left = corner.tolist()
    inside = view.map(lambda image: image[..., top : top + patch, left : left + patch] if image.dim() == 4 else image)
    share = torch.tensor([left / side, top / side, patch / side, patch / side])
    return Views(inside.rgb, inside.alpha, view.cameras.crop(*share), inside.depth, inside.normals)


def augment_inputs(views: Views, camera_jitter: float, warp_probability: float, generator: torch.Generator) -> Views:
    """Perturb input views like those of an image generator: inexact cameras, locally warped images (LGM, section 3.4).

    Args:
        views: Views (V,).
        camera_jitter: Standard deviation of noise on the cameras, in radians and world units.
        warp_probability: Probability that an image is warped.
        generator: Random numbers.
    """
    cameras = views.cameras
    if camera_jitter:
        noise = camera_jitter * torch.randn(len(views.rgb), 6, generator=generator)
        skew = torch.zeros(len(noise), 4, 4)
        skew[:, [2, 0, 1], [1, 2, 0]] = noise[:, :3]
        skew[:, [1, 2, 0], [2, 0, 1]] = -noise[:, :3]
        matrix = torch.linalg.matrix_exp(skew) @ cameras.cam_to_world
        matrix[:, :3, 3] += noise[:, 3:]
        cameras = Cameras(matrix, cameras.intrinsics)
    rgb, alpha = views.rgb, views.alpha
    if warp_probability:
        warped = torch.rand(len(rgb), generator=generator) < warp_probability
        coarse = torch.randn(len(rgb), 2, 6, 6, generator=generator)
        if warped.any():
            image = elastic_warp(torch.cat([rgb * alpha, alpha], dim=-3)[warped], 0.02 * coarse[warped])
            rgb, alpha = rgb.clone(), alpha.clone()
            rgb[warped], alpha[warped] = (image[:, :3] / image[:, 3:].clamp(min=1e-6)).clamp(0, 1), image[:, 3:]
    return Views(rgb, alpha, cameras)


def augment_colors(views: Views, color_jitter: float, color_noise: float, generator: torch.Generator) -> Views:
    """Change the colours of each input view alone, as an image generator does; without a deviation nothing is drawn.

    Args:
        views: Views (V,).
        color_jitter: Standard deviation of a gain and an offset of each channel.
        color_noise: Standard deviation of smooth noise.
        generator: Random numbers.
    """
    rgb, count = views.rgb, len(views.rgb)
    if color_jitter:
        gain, offset = color_jitter * torch.randn(2, count, 3, 1, 1, generator=generator)
        rgb = rgb * (1 + gain) + offset
    if color_noise:
        coarse = torch.randn(count, 3, NOISE_SIDE, NOISE_SIDE, generator=generator)
        rgb = rgb + color_noise * F.interpolate(coarse, rgb.shape[-2:], mode="bicubic", align_corners=True)
    return replace(views, rgb=rgb.clamp(0, 1)) if color_jitter or color_noise else views


def elastic_warp(image: Tensor, coarse: Tensor) -> Tensor:
    """Warp images by a smooth displacement field.

    Args:
        image: (V, C, H, W).
        coarse: Displacements on a coarse grid, (V, 2, h, w) in widths of the image.
    """
    shift = F.interpolate(2 * coarse, image.shape[-2:], mode="bicubic", align_corners=True).movedim(1, -1)
    identity = F.affine_grid(torch.eye(2, 3).expand(len(image), 2, 3), list(image.shape), align_corners=False)
    return F.grid_sample(image, identity + shift, align_corners=False)
