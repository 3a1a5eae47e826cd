"""Import of a capture of one object by a phone or COLMAP: a few views, recentred, scaled, cropped and undistorted."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d import scenes
from instant3d.cameras import STRUCTURED_FOV_DEG, STRUCTURED_RADIUS, Cameras
from instant3d.nerf.visual_hull import carve
from instant3d.pipelines.background_removal import matting_mask
from instant3d.pipelines.image_preprocessing import FAINT, crop_square, reaches_border
from instant3d.pipelines.view_selection import choose_views, sharpness
from instant3d.scenes.capture_layouts import CAPTURES, read_capture
from instant3d.scenes.frame import Frame
from instant3d.scenes.frame_files import Load, read_image
from instant3d.scenes.images import DecodedImage
from instant3d.scenes.scene_files import file_content
from instant3d.scenes.transforms import Document
from instant3d.utils.progress import OnStep
from instant3d.views import Views

__all__ = ["CAPTURES", "CaptureOptions", "ImportedCapture", "import_capture"]

CANDIDATES = 100  # views that are looked at, evenly spread over a longer capture
SIZE = 512  # pixels a side of the views that are written, and of images that are only looked at
WIDEST = 2048  # pixels a side of the images that views are cropped from
OUTLINE = 96  # pixels a side of the outlines that the hull is carved from
NODES = 48  # of the hull's grid, a side
ROUNDS = 3  # times that the hull's box is carved again in a closer grid
SHARE = 0.5 / math.tan(math.radians(STRUCTURED_FOV_DEG) / 2) / STRUCTURED_RADIUS  # of a crop's side for a length of one


@dataclass(frozen=True)
class CaptureOptions:
    """Settings of an import.

    Attributes:
        views: Views to choose, from 4 on.
        matting: ONNX file of a matting network, for images without mask; see `background_removal`.
    """

    views: int = 6
    matting: Path | None = None

    def __post_init__(self) -> None:
        if self.views < 4:
            raise ValueError(f"a scene of a capture needs at least 4 views, got {self.views}")


@dataclass(frozen=True)
class ImportedCapture:
    """What was imported.

    Attributes:
        names: Names of the chosen images.
        count: Images of the capture.
        cut_off: Images among those looked at in which the border cuts the object, or something reaches into it.
    """

    names: tuple[str, ...]
    count: int
    cut_off: int


@dataclass(frozen=True)
class _Candidate:
    frame: Frame
    outline: Views  # (1,), by the camera of the whole image in the capture's world
    sharpness: float
    is_cut_off: bool


def import_capture(
    layout: str,
    source: Path,
    target: Path,
    options: CaptureOptions = CaptureOptions(),
    on_step: OnStep | None = None,
) -> ImportedCapture:
    """Write the most informative views of a capture as a scene folder.

    The object's visual hull is moved to the origin and scaled into the unit sphere; each view is cropped to the square
    in which that sphere is as large as in a structured view.

    Args:
        layout: A key of `CAPTURES`.
        source: The capture's folder.
        target: The scene folder.
        options: How many views, and how they are cut out.
        on_step: Called after each image that is looked at.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is invalid, an image has no mask, or the views do not show an object together.
    """
    document = read_capture(layout, source)
    load = functools.partial(file_content, source.resolve(), named_by=f"a camera of {source}")
    found = list(_candidates(document, load, options, on_step))
    whole = [candidate for candidate in found if not candidate.is_cut_off]
    if len(whole) < options.views:
        raise ValueError(
            f"{source}: only {len(whole)} of {len(found)} images show the whole object inside their borders; expected "
            f"at least {options.views}: take more, or ask for fewer by --views"
        )
    outlines = Views.cat([one.outline for one in whole])
    centre, radius = fit_sphere(outlines)
    sharp = torch.tensor([one.sharpness for one in whole])
    chosen = [whole[k] for k in choose_views(outlines.cameras.positions - centre, sharp, options.views)]
    views = Views.cat([_cropped(one, centre, radius, load, options) for one in chosen])
    names = tuple(one.frame.name for one in chosen)
    scenes.write(target, views, extra={"capture": layout, "chosen": list(names)})
    return ImportedCapture(names, document.count, len(found) - len(whole))


def fit_sphere(views: Views) -> tuple[Tensor, float]:
    """Find the sphere around the visual hull of views (V,): the middle of its box, and its farthest point from there.

    Returns:
        Centre (3,) and radius.

    Raises:
        ValueError: No point is inside all outlines.
    """
    centre, reach = _meeting_point(views)
    for _ in range(ROUNDS):
        line = torch.linspace(-1, 1, NODES)
        grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).flatten(0, 2)
        points = centre + reach * grid
        inside = points[carve(views[None], points)[0][0] > 0.5]
        if not len(inside):
            raise ValueError("no point is inside all outlines: the masks, or the cameras, are not of one object")
        low, high = inside.amin(0), inside.amax(0)
        centre, step = (low + high) / 2, 2 * reach / (NODES - 1)
        radius = float((inside - centre).norm(dim=-1).max())
        reach = float((high - low).max()) / 2 + step
    return centre, radius


def _meeting_point(views: Views) -> tuple[Tensor, float]:
    """Point that is nearest to the rays through the middles of the outlines, and a length that reaches around them."""
    size = views.alpha.shape[-1]
    at = (torch.arange(size) + 0.5) / size
    mass = views.alpha[:, 0] / views.alpha.sum((1, 2, 3))[:, None, None]
    u, v = (mass.sum(1) * at).sum(-1), (mass.sum(2) * at).sum(-1)
    fx, fy, cx, cy = views.cameras.intrinsics.unbind(-1)
    local = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], dim=-1)
    rotation, origins = views.cameras.cam_to_world[:, :3, :3], views.cameras.positions
    directions = torch.nn.functional.normalize((rotation @ local[..., None])[..., 0], dim=-1)
    across = torch.eye(3) - directions[:, :, None] * directions[:, None, :]
    centre = torch.linalg.lstsq(across.sum(0), (across @ origins[..., None]).sum(0)).solution[:, 0]
    filled = (views.alpha[:, 0] > 0.5).any(1).sum(-1).clamp(min=1) / size / fx
    return centre, float((filled * (origins - centre).norm(dim=-1)).max())


def _candidates(
    document: Document, load: Load, options: CaptureOptions, on_step: OnStep | None
) -> Iterator[_Candidate]:
    """Look at the images of a capture, evenly spread if there are many."""
    some = np.unique(np.linspace(0, document.count - 1, min(document.count, CANDIDATES)).round().astype(int))
    for step, k in enumerate(some, 1):
        yield _candidate(document.frame(int(k)), load, options)
        if on_step is not None:
            on_step(step, len(some))


def _candidate(frame: Frame, load: Load, options: CaptureOptions) -> _Candidate:
    image = _cut(frame, load, SIZE, options)
    small = Image.fromarray(image.alpha).resize((OUTLINE, OUTLINE), Image.Resampling.BOX)
    alpha = torch.from_numpy(np.asarray(small).copy())[None, None].float() / 255
    outline = Views(alpha.expand(-1, 3, -1, -1), alpha, _camera(frame, image))
    is_cut_off = image.alpha.max() <= FAINT or reaches_border(image.alpha)
    return _Candidate(frame, outline, sharpness(image.rgb, image.alpha), is_cut_off)


def _cut(frame: Frame, load: Load, enough: int, options: CaptureOptions) -> DecodedImage:
    """Decode an image with the object's opacity, without lens distortion."""
    image = read_image(frame, load, enough)
    if image.alpha_source != "none":
        return image
    if options.matting is None:
        raise ValueError(
            f"{frame.where} has neither a mask, nor transparency, nor a white background; add masks/NAME.png, or name "
            "a matting network by --matting"
        )
    return replace(image, alpha=matting_mask(Image.fromarray(image.rgb), options.matting), alpha_source="matting")


def _camera(frame: Frame, image: DecodedImage) -> Cameras:
    """Camera (1,) of a decoded image in the capture's world."""
    height, width = image.full_size or image.alpha.shape
    intrinsics = torch.tensor([frame.pinhole(width, height)], dtype=torch.float32)
    return Cameras(torch.from_numpy(frame.cam_to_world).float()[None], intrinsics)


def _cropped(one: _Candidate, centre: Tensor, radius: float, load: Load, options: CaptureOptions) -> Views:
    """The view (1,) in the object's world, cropped to a square around the unit sphere."""
    image = _cut(one.frame, load, WIDEST, options)
    height, width = image.alpha.shape
    matrix = one.outline.cameras.cam_to_world.clone()
    matrix[:, :3, 3] = (matrix[:, :3, 3] - centre) / radius
    camera = Cameras(matrix, one.outline.cameras.intrinsics)
    (middle,), _ = camera.project(torch.zeros(1, 3))
    x, y = (float(value) for value in middle.flatten()[:2])
    side = float(camera.intrinsics[0, 0] * width) / (SHARE * float(camera.positions.norm()))
    left, top = x * width - side / 2, y * height - side / 2
    crop = crop_square(image, left, top, side).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() / 255
    window = [torch.tensor([value]) for value in (left / width, top / height, side / width, side / height)]
    return Views(pixels[:, :3], pixels[:, 3:], camera.crop(*window))
