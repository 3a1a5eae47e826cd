"""From posed views to an asset in one call: where weights, network and field meet. Knows nothing of files but weights.

model = ViewsTo3D.from_pretrained("checkpoints/stage2-demo")
asset = model(scenes.read("examples/robot"))
asset.save("out")
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from instant3d.asset import Asset
from instant3d.nerf.frozen import fast_dtype
from instant3d.scenes import Scene
from instant3d.stage2.inputs import fitted, unfamiliar
from instant3d.stage2.network import Reconstructor
from instant3d.views import Views

__all__ = ["Asset", "ViewsTo3D", "find_device"]


class ViewsTo3D:
    """Four posed views, or as many as there are, to one asset; draws nothing, so the same views give the same asset."""

    def __init__(self, network: Reconstructor, device: str | torch.device = "cpu") -> None:
        self.network, self.device = network.to(device).eval(), torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ViewsTo3D:
        """From a checkpoint folder, or a Hugging Face Hub id, which is downloaded."""
        return cls(Reconstructor.from_pretrained(source).requires_grad_(False), device)

    def __call__(self, views: Views | Scene, *, resolution: int = 256, max_memory: int = 2**30) -> Asset:
        """Square views (V,) of one object, of any size; see `Asset` for `resolution` and `max_memory`."""
        views = views.views if isinstance(views, Scene) else views
        if views.rgb.dim() != 4:
            raise ValueError(f"views of one object have the shape (V, 3, H, W), got {tuple(views.rgb.shape)}")
        a = self.network.architecture
        if views.height != views.width:
            raise ValueError(
                f"views are to be square, got {views.width} x {views.height}; "
                f"read them with size={a.image_size or views.height}"
            )
        strange = unfamiliar(views.cameras, a)
        if strange:
            warnings.warn(strange, stacklevel=2)
        inputs = fitted(views, a).to(self.device)[None]
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            triplane = self.network.triplane(inputs)
        return Asset(
            triplane[0].map(torch.Tensor.float), self.network.decoder, resolution=resolution, max_memory=max_memory
        )

    @property
    def _half(self) -> bool:
        """bfloat16, as in training, where it is fast; not for weights that were stored in float32, to be exact.

        Processors that only emulate it are faster in float32.
        """
        return not self.network.precise and (self.device.type == "cuda" or fast_dtype() is torch.bfloat16)


def find_device(name: str) -> torch.device:
    """The device of that name, or for `auto` a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no device; say cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"there is no {name} here; say --device cpu")
    return device
