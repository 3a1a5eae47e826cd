"""The files of one frame, read as a pinhole camera would have recorded them: image and mask, depth and normals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from instant3d.scenes import geometry_maps, images, lens_distortion, transforms
from instant3d.scenes.geometry_maps import MapGrid
from instant3d.utils.images import Check

Load = Callable[[str], bytes]  # a file's content by its name in the scene


def read_image(
    frame: transforms.Frame, load: Load, enough: int | None = None, check: Check | None = None
) -> images.DecodedImage:
    """Decode a frame's image as a pinhole camera records it: upright where its camera is, and without distortion.

    Args:
        frame: The frame.
        load: Returns a file's content by its name in the scene.
        enough: Side length in pixels that suffices, see `images.decode`.
        check: Refuses a size before anything is decoded, see `images.decode`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The image, its mask or its camera is invalid.
    """
    mask = load(frame.mask) if frame.mask else None
    image = images.decode(load(frame.image), mask, frame.where, enough, frame.camera_size, check)
    height, width = image.full_size or image.alpha.shape
    if not frame.is_distorted(width, height):
        return image
    return lens_distortion.undistort(image, frame.lens, frame.pinhole(width, height), frame.where)


def reading_notes(
    frames: Sequence[transforms.Frame], sizes: Sequence[tuple[int, int]], orientations: Sequence[int]
) -> list[str]:
    """Return one line on distortion that was removed, and one on EXIF orientations that were not applied.

    Args:
        frames: Frames of one scene.
        sizes: Width and height of their images in pixels.
        orientations: `DecodedImage.ignored_orientation` of each.
    """
    notes = []
    bent = [frame for frame, size in zip(frames, sizes, strict=True) if frame.is_distorted(*size)]
    if bent:
        text = lens_distortion.coefficients_text(bent[0].lens)
        notes.append(f"{bent[0].where}: lens distortion ({text}) is removed as images are read, here from {len(bent)}")
    turned = [(frame, tag) for frame, tag in zip(frames, orientations, strict=True) if tag != 1]
    if turned:
        frame, tag = turned[0]
        notes.append(
            f"{frame.where}: EXIF orientation {tag} is not applied, as for {len(turned)} images, since the camera's w "
            "and h do not tell whether it is of the turned image; if the object lies on its side, turn the pixels"
        )
    return notes


def read_maps(
    frame: transforms.Frame,
    document: transforms.Document,
    load: Load,
    grid: MapGrid,
    wanted: tuple[bool, bool] = (True, True),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Decode the depth and normal maps of a frame.

    Args:
        frame: The frame.
        document: Its document, which holds the depth unit.
        load: Returns a file's content by its name in the scene.
        grid: The pixels that the maps must have, and those that are read.
        wanted: Whether to read depth, and whether to read normals.

    Returns:
        Depth (H, W) in world units and normals (H, W, 3); None if absent or not wanted.
    """
    depth = normals = None
    if frame.depth and wanted[0]:
        where = f"{frame.depth}, the depth of {frame.where},"
        depth = geometry_maps.decode_depth(load(frame.depth), document.depth_unit, grid, where) * document.world_scale
    if frame.normals and wanted[1]:
        where = f"{frame.normals}, the normals of {frame.where},"
        normals = geometry_maps.decode_normals(load(frame.normals), grid, where)
    height, width = grid.full
    if not frame.is_distorted(width, height):
        return depth, normals
    pinhole = frame.pinhole(width, height)
    straight = [m if m is None else lens_distortion.undistort_map(m, frame.lens, pinhole) for m in (depth, normals)]
    return straight[0], straight[1]
