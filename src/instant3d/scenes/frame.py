"""One frame of a `transforms.json`: its camera and the names of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instant3d.scenes import lens_distortion
from instant3d.scenes.json_values import number, positive

MIN_ANGLE = 1e-6  # radians across an image: below, its focal length is no number to compute with
SIZE_KEYS = ("w", "h")
FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
LENS_KEYS = (*SIZE_KEYS, *FOCAL_KEYS, "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2")
FloatArray = np.ndarray


@dataclass(frozen=True)
class Frame:
    """One camera and the names of its files, relative to the document's folder.

    Attributes:
        where: Document, index and file, for error messages.
        name: Name of the image without folder and extension.
        image: File name of the image.
        mask: File name of the mask, if any.
        depth: File name of the depth map, if any.
        normals: File name of the normal map, if any.
        cam_to_world: (4, 4) float64, OpenCV axes.
        lens: Those of `LENS_KEYS` that were given.
    """

    where: str
    name: str
    image: str
    mask: str | None
    depth: str | None
    normals: str | None
    cam_to_world: FloatArray
    lens: Mapping[str, float]

    def intrinsics(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return (fx, fy, cx, cy) as fractions of the image size, for images that are not undistorted.

        Args:
            width: Actual width of the image in pixels.
            height: Actual height.

        Raises:
            ValueError: The camera was given for another aspect ratio, has no focal length, or has visible distortion.
        """
        found = self.pinhole(width, height)
        if self.is_distorted(width, height):
            raise ValueError(
                f"{self.where} has lens distortion; undistort the images first (COLMAP's image_undistorter does)"
            )
        return found

    def pinhole(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return (fx, fy, cx, cy) as fractions of the image size, whether there is distortion or not.

        Arguments and errors are those of `intrinsics`.
        """
        lens = self.lens
        w, h = lens.get("w", width), lens.get("h", height)
        if abs(w / h * height - width) > 1.5 + 0.01 * width:
            raise ValueError(f"{self.where} is {width} x {height} pixels, but its camera was given for {w:g} x {h:g}")
        fx = lens.get("fl_x") or _focal(lens.get("camera_angle_x"), w)
        fy = lens.get("fl_y") or _focal(lens.get("camera_angle_y"), h)
        fx, fy = fx or fy, fy or fx
        if not fx or not fy:
            raise ValueError(f"{self.where} has no focal length; give fl_x (in pixels) or camera_angle_x (in radians)")
        return fx / w, fy / h, lens.get("cx", w / 2) / w, lens.get("cy", h / 2) / h

    def is_distorted(self, width: int, height: int) -> bool:
        """Whether distortion moves a point by more than a pixel; arguments and errors are those of `pinhole`."""
        lens = self.lens
        return bool(lens_distortion.coefficients_text(lens)) and lens_distortion.is_visible(
            lens, self.pinhole(width, height), lens.get("w", width), lens.get("h", height)
        )

    @property
    def camera_size(self) -> tuple[float, float] | None:
        """Width and height in pixels for which the camera was given, if both were."""
        return (self.lens["w"], self.lens["h"]) if "w" in self.lens and "h" in self.lens else None


def merged_lens(content: Mapping[str, Any], entry: Mapping[str, Any], where: str) -> dict[str, float]:
    """Merge the intrinsics of a frame with those of its document.

    A frame's own values count. One focal length or field of view of the frame replaces all of the document: otherwise
    pixels would be stretched where a frame has its own for one axis only.

    Args:
        content: The document.
        entry: The frame's entry in it.
        where: Name of the frame for error messages.

    Returns:
        Those of `LENS_KEYS` that are given.

    Raises:
        ValueError: One is not a finite number, or a size or focal length is not above 0.
    """
    own = [key for key in FOCAL_KEYS if key in entry]
    shared = [key for key in LENS_KEYS if key in content and not (own and key in FOCAL_KEYS)]
    lens = {key: number(content[key], f"{key} of {where}") for key in shared}
    lens |= {key: number(entry[key], f"{key} of {where}") for key in LENS_KEYS if key in entry}
    for key in (*SIZE_KEYS, *FOCAL_KEYS):
        if key in lens:
            positive(lens[key], f"{key} of {where}")
    return lens


def _focal(angle: float | None, size: float) -> float | None:
    return None if angle is None or not MIN_ANGLE < angle < math.pi else size / 2 / math.tan(angle / 2)
