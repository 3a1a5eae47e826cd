"""Scenes of one plain ball each, seen by the structured cameras."""

import torch

from instant3d import scenes
from instant3d.cameras import structured
from instant3d.views import Views

COLOURS = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.2, 0.8), "green": (0.1, 0.7, 0.2)}


def ball_views(colour, radius=0.6, size=32):
    """Four views (4,) of a ball at the origin, without shading."""
    cameras = structured()
    rays = cameras.rays(size, size)
    across = torch.linalg.cross(-rays.origins.expand_as(rays.directions), rays.directions).norm(dim=-1)
    alpha = (across < radius).float()[:, None]
    rgb = torch.tensor(colour)[:, None, None].expand(4, 3, size, size)
    return Views(rgb.clone(), alpha, cameras)


def write_balls(root, names=tuple(COLOURS), prefix=""):
    """Scene folders `root/PREFIXred` and so on, with captions such as "a red ball"."""
    for k, name in enumerate(names):
        views = ball_views(COLOURS[name], radius=0.4 + 0.1 * k)
        scenes.write(root / f"{prefix}{name}", views, caption=f"a {name} ball", object_id=f"{prefix}{name}")
    return root
