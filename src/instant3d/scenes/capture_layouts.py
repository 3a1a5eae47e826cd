"""Captures of one object by other programs, as `transforms.json` documents in a world whose +z is up.

nerfstudio  transforms.json (ns-process-data, instant-ngp)
polycam     keyframes/corrected_cameras/*.json and corrected_images/*.jpg, else cameras/ and images/
record3d    metadata.json and rgb/N.jpg (export "EXR + RGB")
colmap      a model in sparse/0, sparse, colmap/sparse/0 or the folder itself, and images/

A mask is a frame's `mask_path`, else `masks/` and the image's name with .png in place of its suffix or behind it.
Sources: nerfstudio's `process_data/polycam_utils.py` and `record3d_utils.py`: both have OpenGL's axes and +y up, as
ARKit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.scenes import transforms
from instant3d.scenes.colmap import read_model
from instant3d.scenes.json_values import number, numbers
from instant3d.utils import file_listing
from instant3d.utils.quaternions import rotation_matrix
from instant3d.utils.tensor_files import load_json_object

Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # (x, y, z) to (x, -z, y)
IMAGES = (".jpg", ".jpeg", ".png")
HINT = "is this another program's capture?"


def read_capture(layout: str, folder: Path) -> transforms.Document:
    """Read the cameras of a capture.

    Args:
        layout: A key of `CAPTURES`.
        folder: The capture's folder.

    Raises:
        FileNotFoundError: The folder, or a file of it, does not exist.
        ValueError: A file is damaged or not of this layout.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name that of a capture by {layout}")
    content = CAPTURES[layout](folder)
    entries = content.get("frames")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("file_path"), str) and "mask_path" not in entry:
            entry |= _mask(folder, Path(entry["file_path"]))
    return transforms.parse(json.dumps(content).encode(), str(folder))


def _mask(folder: Path, image: Path) -> dict[str, str]:
    names = (f"masks/{image.stem}.png", f"masks/{image.name}.png")
    return next(({"mask_path": name} for name in names if os.path.isfile(folder / name)), {})


def _nerfstudio(folder: Path) -> dict[str, Any]:
    return load_json_object(folder / "transforms.json", HINT)


def _polycam(folder: Path) -> dict[str, Any]:
    place = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    kind = "corrected_" if (place / "corrected_cameras").is_dir() else ""
    frames = []
    for path in file_listing.visible_files(place, f"{kind}cameras/*.json"):
        camera = load_json_object(path, HINT)
        rows = [
            [number(camera.get(f"t_{row}{column}"), f"t_{row}{column} of {path}") for column in range(4)]
            for row in range(3)
        ]
        lens = {ours: number(camera.get(theirs), f"{theirs} of {path}") for ours, theirs in POLYCAM_LENS.items()}
        image = f"{place.relative_to(folder) / f'{kind}images' / path.stem}.jpg"
        frames.append({"file_path": image, "transform_matrix": _upright([*rows, [0, 0, 0, 1]]), **lens})
    return {"frames": frames}


POLYCAM_LENS = {"fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy", "w": "width", "h": "height"}


def _record3d(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    content = load_json_object(path, HINT)
    poses = numbers(content.get("poses"), None, f"poses of {path}")
    if poses.ndim != 2 or poses.shape[1] != 7:
        raise ValueError(f"poses of {path} has shape {poses.shape}; expected (N, 7): a quaternion and a position")
    lens = numbers(content.get("K"), (9,), f"K of {path}").reshape(3, 3).T
    shared = {"fl_x": lens[0, 0], "fl_y": lens[1, 1], "cx": lens[0, 2], "cy": lens[1, 2]}
    shared |= {side: number(content.get(side), f"{side} of {path}") for side in ("w", "h")}
    images = {file.stem: file.name for file in file_listing.visible_files(folder, "rgb/*") if file.suffix in IMAGES}
    frames = [
        {"file_path": f"rgb/{images[str(k)]}", "transform_matrix": _upright(_quaternion_pose(pose, path))}
        for k, pose in enumerate(poses)
        if str(k) in images
    ]
    return {**shared, "frames": frames}


def _colmap(folder: Path) -> dict[str, Any]:
    places = [folder / name for name in ("sparse/0", "sparse", "colmap/sparse/0", ".")]
    found = (place for place in places if any((place / f"images.{kind}").is_file() for kind in ("bin", "txt")))
    frames = read_model(next(found, places[0]))
    matrices = np.array([frame["transform_matrix"] for frame in frames]).reshape(-1, 4, 4)
    turn = _turn_to_z(matrices[:, :3, 1].mean(0)) if frames else np.eye(4)  # cameras are mostly held upright
    for frame, matrix in zip(frames, matrices, strict=True):
        frame |= {"file_path": f"images/{frame['file_path']}", "transform_matrix": (turn @ matrix).tolist()}
    return {"frames": frames}


CAPTURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "nerfstudio": _nerfstudio,
    "polycam": _polycam,
    "record3d": _record3d,
    "colmap": _colmap,
}


def _turn_to_z(up: np.ndarray) -> np.ndarray:
    """Rotation (4, 4) that turns a direction to +z."""
    length = np.linalg.norm(up)
    if length < 1e-3:
        raise ValueError(
            "the cameras' up directions cancel out, so that it is not known which side of the object is up"
        )
    z = up / length
    x = np.cross(np.eye(3)[np.abs(z).argmin()], z)
    x /= np.linalg.norm(x)
    turn = np.eye(4)
    turn[:3, :3] = [x, np.cross(z, x), z]
    return turn


def _quaternion_pose(pose: np.ndarray, path: Path) -> np.ndarray:
    """Matrix (4, 4) of a quaternion (x, y, z, w) and a position."""
    length = np.linalg.norm(pose[:4])
    if length < 1e-6:
        raise ValueError(f"poses of {path} has a quaternion of length 0")
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(*pose[:4] / length)
    matrix[:3, 3] = pose[4:]
    return matrix


def _upright(matrix: Any) -> list[list[float]]:
    return (Y_UP @ np.array(matrix, float)).tolist()
