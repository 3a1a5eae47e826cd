"""Reading of a COLMAP model: `cameras` and `images`, as text or binary files.

Its format: https://colmap.github.io/format.html. Poses are world-to-camera, as a quaternion (w, x, y, z) and a
position, with OpenCV's axes; the world is turned and scaled arbitrarily.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.scenes.poses import OPENGL_TO_OPENCV
from instant3d.utils.quaternions import rotation_matrix

MAX_BYTES = 2**31  # of one file
CAMERA_MODELS = {  # numbers in binary files, and parameters by the names of transforms.json
    "SIMPLE_PINHOLE": (0, ("fl_x", "cx", "cy")),
    "PINHOLE": (1, ("fl_x", "fl_y", "cx", "cy")),
    "SIMPLE_RADIAL": (2, ("fl_x", "cx", "cy", "k1")),
    "RADIAL": (3, ("fl_x", "cx", "cy", "k1", "k2")),
    "OPENCV": (4, ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")),
}
POINT_BYTES = 24  # of an image point in a binary file

Camera = dict[str, float]  # fields of a frame of transforms.json
Pose = tuple[str, int, list[float]]  # image name, camera id, quaternion and translation


def read_model(folder: Path) -> list[dict[str, Any]]:
    """Read the images of a model as frames of a `transforms.json`, by name.

    Args:
        folder: Folder with cameras and images, as .bin or .txt.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or a camera is of a kind that is not read.
    """
    if (folder / "images.bin").is_file():
        cameras, poses = _cameras_bin(folder / "cameras.bin"), list(_images_bin(folder / "images.bin"))
    else:
        cameras, poses = _cameras_txt(folder / "cameras.txt"), list(_images_txt(folder / "images.txt"))
    unknown = sorted({number for _, number, _ in poses} - cameras.keys())
    if unknown:
        raise ValueError(f"{folder} has an image by camera {unknown[0]}, which is not among its cameras")
    return [
        {"file_path": name, "transform_matrix": _cam_to_world(pose, f"{name} of {folder}").tolist(), **cameras[number]}
        for name, number, pose in sorted(poses)
    ]


def _cam_to_world(pose: list[float], where: str) -> np.ndarray:
    """Camera-to-world matrix (4, 4) with OpenGL's axes."""
    quaternion = np.array(pose[:4])
    length = np.linalg.norm(quaternion)
    if not np.isfinite(pose).all() or length < 1e-6:
        raise ValueError(f"the pose of {where} is not a rotation with a position")
    w, x, y, z = quaternion / length
    world_to_cam = np.eye(4)
    world_to_cam[:3, :3] = rotation_matrix(x, y, z, w)
    world_to_cam[:3, 3] = pose[4:]
    return np.linalg.inv(world_to_cam) @ OPENGL_TO_OPENCV


def _camera(model: object, width: float, height: float, values: tuple[float, ...], where: str) -> Camera:
    for name, (number, parameters) in CAMERA_MODELS.items():
        if model in (name, number) and len(values) == len(parameters):
            return {"w": width, "h": height, **dict(zip(parameters, values, strict=True))}
    raise ValueError(
        f"{where} has a camera of kind {model} with {len(values)} parameters; expected one of "
        f"{', '.join(CAMERA_MODELS)}: undistort the images first (colmap image_undistorter does)"
    )


def _cameras_txt(path: Path) -> dict[int, Camera]:
    found = {}
    for line in _lines(path):
        try:
            number, model, *values = line.split()
            width, height, *parameters = map(float, values)
            found[int(number)] = _camera(model, width, height, tuple(parameters), str(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has a line that is no camera ({error}): {line:.60}") from None
    return found


def _images_txt(path: Path) -> Iterator[Pose]:
    for line in _lines(path)[::2]:  # every second line lists the image's points
        try:
            _, *values, camera, name = line.split(maxsplit=9)
            pose = [float(value) for value in values]
            number = int(camera)
        except ValueError:
            raise ValueError(f"{path} has a line that is no image: {line:.60}") from None
        if len(pose) != 7:
            raise ValueError(f"{path} has a line that is no image: {line:.60}")
        yield name, number, pose


def _lines(path: Path) -> list[str]:
    """Lines but for comments; an image without points has an empty line, which counts."""
    return [line for line in _content(path).decode("utf-8", "replace").splitlines() if not line.startswith("#")]


def _cameras_bin(path: Path) -> dict[int, Camera]:
    reader = _Reader(path)
    found = {}
    for _ in range(*reader.take("Q")):
        number, model, width, height = reader.take("iiQQ")
        count = next((len(names) for known, names in CAMERA_MODELS.values() if known == model), 0)
        found[number] = _camera(model, width, height, reader.take(f"{count}d"), str(path))
    return found


def _images_bin(path: Path) -> Iterator[Pose]:
    reader = _Reader(path)
    for _ in range(*reader.take("Q")):
        _, *pose, camera = reader.take("i7di")
        name = reader.text()
        reader.skip(POINT_BYTES * reader.take("Q")[0])
        yield name, camera, pose


class _Reader:
    """Numbers of a binary file, one after another."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, _content(path), 0

    def take(self, kinds: str) -> tuple[Any, ...]:
        """Read numbers of the given kinds, as of `struct`."""
        try:
            found = struct.unpack_from(f"<{kinds}", self.data, self.at)
        except struct.error:
            raise self._cut_short() from None
        self.at += struct.calcsize(f"<{kinds}")
        return found

    def text(self) -> str:
        """Read a text that ends in a zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise self._cut_short()
        found = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return found

    def skip(self, count: int) -> None:
        """Skip bytes."""
        if count > len(self.data) - self.at:
            raise self._cut_short()
        self.at += count

    def _cut_short(self) -> ValueError:
        return ValueError(f"{self.path} is cut short or no model of COLMAP; copy it again")


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a COLMAP model has cameras and images, as .bin or .txt")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes; reconstruct from fewer images")
    return path.read_bytes()
