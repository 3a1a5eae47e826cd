"""A renderer's arrays as `Views`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.views import Views


def to_views(pixels: np.ndarray, maps: Mapping[str, np.ndarray], cameras: Cameras) -> Views:
    """Views of cameras (...) from one array a kind, all V = cameras in one row.

    Args:
        pixels: Straight-alpha sRGB (V, S, S, 4), uint8.
        maps: Some of depth (V, S, S, 1) and normals (V, S, S, 3), float32.
        cameras: Whose views they are.
    """
    lead = cameras.shape

    def channels_first(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).permute(0, 3, 1, 2).reshape(*lead, -1, *array.shape[1:3])

    image = channels_first(pixels).float() / 255
    rgb, alpha = image[..., :3, :, :], image[..., 3:, :, :]
    found = {name: channels_first(array) for name, array in maps.items()}
    return Views(torch.where(alpha > 0, rgb, 0.0), alpha, cameras, **found)
