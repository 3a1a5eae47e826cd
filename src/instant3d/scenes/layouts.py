"""Layouts of other projects: file names, camera conventions and scales.

All five were rendered in Blender, so +z is up in them as it is here. They differ in the direction of the matrix, the
camera's axes (OpenGL: x right, y up, z backward; OpenCV: x right, y down, z forward) and the size of the world:

    layout          files of one object                       matrix                            box      lens
    openlrm         rgba/%03d.png, pose/%03d.npy,             camera-to-world (3, 4), OpenGL    side 2   in pixels
                    intrinsics.npy (3, 2)
    instantmesh     %03d.png, %03d_depth.png,                 world-to-camera (N, 3, 4),        side 2   50 degrees
                    %03d_normal.png, cameras.npz: cam_poses   OpenGL
    zero123         %03d.png, %03d.npy                        world-to-camera (3, 4), OpenGL    side 1   35 on 32 mm
    gobjaverse      %05d/%05d.png, %05d/%05d.json             x, y, z and origin, OpenCV axes   side 1   x_fov, else
                                                                                                         50 on 36 mm
    nerf-synthetic  transforms_{train,val,test}.json          camera-to-world (4, 4), OpenGL    side 3   in the JSON

Sources: OpenLRM's and Zero123's `blender_script.py`, InstantMesh's `data/objaverse.py` (normals along world axes, black
where there is no surface; 8-bit depth along the camera's z, 255 being 6 units or 4, by the version), RichDreamer's
`depth_warp_example.py`. Assumed, as no source says it: G-Objaverse's x_fov is in radians, Zero123's sensor is square.
G-Objaverse's depth and normals (EXR) and the depth images of NeRF-synthetic's test views are not imported.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from instant3d.scenes import npy, transforms
from instant3d.scenes.frame import MIN_ANGLE, Frame
from instant3d.scenes.poses import OPENGL_TO_OPENCV, ROTATION_TOLERANCE, orthonormalised, rotation_deviation
from instant3d.utils import file_listing

MAX_VIEWS = 10_000  # of one object
MAX_JSON_BYTES = 2**20  # of one camera

Matrix = np.ndarray
Lens = Callable[[int, int], tuple[float, float, float, float]]  # an image's size in pixels to its (fx, fy, cx, cy)
Load = Callable[[str], bytes]  # a file's content by its name in the object's folder


@dataclass(frozen=True)
class ViewRecord:
    """One view of an object, in the layout's own world and unit.

    Attributes:
        where: Name of the camera for error messages.
        image: File name of the image.
        cam_to_world: (4, 4) float64, OpenCV axes.
        lens: Intrinsics as a function of the image size.
        mask: File name of the mask.
        depth: File name of an 8-bit depth map, see `LayoutOptions.depth_range`.
        normals: File name of an 8-bit normal map, [-1, 1] along world axes.
        frame: The frame of a `transforms.json`, if the layout has one, whose distortion and orientation count.
    """

    where: str
    image: str
    cam_to_world: Matrix
    lens: Lens
    mask: str | None = None
    depth: str | None = None
    normals: str | None = None
    frame: Frame | None = None


@dataclass(frozen=True)
class LayoutOptions:
    """Values that the files of some layouts do not contain.

    Attributes:
        fov_deg: Horizontal field of view in degrees.
        depth_range: Depth of the 8-bit level 255, in the layout's own unit.
    """

    fov_deg: float | None = None
    depth_range: float = 6.0


@dataclass(frozen=True)
class Layout:
    """A layout of another project.

    Attributes:
        marks: Files by which an object's folder is recognised.
        scale: Factor that makes its box the cube [-1, 1]^3.
        view_records: Reads the views of one folder.
        fov_deg: Horizontal field of view in degrees if neither the files nor the user give it.
    """

    marks: tuple[str, ...]
    scale: float
    view_records: Callable[[Path, Load, LayoutOptions], list[ViewRecord]]
    fov_deg: float | None = None

    def read(self, folder: Path, load: Load, options: LayoutOptions) -> list[ViewRecord]:
        """Read the views of the object in `folder`.

        Args:
            folder: The object's folder.
            load: Returns a file's content by its name in the folder.
            options: Values that the files do not contain.

        Raises:
            ValueError: There are no views, too many, or invalid ones.
        """
        views = self.view_records(folder, load, replace(options, fov_deg=options.fov_deg or self.fov_deg))
        if not 0 < len(views) <= MAX_VIEWS:
            raise ValueError(f"{folder} has {len(views)} cameras with images; expected 1 to {MAX_VIEWS}")
        return views

    def objects(self, source: Path) -> Iterator[Path]:
        """Yield the folders of objects in `source`, itself included, in order."""
        found = {
            file.parents[mark.count("/")]
            for mark in self.marks
            for file in file_listing.visible_files(source, f"**/{mark}")
        }
        yield from sorted(found)


def _openlrm(folder: Path, load: Load, _: LayoutOptions) -> list[ViewRecord]:
    (fx, fy), (cx, cy), (width, height) = _shaped(
        npy.read_npy(load("intrinsics.npy"), f"{folder}/intrinsics.npy"), (3, 2), f"{folder}/intrinsics.npy"
    )
    if min(fx, fy, width, height) <= 0:
        raise ValueError(f"{folder}/intrinsics.npy holds a focal length or a size that is not above 0")
    fractions = (fx / width, fy / height, cx / width, cy / height)

    def lens(*_: int) -> tuple[float, float, float, float]:
        return fractions

    views = []
    for pose in file_listing.visible_files(folder, "pose/*.npy"):
        matrix = _rigid(npy.read_npy(load(f"pose/{pose.name}"), str(pose)), str(pose)) @ OPENGL_TO_OPENCV
        views.append(ViewRecord(str(pose), f"rgba/{pose.stem}.png", matrix, lens))
    return views


def _instantmesh(folder: Path, load: Load, options: LayoutOptions) -> list[ViewRecord]:
    where = f"{folder}/cameras.npz"
    poses = npy.read_npz(load("cameras.npz"), "cam_poses", where)
    if poses.ndim != 3 or len(poses) > MAX_VIEWS:
        raise ValueError(f"cam_poses of {where} has shape {poses.shape}; expected (N, 3, 4)")
    views = []
    for k, pose in enumerate(poses):
        matrix = np.linalg.inv(_rigid(pose, f"camera {k} of {where}")) @ OPENGL_TO_OPENCV
        depth, normals = (_if_there(folder, f"{k:03d}_{kind}.png") for kind in ("depth", "normal"))
        lens = _angle(options.fov_deg)
        views.append(ViewRecord(f"camera {k} of {where}", f"{k:03d}.png", matrix, lens, depth=depth, normals=normals))
    return views


def _zero123(folder: Path, load: Load, options: LayoutOptions) -> list[ViewRecord]:
    views = []
    for pose in file_listing.visible_files(folder, "[0-9][0-9][0-9].npy"):
        matrix = np.linalg.inv(_rigid(npy.read_npy(load(pose.name), str(pose)), str(pose))) @ OPENGL_TO_OPENCV
        views.append(ViewRecord(str(pose), f"{pose.stem}.png", matrix, _angle(options.fov_deg)))
    return views


def _gobjaverse(folder: Path, load: Load, options: LayoutOptions) -> list[ViewRecord]:
    views = []
    for file in file_listing.visible_files(folder, "[0-9]*/[0-9]*.json"):
        content, where = _camera(load(f"{file.parent.name}/{file.name}"), str(file)), str(file)
        axes = [content.get(axis) for axis in ("x", "y", "z", "origin")]
        if any(not isinstance(axis, list) or len(axis) != 3 for axis in axes):
            raise ValueError(f"{where} lacks one of x, y, z and origin, each a list of three numbers")
        matrix = _rigid(_numbers(axes, where).T, where)
        fov = content.get("x_fov")
        fov_deg = options.fov_deg if fov is None else math.degrees(_number(fov, f"x_fov of {where}"))
        views.append(ViewRecord(where, f"{file.parent.name}/{file.stem}.png", matrix, _angle(fov_deg)))
    return views


def _nerf_synthetic(folder: Path, load: Load, _: LayoutOptions) -> list[ViewRecord]:
    views = []
    for name in NERF_DOCUMENTS:
        if not (folder / name).is_file():
            continue
        document = transforms.parse(load(name), f"{folder}/{name}")
        frames = [document.frame(k) for k in range(min(document.count, MAX_VIEWS + 1))]
        views += [ViewRecord(f.where, f.image, f.cam_to_world, f.pinhole, mask=f.mask, frame=f) for f in frames]
        if document.world_note:
            warnings.warn(document.world_note, stacklevel=2)
    return views


NERF_DOCUMENTS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")

LAYOUTS = {
    "openlrm": Layout(("intrinsics.npy",), 1.0, _openlrm),
    "instantmesh": Layout(("cameras.npz",), 1.0, _instantmesh, 50.0),
    "zero123": Layout(("000.npy",), 2.0, _zero123, math.degrees(2 * math.atan(16 / 35))),
    "gobjaverse": Layout(("00000/00000.json",), 2.0, _gobjaverse, math.degrees(2 * math.atan(18 / 50))),
    # instant-ngp's own choice for these scenes: cameras at 4.03, objects within 1.5 of the origin
    "nerf-synthetic": Layout(NERF_DOCUMENTS, 0.66, _nerf_synthetic),
}


def _angle(fov_deg: float | None) -> Lens:
    """Intrinsics with square pixels and a centred principal point."""
    if fov_deg is None or not math.degrees(MIN_ANGLE) < fov_deg < 180:
        raise ValueError(f"the field of view is {fov_deg} degrees; expected more than 0 and less than 180")
    focal = 0.5 / math.tan(math.radians(fov_deg) / 2)
    return lambda width, height: (focal, focal * width / height, 0.5, 0.5)


def _camera(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{where} is larger than {MAX_JSON_BYTES} bytes; a camera takes far less")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON ({error}); write it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} is not a camera; expected an object with x, y, z and origin")
    return content


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise ValueError(f"{what} is {value!r:.40}; expected a finite number")
    return float(value)


def _numbers(value: Any, where: str) -> Matrix:
    return np.array([[_number(number, f"a coordinate of {where}") for number in row] for row in value])


def _shaped(array: Matrix, shape: tuple[int, ...], where: str) -> Matrix:
    if array.shape != shape:
        raise ValueError(f"{where} has shape {array.shape}; expected {shape}")
    return array


def _rigid(matrix: Matrix, where: str) -> Matrix:
    """Return the matrix (4, 4) of a rotation and a position given as (3, 4) or (4, 4)."""
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    _shaped(matrix, (4, 4), where)
    rotation = matrix[:3, :3]
    if rotation_deviation(rotation) > ROTATION_TOLERANCE:
        raise ValueError(f"{where} is not a rotation with a position (its axes are not unit vectors at right angles)")
    if np.linalg.det(rotation) < 0 or not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"{where} is mirrored or not an affine matrix; is it of another layout?")
    return orthonormalised(matrix)


def _if_there(folder: Path, name: str) -> str | None:
    return name if (folder / name).is_file() else None
