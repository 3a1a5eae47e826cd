"""Views written as other projects write them. Knows nothing of the code that reads them back.

`world` is how large their object is beside ours; cameras become OpenGL's by a turn around their own x axis.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d.views import Views

DEPTH_RANGE = 6.0


def opengl(views: Views, world: float) -> np.ndarray:
    """Camera-to-world (V, 4, 4) float64: right, up, backward and the position in their unit."""
    matrices = views.cameras.cam_to_world.double().numpy().copy()
    matrices[:, :3, 1:3] *= -1
    matrices[:, :3, 3] *= world
    return matrices


def inverse(matrices: np.ndarray) -> np.ndarray:
    """World-to-camera, written out: a rotation's inverse is its transpose."""
    rotation = matrices[:, :3, :3].transpose(0, 2, 1)
    position = -np.einsum("vij,vj->vi", rotation, matrices[:, :3, 3])
    return np.concatenate([rotation, position[..., None]], axis=-1)


def save(path: Path, *channels: Tensor) -> None:
    """A PNG of channels (C, H, W) in [0, 1]."""
    levels = (torch.cat(channels) * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(levels)).save(path)


def openlrm(folder: Path, views: Views) -> None:
    size = np.array([views.width, views.height])
    for k, matrix in enumerate(opengl(views, 1.0)):
        save(folder / "rgba" / f"{k:03d}.png", views.rgb[k], views.alpha[k])
        (folder / "pose").mkdir(exist_ok=True)
        np.save(folder / "pose" / f"{k:03d}.npy", matrix[:3])
    fractions = views.cameras.intrinsics[0].double().numpy()
    np.save(folder / "intrinsics.npy", np.array([fractions[:2] * size, fractions[2:] * size, size]))


def instantmesh(folder: Path, views: Views) -> None:
    for k in range(len(views.rgb)):
        save(folder / f"{k:03d}.png", views.rgb[k], views.alpha[k])
        if views.depth is not None and views.normals is not None:
            save(folder / f"{k:03d}_depth.png", views.depth[k] / DEPTH_RANGE)
            save(folder / f"{k:03d}_normal.png", (views.normals[k] + 1) / 2, views.alpha[k])
    np.savez(folder / "cameras.npz", cam_poses=inverse(opengl(views, 1.0)).astype(np.float32))


def zero123(folder: Path, views: Views) -> None:
    for k, matrix in enumerate(inverse(opengl(views, 0.5))):
        save(folder / f"{k:03d}.png", views.rgb[k], views.alpha[k])
        np.save(folder / f"{k:03d}.npy", matrix)


def gobjaverse(folder: Path, views: Views) -> None:
    matrices = views.cameras.cam_to_world.double()
    for k, matrix in enumerate(matrices):
        place = folder / "campos_512_v4" / f"{k:05d}"
        save(place / f"{k:05d}.png", views.rgb[k], views.alpha[k])
        x, y, z, origin = matrix[:3].T.tolist()
        fov = 2 * math.atan(0.5 / float(views.cameras.intrinsics[k, 0]))
        half = [number / 2 for number in origin]
        camera = {"origin": half, "x": x, "y": y, "z": z, "x_fov": fov, "y_fov": fov, "max_depth": 5.0}
        (place / f"{k:05d}.json").write_text(json.dumps(camera))


def nerf_synthetic(folder: Path, views: Views) -> None:
    """The first view for training, the second for validation, the others for tests."""
    matrices = opengl(views, 1 / 0.66)
    angle = 2 * math.atan(0.5 / float(views.cameras.intrinsics[0, 0]))
    for split, chosen in (("train", [0]), ("val", [1]), ("test", range(2, len(matrices)))):
        frames = []
        for k in chosen:
            save(folder / split / f"r_{k}.png", views.rgb[k], views.alpha[k])
            frames.append({"file_path": f"./{split}/r_{k}", "rotation": 0.1, "transform_matrix": matrices[k].tolist()})
        document = {"camera_angle_x": angle, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))


WRITERS = {
    "openlrm": openlrm,
    "instantmesh": instantmesh,
    "zero123": zero123,
    "gobjaverse": gobjaverse,
    "nerf-synthetic": nerf_synthetic,
}
