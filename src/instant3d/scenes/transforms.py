"""Reading and writing of the `transforms.json` document: cameras and file names.

It is the format of nerfstudio, instant-ngp and the Blender-synthetic scenes: OpenGL camera-to-world matrices (x right,
y up, z backward) in a +z-up world, and intrinsics in pixels, given per frame or for all frames. In memory cameras use
OpenCV axes (`instant3d.cameras`). The object is expected in the cube [-1, 1]^3 around the origin. Where the document
has instant-ngp's `scale` or `offset`, its unit cube (p * scale + offset, by default 0.33 and 0.5) becomes our cube; its
`aabb_scale` only describes the extent of a background and is ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instant3d.scenes import lens_distortion

MAX_BYTES = 2**26
MIN_ANGLE = 1e-6  # radians across an image: below, its focal length is no number to compute with
ROTATION_TOLERANCE = 2.5e-3  # of R^T R against the identity: rounding to three decimals leaves up to 1.8e-3
ROUNDED = 5e-2  # a larger deviation is not due to rounding
EXACT = 1e-5  # up to this deviation, a matrix is used as given
PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
CREDIT = ("license", "author", "source", "name", "url")  # licence, author, source and title of the object
LONGEST_CREDIT = 500  # characters of each
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
        """Whether distortion moves a point by more than a pixel of the camera's size; arguments as for `pinhole`."""
        lens = self.lens
        return bool(lens_distortion.coefficients_text(lens)) and lens_distortion.is_visible(
            lens, self.pinhole(width, height), lens.get("w", width), lens.get("h", height)
        )

    @property
    def camera_size(self) -> tuple[float, float] | None:
        """Width and height in pixels for which the camera was given, if both were."""
        return (self.lens["w"], self.lens["h"]) if "w" in self.lens and "h" in self.lens else None


@dataclass(frozen=True)
class Document:
    """A parsed `transforms.json`; its frames are checked by `frame(k)`.

    Attributes:
        where: Its path, for error messages.
        content: The JSON object.
    """

    where: str
    content: Mapping[str, Any]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.content["frames"])

    def text(self, key: str) -> str | None:
        """Return a text field; None if it is absent or empty."""
        value = self.content.get(key)
        return value if isinstance(value, str) and value.strip() else None

    @property
    def credit(self) -> dict[str, str]:
        """The fields `CREDIT` of the document, by name; `licence` is accepted for `license`."""
        found = {key: self.text(key) for key in CREDIT}
        found["license"] = found["license"] or self.text("licence")
        return {key: value[:LONGEST_CREDIT] for key, value in found.items() if value}

    @property
    def depth_unit(self) -> float | None:
        """Length of one step of a depth map, in the document's own world; None if it is not given."""
        for key in ("depth_unit_scale_factor", "integer_depth_scale"):
            if key in self.content:
                return _positive(self.content[key], f"{key} of {self.where}")
        return None

    @property
    def world_scale(self) -> float:
        """Factor from the document's world to ours."""
        if "scale" not in self.content and "offset" not in self.content:
            return 1.0
        return 2 * _positive(self.content.get("scale", 0.33), f"scale of {self.where}")

    @property
    def world_offset(self) -> FloatArray:
        """Offset (3,) from the document's world to ours, added after scaling."""
        if "scale" not in self.content and "offset" not in self.content:
            return np.zeros(3)
        return 2 * _numbers(self.content.get("offset", [0.5] * 3), (3,), f"offset of {self.where}") - 1

    @property
    def world_note(self) -> str:
        """How `scale` and `offset` are read, which mean other things in other tools; "" if there are none."""
        keys = [key for key in ("scale", "offset") if key in self.content]
        if not keys:
            return ""
        moved = ", ".join(f"{value:g}" for value in self.world_offset)
        return (
            f"{self.where}: {' and '.join(keys)} read as instant-ngp's: camera positions are multiplied by "
            f"{self.world_scale:g} and then moved by ({moved})"
        )

    def choose(self, frames: Sequence[int] | None) -> list[int]:
        """Return the requested frame indices, all by default.

        Raises:
            ValueError: There are none, or one is out of range.
        """
        chosen = list(range(self.count)) if frames is None else [int(k) for k in frames]
        if not chosen:
            raise ValueError(f"no frames of {self.where} were chosen; name at least one of 0 to {self.count - 1}")
        for k in chosen:
            if not 0 <= k < self.count:
                has = f"has {self.count} frame{'s' * (self.count > 1)} (0 to {self.count - 1})"
                raise ValueError(f"frame {k} does not exist: {self.where} {has}")
        return chosen

    def names(self) -> tuple[str, ...]:
        """Return one name per frame: its image's, without folder and extension."""
        return tuple(_stem(self._entry(k)[0]) for k in range(self.count))

    def frame(self, k: int) -> Frame:
        """Parse and check frame `k`.

        Raises:
            ValueError: Its image name, matrix or intrinsics are missing or invalid.
        """
        image, entry = self._entry(k)
        where = f"frame {k} ({image}) of {self.where}"
        _check_camera_model(entry, where)
        matrix = _rigid(entry.get("transform_matrix"), where) @ OPENGL_TO_OPENCV
        matrix[:3, 3] = matrix[:3, 3] * self.world_scale + self.world_offset
        depth = _name(entry, "depth_file_path", where) or _name(entry, "depth_path", where)
        mask, normals = _name(entry, "mask_path", where), _name(entry, "normal_file_path", where)
        return Frame(where, _stem(image), image, mask, depth, normals, matrix, _lens(self.content, entry, where))

    def _entry(self, k: int) -> tuple[str, Mapping[str, Any]]:
        entry = self.content["frames"][k]
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise ValueError(f"frame {k} of {self.where} names no image; it needs a `file_path`")
        return entry["file_path"].replace("\\", "/"), entry


SIZE_KEYS = ("w", "h")
FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
LENS_KEYS = (*SIZE_KEYS, *FOCAL_KEYS, "cx", "cy", "k1", "k2", "k3", "k4", "p1", "p2")
RESERVED_KEYS = (*LENS_KEYS, "frames", "camera_model", "is_fisheye", "scale", "offset", "integer_depth_scale")


def parse(data: bytes, where: str) -> Document:
    """Parse a `transforms.json` and check its outline.

    Args:
        data: The file's content.
        where: Its path, for error messages.

    Raises:
        ValueError: It is not valid JSON, has no frames, or was taken with a camera that is not a pinhole camera.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{where} is larger than {MAX_BYTES} bytes; a scene's cameras take far less")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}); write it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise ValueError(
            f"{where} has no list of `frames`; is it a nerfstudio, instant-ngp or Blender-synthetic scene?"
        )
    if not content["frames"]:
        raise ValueError(f"{where} has no frames; a scene needs at least one image with its camera")
    _check_camera_model(content, where)
    return Document(where, content)


def _check_camera_model(content: Mapping[str, Any], where: str) -> None:
    """Refuse a document's or a frame's camera that is not a pinhole camera."""
    model = content.get("camera_model", "OPENCV")
    if not isinstance(model, str) or model not in PINHOLE or content.get("is_fisheye"):
        raise ValueError(
            f"{where} was taken with a {'fisheye' if model in PINHOLE else model} camera; only pinhole cameras work"
        )


def entry(image: str, cam_to_world: FloatArray, intrinsics: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Return a frame's JSON entry.

    Args:
        image: File name of the image.
        cam_to_world: (4, 4), OpenCV axes.
        intrinsics: (fx, fy, cx, cy) as fractions of the image size.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    lens = {"w": width, "h": height, "fl_x": fx * width, "fl_y": fy * height, "cx": cx * width, "cy": cy * height}
    matrix = (np.asarray(cam_to_world, np.float64) @ OPENGL_TO_OPENCV + 0.0).tolist()  # + 0.0: no "-0.0" in the file
    return {"file_path": image, "transform_matrix": matrix, **lens}


def document(entries: Sequence[dict[str, Any]], **fields: Any) -> bytes:
    """Return the JSON text; intrinsics that all frames share are written once.

    Args:
        entries: One `entry` per frame.
        **fields: Further top-level fields; None values are left out.

    Raises:
        ValueError: A field has the name of a key with its own meaning.
    """
    taken = [key for key in fields if key in RESERVED_KEYS]
    if taken:
        raise ValueError(f"{taken[0]} already has a meaning in a transforms.json; choose another name for the field")
    first = entries[0]
    shared = {key: first[key] for key in first if key in LENS_KEYS and all(e[key] == first[key] for e in entries)}
    frames = [{key: value for key, value in e.items() if key not in shared} for e in entries]
    head = {key: value for key, value in fields.items() if value is not None}
    content = {"camera_model": "OPENCV", **shared, **head, "frames": frames}
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def _lens(content: Mapping[str, Any], entry: Mapping[str, Any], where: str) -> dict[str, float]:
    """Merge frame and document intrinsics; one focal length or field of view of the frame replaces all of the document.

    Otherwise pixels would be stretched where a frame has its own for one axis only.
    """
    own = [key for key in FOCAL_KEYS if key in entry]
    shared = [key for key in LENS_KEYS if key in content and not (own and key in FOCAL_KEYS)]
    lens = {key: _number(content[key], f"{key} of {where}") for key in shared}
    lens |= {key: _number(entry[key], f"{key} of {where}") for key in LENS_KEYS if key in entry}
    for key in (*SIZE_KEYS, *FOCAL_KEYS):
        if key in lens:
            _positive(lens[key], f"{key} of {where}")
    return lens


def _focal(angle: float | None, size: float) -> float | None:
    return None if angle is None or not MIN_ANGLE < angle < math.pi else size / 2 / math.tan(angle / 2)


def _rigid(value: Any, where: str) -> FloatArray:
    """Return a rotation and a position as (4, 4); refuse any other matrix."""
    matrix = _numbers(value, None, f"transform_matrix of {where}")
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise ValueError(f"transform_matrix of {where} has shape {matrix.shape}; expected (4, 4)")
    rotation = matrix[:3, :3]
    deviation = rotation_deviation(rotation)
    if deviation > ROTATION_TOLERANCE:
        kind, advice = _not_a_rotation(rotation, deviation)
        raise ValueError(f"transform_matrix of {where} is {kind}; {advice}")
    if np.linalg.det(rotation) < 0:
        raise ValueError(
            f"transform_matrix of {where} is mirrored; its axes must be right-handed (x right, y up, z backward)"
        )
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"transform_matrix of {where} ends in the row {matrix[3].tolist()}; expected [0, 0, 0, 1]")
    return orthonormalised(matrix)


def rotation_deviation(rotation: FloatArray) -> float:
    """Return the largest element of R^T R - I for a matrix R (3, 3)."""
    return float(np.abs(rotation.T @ rotation - np.eye(3)).max())


def orthonormalised(matrix: FloatArray) -> FloatArray:
    """Return a pose (4, 4) with the rotation that is nearest to its own (polar decomposition).

    One that deviates by no more than `EXACT` is returned as it is.
    """
    if rotation_deviation(matrix[:3, :3]) <= EXACT:
        return matrix
    left, _, right = np.linalg.svd(matrix[:3, :3])
    result = matrix.copy()
    result[:3, :3] = left @ right
    return result


def _not_a_rotation(rotation: FloatArray, deviation: float) -> tuple[str, str]:
    """What is wrong with a matrix, and what to do."""
    advice = "write the camera's camera-to-world matrix without scaling"
    if abs(np.linalg.det(rotation)) < 1e-6:
        return "singular", advice
    if deviation < ROUNDED:
        return f"off a rotation by {deviation:.1g}, as if rounded to too few digits", "write at least four decimals"
    return "not a rotation (its columns must be unit vectors at right angles)", advice


def _numbers(value: Any, shape: tuple[int, ...] | None, what: str) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{what} is missing or not made of numbers") from error
    if array.ndim == 0 or (shape is not None and array.shape != shape):
        raise ValueError(f"{what} is missing or not a list of the right length")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds a number that is not finite (NaN or infinite)")
    return array


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{what} is {_brief(value)}; expected a finite number")
    return float(value)


def _brief(value: Any) -> str:
    """A scalar as it is, at most 40 characters; of a list or object, which may be nested deeply, its type."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else f"{value!r:.40}"


def _positive(value: Any, what: str) -> float:
    if _number(value, what) <= 0:
        raise ValueError(f"{what} is {value}; expected a number above 0")
    return float(value)


def _name(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} of {where} is {_brief(value)}; expected a file name")
    return value.replace("\\", "/") if value else None


def _stem(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] or name
