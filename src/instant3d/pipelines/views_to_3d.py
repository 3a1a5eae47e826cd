"""Stage 2 alone: from posed views to an asset in one call.

ViewsTo3D.from_pretrained("checkpoints/stage2-demo")(scenes.read("examples/couch")).save("out")
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor

from instant3d.nerf.asset import Asset
from instant3d.nerf.triplane import TriplaneField
from instant3d.scenes import Scene
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.view_checks import camera_warning, resize_inputs
from instant3d.utils.devices import fast_dtype
from instant3d.utils.memory_limits import MemoryLimits
from instant3d.views import Views


class ViewsTo3D:
    """Stage 2: reconstructs an asset from posed views. It is deterministic: the same views give the same asset.

    Args:
        network: The reconstruction network, which is moved to `device`.
        device: Where it runs.
    """

    def __init__(self, network: Reconstructor, device: str | torch.device = "cpu") -> None:
        self.network = network.to(device).eval()

    @property
    def device(self) -> torch.device:
        """Current device of the network."""
        return self.network.tokens.device

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ViewsTo3D:
        """Load a checkpoint.

        Args:
            source: A checkpoint folder, or a Hugging Face Hub id, which is downloaded.
            device: Where the network runs.

        Raises:
            ValueError: The weights or their configuration are invalid.
            FileNotFoundError: There is no such checkpoint.
        """
        return cls(Reconstructor.from_pretrained(source).requires_grad_(False), device)

    def __call__(
        self, views: Views | Scene, *, resolution: int | None = None, max_memory: int = MemoryLimits.scratch
    ) -> Asset:
        """Reconstruct one object. A warning is issued if the cameras are unlike those of the training.

        Args:
            views: Square views (V,) of any size, or a scene that has them.
            resolution: Nodes along each axis of the mesh's grid; by default two for each texel, at most 256.
            max_memory: Bytes that rendering and meshing may take.

        Raises:
            ValueError: The views are not square or not of one object, or the network takes another number of views.
        """
        views = views.views if isinstance(views, Scene) else views
        if views.rgb.dim() != 4:
            raise ValueError(f"views of one object have the shape (V, 3, H, W), got {tuple(views.rgb.shape)}")
        a = self.network.architecture
        if views.height != views.width:
            raise ValueError(
                f"views are to be square, got {views.width} x {views.height}; "
                f"read them with size={a.image_size or views.height}"
            )
        strange = camera_warning(views.cameras, a)
        if strange:
            warnings.warn(strange, stacklevel=2)
        inputs = resize_inputs(views, a).to(self.device)[None]
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            triplane = self.network.triplane(inputs)
        decoder = copy.deepcopy(self.network.decoder)  # its own, for the network may move to another device
        return Asset(
            triplane[0].map(Tensor.float),
            decoder,
            resolution=resolution,
            max_memory=max_memory,
            exact=self.network.precise,
            views=views.to("cpu"),
        )

    def field(self, views: Views) -> TriplaneField:
        """Reconstruct the field alone, on the CPU; arguments and errors as for a call."""
        asset = self(views)
        return TriplaneField(asset.triplane.to("cpu"), asset.decoder.to("cpu"))

    def differentiable_field(self, views: Views) -> TriplaneField:
        """Reconstruct the field on the network's device, differentiable in the cameras of the views (V,)."""
        inputs = resize_inputs(views, self.network.architecture).to(self.device)[None]
        return TriplaneField(self.network.triplane(inputs)[0], self.network.decoder)

    @property
    def _half(self) -> bool:
        """Whether to compute in bfloat16, as in training: not if it is emulated, nor for weights kept in float32."""
        return not self.network.precise and (self.device.type == "cuda" or fast_dtype() is torch.bfloat16)
