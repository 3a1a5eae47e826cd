"""Quarter turns of an asset about the world's z axis, without resampling: planes are flipped and exchanged."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from instant3d.cameras import Cameras
from instant3d.nerf.asset import Asset
from instant3d.nerf.triplane import Decoder, Triplane
from instant3d.nerf.view_maps import ViewMaps
from instant3d.views import Views

SWAPPED = [0, 2, 1]  # planes xy, xz, yz after an odd number of quarter turns


def turned(asset: Asset, quarters: int) -> Asset:
    """Turn an asset with its views by quarters from +x towards +y.

    The turned field is f'(p) = f(R^-1 p): exactly the same numbers at the turned points.

    Args:
        asset: The asset, which is unchanged.
        quarters: Number of quarter turns; negative ones turn back.
    """
    if quarters % 4 == 0:
        return asset
    planes, decoder, maps = asset.triplane.planes, asset.decoder, asset.triplane.view_maps
    for _ in range(quarters % 4):
        xy, xz, yz = planes
        planes = torch.stack([xy.flip(-2).mT, yz.flip(-1), xz])
    if quarters % 2:
        decoder = _with_swapped_planes(decoder)
    return Asset(
        Triplane(planes, None if maps is None else _turned_maps(maps, quarters)),
        decoder,
        resolution=asset.resolution,
        max_memory=asset.max_memory,
        exact=asset.exact,
        views=None if asset.views is None else _turned_views(asset.views, quarters),
        name=asset.name,
    )


def _with_swapped_planes(decoder: Decoder) -> Decoder:
    """A copy whose first layer reads each plane's features where they are after an odd number of quarter turns."""
    if decoder.config.aggregate == "mean":
        return decoder
    decoder = copy.deepcopy(decoder)
    weight = decoder.first.weight.detach().unflatten(1, (3, -1))[:, SWAPPED].flatten(1)
    decoder.first.weight = torch.nn.Parameter(weight, decoder.first.weight.requires_grad)
    return decoder


def _turned_maps(maps: ViewMaps, quarters: int) -> ViewMaps:
    """Maps of turned cameras, the grid of their weights turned too."""
    weight = torch.rot90(maps.weight, quarters, (-1, -2))
    return ViewMaps(maps.maps, weight, _turned_cameras(maps.cameras, quarters))


def _turned_views(views: Views, quarters: int) -> Views:
    """Views (V,) by turned cameras; maps of normals, which have world axes, are left out."""
    return replace(views, cameras=_turned_cameras(views.cameras, quarters), normals=None)


def _turned_cameras(cameras: Cameras, quarters: int) -> Cameras:
    return Cameras(quarter_turn(quarters).to(cameras.cam_to_world) @ cameras.cam_to_world, cameras.intrinsics)


def quarter_turn(quarters: int) -> Tensor:
    """Rotation matrix (4, 4) of quarter turns about z."""
    cos, sin = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][quarters % 4]
    return torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
