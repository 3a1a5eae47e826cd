"""What three peers computed, in our terms of views, points and cameras; and their folders as they are on disk."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from instant3d.cameras import Cameras
from instant3d.views import Views

FOLDER = Path(__file__).parents[1] / "convert" / "golden"
FAMILIES = ("instantmesh", "openlrm", "triposr")


class Golden:
    """One set; `unit` is the length in the peer's world of one of ours."""

    def __init__(self, family):
        self.family, self.folder = family, FOLDER / family
        self.weights, self.inputs, self.outputs = (
            load_file(self.folder / f"{name}.safetensors") for name in ("weights", "inputs", "outputs")
        )
        self.unit = 0.87 if family == "triposr" else 1.0

    @property
    def views(self):
        """Views (1, V)."""
        images = self.inputs["images"].float() / 255
        images = images if images.dim() == 5 else images[:, None]
        if "cameras" in self.inputs:
            numbers = self.inputs["cameras"].reshape(1, -1, 16)
            matrix = torch.eye(4).repeat(1, numbers.shape[1], 1, 1)
            matrix[..., :3, :] = numbers[..., :12].unflatten(-1, (3, 4))
            cameras = Cameras(opencv(matrix), numbers[..., 12:])
        else:  # a camera that must not matter
            cameras = Cameras(torch.eye(4)[None, None], torch.tensor([[[1.3, 1.2, 0.4, 0.6]]]))
        return Views(images, torch.ones_like(images[:, :, :1]), cameras)

    @property
    def points(self):
        return self.inputs["points"] / self.unit

    @property
    def camera(self):
        """Who took `render_rgb`, (1,)."""
        matrix = opencv(self.inputs["render_c2w"]).clone()
        matrix[:3, 3] /= self.unit
        focal = float(self.inputs["render_focal"])
        return Cameras(matrix[None], torch.tensor([[focal, focal, 0.5, 0.5]]))

    def in_their_order(self, planes):
        """Planes xy, xz, yz as the peer's: the third of two of them is zy."""
        return planes if self.family == "triposr" else torch.stack([planes[:, 0], planes[:, 1], planes[:, 2].mT], 1)


def opencv(matrix):
    """Camera-to-world matrices (..., 4, 4) whose cameras look along -z with +y up, as ones that look along +z."""
    return matrix * torch.tensor([1.0, -1.0, -1.0, 1.0])
