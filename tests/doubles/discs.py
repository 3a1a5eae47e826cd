"""Scenes of a disc in one colour, four structured views of few pixels: what tests of data preparation look through."""

from pathlib import Path

import torch

from instant3d import scenes
from instant3d.cameras import structured
from instant3d.views import Views


def views(colour=(1.0, 0.0, 0.0), radius: float = 8.0, size: int = 24) -> Views:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    alpha = (((x - size / 2 + 0.5) ** 2 + (y - size / 2 + 0.5) ** 2) < radius**2).float().expand(4, 1, size, size)
    rgb = torch.tensor(colour)[:, None, None].expand(4, 3, size, size)
    return Views(rgb, alpha, structured())


def write(folder: Path, name: str, colour=(1.0, 0.0, 0.0), caption: str | None = None, **more) -> Path:
    """The scene `folder/name`; `more` are an id, a radius and further fields."""
    object_id, radius = more.pop("object_id", name), more.pop("radius", 8.0)
    scenes.write(folder / name, views(colour, radius), caption=caption, object_id=object_id, extra=more)
    return folder / name
