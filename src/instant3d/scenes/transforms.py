"""Reading and writing of the `transforms.json` document: cameras and file names.

It is the format of nerfstudio, instant-ngp and the Blender-synthetic scenes: OpenGL camera-to-world matrices (x right,
y up, z backward) in a +z-up world, and intrinsics in pixels, given per frame or for all frames. In memory cameras use
OpenCV axes (`instant3d.cameras`). The object is expected in the cube [-1, 1]^3 around the origin. Where the document
has instant-ngp's `scale` or `offset`, its unit cube (p * scale + offset, by default 0.33 and 0.5) becomes our cube; its
`aabb_scale` only describes the extent of a background and is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instant3d.scenes.frame import LENS_KEYS, Frame, merged_lens
from instant3d.scenes.json_values import file_name, numbers, positive, stem
from instant3d.scenes.poses import OPENGL_TO_OPENCV, rigid_pose

MAX_BYTES = 2**26
PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
CREDIT = ("license", "author", "source", "name", "url")  # licence, author, source and title of the object
LONGEST_CREDIT = 500  # characters of each
FloatArray = np.ndarray


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
                return positive(self.content[key], f"{key} of {self.where}")
        return None

    @property
    def world_scale(self) -> float:
        """Factor from the document's world to ours."""
        if "scale" not in self.content and "offset" not in self.content:
            return 1.0
        return 2 * positive(self.content.get("scale", 0.33), f"scale of {self.where}")

    @property
    def world_offset(self) -> FloatArray:
        """Offset (3,) from the document's world to ours, added after scaling."""
        if "scale" not in self.content and "offset" not in self.content:
            return np.zeros(3)
        return 2 * numbers(self.content.get("offset", [0.5] * 3), (3,), f"offset of {self.where}") - 1

    @property
    def world_note(self) -> str:
        """A sentence on the conversion by `scale` and `offset`, which tools define differently; "" without them."""
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
        return tuple(stem(self._entry(k)[0]) for k in range(self.count))

    def frame(self, k: int) -> Frame:
        """Parse and check frame `k`.

        Raises:
            ValueError: Its image name, matrix or intrinsics are missing or invalid.
        """
        image, entry = self._entry(k)
        where = f"frame {k} ({image}) of {self.where}"
        _check_camera_model(entry, where)
        matrix = rigid_pose(entry.get("transform_matrix"), where) @ OPENGL_TO_OPENCV
        matrix[:3, 3] = matrix[:3, 3] * self.world_scale + self.world_offset
        depth = file_name(entry, "depth_file_path", where) or file_name(entry, "depth_path", where)
        mask, normals = file_name(entry, "mask_path", where), file_name(entry, "normal_file_path", where)
        return Frame(where, stem(image), image, mask, depth, normals, matrix, merged_lens(self.content, entry, where))

    def _entry(self, k: int) -> tuple[str, Mapping[str, Any]]:
        entry = self.content["frames"][k]
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise ValueError(f"frame {k} of {self.where} names no image; it needs a `file_path`")
        return entry["file_path"].replace("\\", "/"), entry


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
    text = json.dumps({"camera_model": "OPENCV", **shared, **head}, indent=1, allow_nan=False).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(frame, allow_nan=False) for frame in frames)  # a line each: 10 times faster
    return f'{text},\n "frames": [\n  {lines}\n ]\n}}\n'.encode()
