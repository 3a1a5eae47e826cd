"""Two to four photos of one object without cameras: preparation, and a first guess of the cameras.

Every photo is cropped to a square around its object. The crop counts as the image of a camera that looks at the object;
the small error of a crop off the photo's centre is left to the refinement.
"""

from __future__ import annotations

import filecmp
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d.cameras import STRUCTURED_ELEVATION_DEG, STRUCTURED_FOV_DEG, STRUCTURED_RADIUS, Cameras
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.pipelines import image_preprocessing
from instant3d.pipelines.image_preprocessing import CutPhoto
from instant3d.pipelines.orbit_poses import OrbitPoses, in_order, orbit_poses
from instant3d.views import Views

MOST = 4
FILM_DIAGONAL = math.hypot(36, 24)  # mm, of the film that equivalent focal lengths refer to
RADIUS = 0.9  # of the sphere around the origin in which the object is placed
LARGEST = 512  # pixels a side of a crop

Poses = Literal["refined", "given", "guess"]


@dataclass(frozen=True)
class PhotoOptions:
    """Settings of photos without cameras: known angles, background removal and the choice of poses.

    Attributes:
        azimuths_deg: Of the photos, from the front to the right; None: evenly spaced in their order.
        elevation_deg: Of all cameras above the object's horizon.
        fov_deg: Field of view across a photo's longer side; None: from its EXIF data, else 50.
        matting: ONNX file of a matting network, see `background_removal`.
        poses: "refined": the cameras are refined by the network; "given": they are used as given; "guess": the order
            of the photos is unknown too.

    Raises:
        ValueError: An angle is out of its range, or azimuths are given with poses "guess".
    """

    azimuths_deg: Sequence[float] | None = None
    elevation_deg: float = STRUCTURED_ELEVATION_DEG
    fov_deg: float | None = None
    matting: Path | None = None
    poses: Poses = "refined"

    def __post_init__(self) -> None:
        if self.azimuths_deg is not None and self.poses == "guess":
            raise ValueError("azimuths were given, so that the order of the photos is known; leave out one of the two")
        if not -89 <= self.elevation_deg <= 89:
            raise ValueError(f"the elevation is {self.elevation_deg:g} degrees; expected -89 to 89")
        if self.fov_deg is not None and not 1 <= self.fov_deg <= 150:
            raise ValueError(f"the field of view is {self.fov_deg:g} degrees; expected 1 to 150")


@dataclass(frozen=True)
class PhotoSet:
    """Photos of one object, cropped to squares.

    Attributes:
        views: Crops (V,) with opacity, and the cameras that were guessed first.
        poses: These cameras (V,).
        names: File names.
        cut_by: How each background was removed, see `image_preprocessing.CutPhoto`.
    """

    views: Views
    poses: OrbitPoses
    names: tuple[str, ...]
    cut_by: tuple[str, ...]


def read_photos(paths: Sequence[Path], options: PhotoOptions) -> PhotoSet:
    """Read photos and guess their cameras.

    Args:
        paths: Two to four image files; by default front, right, back and left, going round the object to the right.
        options: What is known about them.

    Raises:
        ValueError: There are too few or too many photos, as many azimuths are not given, or a photo is invalid.
        FileNotFoundError: A file is missing.
    """
    azimuths = _azimuths(len(paths), options.azimuths_deg)
    _check_different(paths)
    photos = [image_preprocessing.read_cut_photo(path, options.matting) for path in paths]
    _warn_of_borders(paths, photos)
    boxes = torch.tensor([_box(photo) for photo in photos])
    focal = torch.tensor([_focal(photo, options.fov_deg) for photo in photos])
    distances = _distances(boxes, focal)
    views, intrinsics = _cropped(photos, boxes, focal, distances)
    middle = torch.full((len(photos), 2), 0.5)
    poses = orbit_poses(azimuths, options.elevation_deg, distances, intrinsics, middle)
    names = tuple(path.name for path in paths)
    return PhotoSet(replace(views, cameras=poses.cameras), poses, names, tuple(p.cut.alpha_source for p in photos))


def reordered(photos: PhotoSet, order: list[int]) -> PhotoSet:
    """Return the photos in another order, whose azimuths stay in the old one."""
    poses = in_order(photos.poses, order)
    views = replace(photos.views[torch.tensor(order)], cameras=poses.cameras)
    return PhotoSet(views, poses, *(tuple(column[k] for k in order) for column in (photos.names, photos.cut_by)))


def _azimuths(count: int, given: Sequence[float] | None) -> list[float]:
    if not 2 <= count <= MOST:
        raise ValueError(f"{count} photos were given; name two to {MOST} of one object, or a scene folder")
    if given is not None and len(given) != count:
        raise ValueError(f"{len(given)} azimuths were given for {count} photos; give one for each")
    angles = [360.0 * k / count for k in range(count)] if given is None else given
    return [FRONT_AZIMUTH_DEG + angle for angle in angles]


def _check_different(paths: Sequence[Path]) -> None:
    """Refuse the same photo for two sides."""
    for first, second in itertools.combinations(paths, 2):
        if first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False):
            raise ValueError(f"{first} and {second} are the same photo; give photos from different sides")


def _warn_of_borders(paths: Sequence[Path], photos: Sequence[CutPhoto]) -> None:
    """Warn once of photos whose border cuts what was cut out; a transparent image may be cropped to its object."""
    cut = [
        path.name
        for path, photo in zip(paths, photos, strict=True)
        if photo.cut.alpha_source != "alpha" and image_preprocessing.reaches_border(photo.cut.alpha)
    ]
    if cut:
        warnings.warn(
            f"in {', '.join(cut)} what was cut out reaches the border of the photo: the object is not wholly in it, or "
            "something else is, such as a hand",
            stacklevel=3,
        )


def _box(photo: CutPhoto) -> tuple[float, float, float, float]:
    """Middle, width and height in pixels of what the photo shows of the object."""
    left, top, right, bottom = image_preprocessing.object_box(photo.cut.alpha)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _focal(photo: CutPhoto, fov_deg: float | None) -> float:
    """Focal length in pixels."""
    height, width = photo.cut.alpha.shape
    if fov_deg is None and photo.focal_mm is not None:
        return photo.focal_mm / FILM_DIAGONAL * math.hypot(width, height)
    return max(width, height) / 2 / math.tan(math.radians(fov_deg or STRUCTURED_FOV_DEG) / 2)


def _distances(boxes: Tensor, focal: Tensor) -> Tensor:
    """Distances (V,) at which the object is equally high in all photos and fits a sphere of `RADIUS`."""
    _, _, width, height = boxes.unbind(-1)
    relative = focal / height
    reach = torch.hypot(width, height) / 2 * relative / focal
    return relative * RADIUS / reach.max()


def _cropped(photos: Sequence[CutPhoto], boxes: Tensor, focal: Tensor, distances: Tensor) -> tuple[Views, Tensor]:
    """Crop each photo so that the unit sphere fills as much of it as of a structured view.

    Returns:
        Crops (V,), whose cameras are still to be set, and their intrinsics (V, 4).
    """
    share = 0.5 / math.tan(math.radians(STRUCTURED_FOV_DEG) / 2) / STRUCTURED_RADIUS
    sides = focal / (share * distances)
    size = max(1, min(LARGEST, round(float(sides.max()))))
    crops = [
        image_preprocessing.crop_square(photo.cut, x - side / 2, y - side / 2, side)
        for photo, (x, y, _, _), side in zip(photos, boxes.tolist(), sides.tolist(), strict=True)
    ]
    pixels = np.stack([np.array(crop.resize((size, size), Image.Resampling.BICUBIC)) for crop in crops])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    across = share * distances
    intrinsics = torch.stack([across, across, *[torch.full_like(across, 0.5)] * 2], dim=-1)
    unset = Cameras(torch.eye(4).expand(len(photos), 4, 4), intrinsics)
    return Views(images[:, :3].contiguous(), images[:, 3:].contiguous(), unset), intrinsics
