"""Inference-only triplane field: the first decoder layer is folded into the planes, stored as a lookup table.

The bias of that layer is part of the table; weights are in bfloat16 where the CPU multiplies it in hardware. Points are
processed in chunks whose activations fit the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.nerf.field import Field
from instant3d.nerf.plane_sampling import corner_table, sample_table
from instant3d.nerf.triplane import TriplaneField
from instant3d.utils.devices import fast_dtype

ColorAt = Callable[[Tensor], Tensor]

POINTS_AT_ONCE = 2**18  # of other fields
POINTS_IN_CACHE = 2**14  # 64 features of them in bfloat16 fill 2 MiB


def bake(field: Field, *, exact: bool = False) -> Field:
    """Convert a field for inference; fields without such a form are returned unchanged.

    Args:
        field: Any field; triplanes of a single object on the CPU are converted.
        exact: Keep float32, without rounding beyond that of the original.
    """
    if isinstance(field, TriplaneField) and field.single and field.projected.device.type == "cpu":
        keep_heap()
        return BakedField(field, torch.float32 if exact else fast_dtype())
    return field


def device_of(field: Field) -> torch.device:
    """Return the device of a field's points; fields without a `device`, which are formulas, use the CPU."""
    return getattr(field, "device", torch.device("cpu"))


@functools.cache
def keep_heap() -> None:
    """Make the C library keep up to 64 MiB of freed memory instead of returning it to the system at once.

    Each return costs a page fault for every page that is used again: a third of the time of a small image. glibc adapts
    the amount it keeps to the largest block freed so far, up to 32 MiB; with other libraries this has no effect.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


class BakedField:
    """A `Field` of one object for points (N, 3), without gradients to its weights or from its points.

    Args:
        field: Triplane of a single object.
        dtype: Precision of the table and of the hidden layers.
    """

    def __init__(self, field: TriplaneField, dtype: torch.dtype) -> None:
        decoder = field.decoder
        self.decoder, self.side = decoder, field.projected.shape[-1]
        with torch.no_grad():
            self.planes = field.projected[0].float()
            table = corner_table(field.projected.float()).clone()
            table[: len(table) // 3] += decoder.first.bias.float()  # the four bilinear weights in plane xy sum to one
            self.table = table.to(dtype)
            hidden = [layer for layer in decoder.hidden if isinstance(layer, nn.Linear)]
            self.hidden = [(layer.weight.to(dtype), layer.bias.to(dtype)) for layer in hidden]
            self.last = decoder.last.weight.to(dtype), decoder.last.bias.float()
            self.view_maps = field.view_maps
            self.from_views = None if decoder.from_views is None else decoder.from_views.weight.to(dtype)

    @property
    def device(self) -> torch.device:
        """Device of the field and its points."""
        return self.table.device

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """Return the density (N,) at points (N, 3)."""
        return torch.cat([self.decoder.to_density(self._raw(some, 1)[:, 0], some) for some in _chunks(points)])

    @torch.no_grad()
    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (N,) and colour (N, 3) at points (N, 3)."""
        raw = torch.cat([self._raw(some, 4) for some in _chunks(points)])
        return self.decoder.to_density(raw[:, 0], points), self.decoder.to_rgb(raw[:, 1:])

    @torch.no_grad()
    def grid(self, axis: Tensor) -> Tensor:
        """Evaluate density on a grid.

        Each plane is sampled once and reused along the axis perpendicular to it.

        Args:
            axis: (G,) coordinates along each axis.

        Returns:
            (G, G, G), indexed [x, y, z].
        """
        hat = _hat_functions(axis, self.side)
        sides = (hat @ (self.planes @ hat.T)).permute(0, 3, 2, 1).contiguous()  # (3, G, G, width), first letter first
        sides[0] += self.decoder.first.bias.float()
        front, side, top = sides.to(self.table.dtype)
        count = len(axis)
        points = torch.cartesian_prod(axis[:1], axis, axis)
        slabs = []
        for x, first, second in zip(axis, front, side, strict=True):
            state = first[:, None] + second[None] + top  # (y, z, width)
            points[:, 0] = x
            slabs.append(self.decoder.to_density(self._read(state.flatten(0, 1), points, 1)[:, 0], points))
        return torch.stack(slabs).view(count, count, count)

    @torch.no_grad()
    def density_then_color(self, points: Tensor) -> tuple[Tensor, ColorAt]:
        """See the function of this name."""
        raw = torch.cat([self._raw(some, 4) for some in _chunks(points)])
        return self.decoder.to_density(raw[:, 0], points), lambda index: self.decoder.to_rgb(raw[index, 1:])

    def _raw(self, points: Tensor, outputs: int) -> Tensor:
        """Return the first decoder outputs, (N, outputs) float32."""
        return self._read(sample_table(self.table, points[None], self.side)[0], points, outputs)

    def _read(self, state: Tensor, points: Tensor, outputs: int) -> Tensor:
        """Apply the decoder to sums of plane samples, which are overwritten, and to what the views show at points."""
        if self.view_maps is not None and self.from_views is not None:
            state += F.linear(self.view_maps.sample(points[None])[0].to(state.dtype), self.from_views)
        self._activate_in_place(state)
        for weight, bias in self.hidden:
            state = F.linear(state, weight, bias)
            self._activate_in_place(state)
        weight, bias = self.last
        return F.linear(state, weight[:outputs]).float() + bias[:outputs]

    def _activate_in_place(self, state: Tensor) -> None:
        """Apply the activation in place. bfloat16 numbers keep their sign as integers, which are clipped faster."""
        if self.decoder.activation is F.relu and state.dtype == torch.bfloat16:
            state.view(torch.int16).clamp_(min=0)
        elif self.decoder.activation is F.softplus:
            F.softplus(state, out=state)  # type: ignore[call-arg]  # it has no `inplace`
        else:
            self.decoder.activation(state, inplace=True)  # type: ignore[call-arg]


def _chunks(points: Tensor) -> tuple[Tensor, ...]:
    return points.split(POINTS_IN_CACHE)


def _hat_functions(axis: Tensor, side: int) -> Tensor:
    """Return the weight (G, P) of each of a plane's texels in its bilinear samples at coordinates `axis` (G)."""
    texel = torch.arange(side, device=axis.device)
    return (1 - ((axis[:, None] + 1) * (side / 2) - 0.5 - texel).abs()).clamp(min=0)


def density_then_color(field: Field, points: Tensor) -> tuple[Tensor, ColorAt]:
    """Evaluate density everywhere and colour only where it turns out to be needed.

    Args:
        field: The field; a baked one evaluates its decoder once for both.
        points: (N, 3).

    Returns:
        Density (N,), and a function from indices (K,) of points to their colours (K, 3).
    """
    if isinstance(field, BakedField):
        return field.density_then_color(points)
    return field.density(points), lambda index: field(points[index])[1]


def grid_density(field: Field, axis: Tensor) -> Tensor:
    """Evaluate the density of any field on a grid with coordinates `axis` (G): (G, G, G), indexed [x, y, z]."""
    if isinstance(field, BakedField):
        return field.grid(axis)
    count = len(axis)
    parts = []
    for some in axis.split(max(1, POINTS_AT_ONCE // count**2)):
        points = torch.stack(torch.meshgrid(some, axis, axis, indexing="ij"), dim=-1)
        parts.append(field.density(points.flatten(0, 2)).reshape(-1, count, count))
    return torch.cat(parts)
