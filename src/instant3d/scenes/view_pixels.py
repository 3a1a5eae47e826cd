"""Views as the 8-bit images of their files, and the encoding of these as a scene's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.scenes import geometry_maps, transforms
from instant3d.scenes.scene_files import DOCUMENT
from instant3d.utils import png
from instant3d.views import Views

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class ViewPixels:
    """Images of V views as a scene's files store them; a renderer that has them need not go through `Views`.

    Attributes:
        rgba: (V, H, W, 4) uint8, straight alpha.
        cameras: (V,).
        depth: (V, H, W) float32, 0 where there is no surface; may be absent.
        normals: (V, H, W, 3) float32, world axes; may be absent.

    Raises:
        ValueError: There are no views, their shapes do not fit, or they hold numbers that are not finite.
    """

    rgba: Array
    cameras: Cameras
    depth: Array | None = None
    normals: Array | None = None

    def __post_init__(self) -> None:
        shape = self.rgba.shape
        if len(shape) != 4 or not self.rgba.size or shape[3] != 4 or self.rgba.dtype != np.uint8:
            raise ValueError(f"a scene is written from images (V, H, W, 4) of uint8 with V > 0, got {shape}")
        for name, expected in (("depth", shape[:3]), ("normals", (*shape[:3], 3))):
            value = getattr(self, name)
            if value is not None and value.shape != expected:
                raise ValueError(f"{name} of images {shape} must have the shape {expected}, got {value.shape}")
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} holds a number that is not finite (NaN or infinite); nothing was written")
        if not (self.cameras.cam_to_world.isfinite().all() and self.cameras.intrinsics.isfinite().all()):
            raise ValueError("a camera holds a number that is not finite (NaN or infinite); nothing was written")

    @classmethod
    def of(cls, views: Views) -> ViewPixels:
        """Round views (V,) to 8 bits.

        Raises:
            ValueError: There are no views, or they hold numbers that are not finite.
        """
        if views.rgb.dim() != 4 or len(views.rgb) == 0:
            raise ValueError(f"a scene is written from views (V, 3, H, W) with V > 0, got {tuple(views.rgb.shape)}")
        views = views.map(lambda tensor: tensor.detach().cpu().float())
        rgba = np.concatenate([_bytes(views.rgb, "rgb"), _bytes(views.alpha, "alpha")], axis=-1)
        depth = None if views.depth is None else views.depth[:, 0].numpy()
        normals = None if views.normals is None else views.normals.permute(0, 2, 3, 1).numpy()
        return cls(rgba, views.cameras, depth, normals)

    def encode(
        self, *, caption: str | None, object_id: str, extra: Mapping[str, Any] | None = None
    ) -> dict[str, bytes]:
        """Encode the views as the files of a scene.

        Args:
            caption: The caption, if any.
            object_id: The object's id.
            extra: Further JSON fields, such as a source or a licence.

        Returns:
            The files' content by their names relative to the scene folder.
        """
        unit = None if self.depth is None else max(float(self.depth.max()), 1e-6) / geometry_maps.DEPTH_LEVELS
        fields = {**(extra or {}), "id": object_id, "caption": caption, "depth_unit_scale_factor": unit}
        files = {f"images/{k:04d}.png": png.encode(image) for k, image in enumerate(self.rgba)}
        if self.depth is not None and unit is not None:
            files |= {f"depth/{k:04d}.png": geometry_maps.encode_depth(map_, unit) for k, map_ in enumerate(self.depth)}
        if self.normals is not None:
            files |= {f"normals/{k:04d}.png": geometry_maps.encode_normals(m) for k, m in enumerate(self.normals)}
        return {DOCUMENT: transforms.document(list(self._entries()), **fields), **files}

    def _entries(self) -> Iterator[dict[str, Any]]:
        """The JSON entry of each view."""
        height, width = self.rgba.shape[1:3]
        matrices = self.cameras.cam_to_world.detach().cpu().numpy()
        for k, lens in enumerate(self.cameras.intrinsics.tolist()):
            entry = transforms.entry(f"images/{k:04d}.png", matrices[k], lens, width, height)
            if self.depth is not None:
                entry["depth_file_path"] = f"depth/{k:04d}.png"
            if self.normals is not None:
                entry["normal_file_path"] = f"normals/{k:04d}.png"
            yield entry


def _bytes(image: Tensor, name: str) -> Array:
    """Convert (V, C, H, W) in [0, 1] to uint8 (V, H, W, C), rounded."""
    if not image.isfinite().all():
        raise ValueError(f"{name} holds a number that is not finite (NaN or infinite); nothing was written")
    levels: Array = (image.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return levels
