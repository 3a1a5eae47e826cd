"""Images of scenes from 8 bits and from floats: what Pillow decodes from the files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.views import Views

SIZE = 9


def pixels(**changes):
    generator = np.random.default_rng(1)
    rgba = generator.integers(0, 256, (4, SIZE, SIZE, 4), np.uint8)
    depth = generator.uniform(1, 4, (4, SIZE, SIZE)).astype(np.float32) * (rgba[..., 3] > 99)
    normals = generator.normal(size=(4, SIZE, SIZE, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    parts = {"rgba": rgba, "cameras": structured_cameras(), "depth": depth, "normals": normals}
    return scenes.ViewPixels(**(parts | changes))


def decoded(files, name):
    return np.asarray(Image.open(io.BytesIO(files[name])))


def test_view_pixels_are_stored_as_they_are_and_maps_by_their_formulas():
    given = pixels()
    files = scenes.encode(given, caption=None, object_id="a")
    unit = float(given.depth.max()) / 65535
    for k in range(4):
        np.testing.assert_array_equal(decoded(files, f"images/{k:04d}.png"), given.rgba[k])
        steps = np.rint(given.depth[k].astype(np.float64) / unit)
        np.testing.assert_array_equal(decoded(files, f"depth/{k:04d}.png"), steps)
        np.testing.assert_array_equal(decoded(files, f"normals/{k:04d}.png"), np.rint(given.normals[k] * 127 + 128))


def test_view_pixels_of_views_are_the_bytes_that_the_views_were_made_of():
    given = pixels()
    image = torch.from_numpy(given.rgba).permute(0, 3, 1, 2).float() / 255
    views = Views(
        image[:, :3],
        image[:, 3:],
        structured_cameras(),
        torch.from_numpy(given.depth)[:, None],
        torch.from_numpy(given.normals).permute(0, 3, 1, 2),
    )
    facts = {"caption": "a cup", "object_id": "a", "extra": {"license": "CC0-1.0"}}
    assert scenes.encode(views, **facts) == scenes.encode(given, **facts)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rgba": np.zeros((0, 9, 9, 4), np.uint8)}, "with V > 0"),
        ({"rgba": np.zeros((4, 9, 9, 4), np.float32)}, "of uint8"),
        ({"depth": np.zeros((4, 9, 8), np.float32)}, "depth of images"),
        ({"normals": np.full((4, 9, 9, 3), np.nan, np.float32)}, "normals holds a number that is not finite"),
    ],
)
def test_view_pixels_that_no_scene_can_hold_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        pixels(**changes)
