"""Triplane representation and the MLP that decodes it into density and colour.

Planes are xy, xz, yz in this order; a plane's first letter runs along its width, its second along its height, both
from -1 to 1 (bilinear, `align_corners=False`, zero outside: the convention of `torch.nn.functional.grid_sample`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.utils.tensor_dataclass import TensorDataclass

if TYPE_CHECKING:
    from instant3d.nerf.fused import Fused
from instant3d.nerf.plane_sampling import sample_planes
from instant3d.nerf.view_maps import ViewMaps

PREFIXED = ("width", "layers", "activation")  # fields of a decoder with a prefix in the architecture of a network
LAPLACE_BIAS = -0.25  # world units outside the surface at which a field begins, as thin as exp(-1)
LAPLACE_BETA = 0.1  # at the beginning of training (VolSDF, appendix B)
TINY = 1e-20  # least squared distance: the root has no slope at 0


@dataclass(frozen=True)
class Triplane(TensorDataclass):
    """Features on three axis-aligned planes through the cube [-1, 1]^3.

    Attributes:
        planes: (..., 3, C, P, P).
        view_maps: Maps of the input views, which the decoder reads beside the planes; most networks have none.
    """

    planes: Tensor
    view_maps: ViewMaps | None = None

    def __post_init__(self) -> None:
        shape = self.planes.shape
        if len(shape) < 4 or shape[-4] != 3 or shape[-1] != shape[-2]:
            raise ValueError(f"a triplane needs planes of shape (..., 3, C, P, P), got {tuple(shape)}")

    def unbind(self) -> list[Triplane]:
        """Triplanes of the objects of a batch."""
        return [self[k] for k in range(len(self.planes))]


def scaled_sigmoid(raw: Tensor, alpha: Tensor | float) -> Tensor:
    """sigmoid(alpha x) / alpha, a sigmoid of slope 1/4 at 0 for every alpha, with range (0, 1 / alpha).

    The lower alpha, the later it saturates (arXiv 2311.08403, eq. 9); at 1 it is the plain sigmoid.
    """
    return torch.sigmoid(alpha * raw) / alpha


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and activations of a `Decoder`; a triplane's file holds them beside the decoder's tensors.

    Attributes:
        channels: Features of each plane.
        width: Width of the hidden layers.
        layers: Number of linear layers, the last one (to 4 numbers) included; at least 2.
        activation: Activation of the hidden layers.
        density: Density activation: softplus(raw + density_bias), or exp or `LaplaceDensity` instead of softplus.
        density_bias: Added to the raw density; -1 begins with haze for softplus and exp, -0.25 for "laplace", whose raw
            density is a length.
        rgb_margin: How far colours may leave [0, 1] on either side, so that pure black and white can be reached
            (mip-NeRF); "scaled" colours have none.
        aggregate: Input of the first layer: the three samples of a point concatenated, or their mean.
        blob: Raw density starts from blob * (1 - |x| / blob_radius), so that a new field is dense at the centre
            and empty at its border (DreamFusion, arXiv 2209.14988, appendix A.2).
        blob_radius: See `blob`.
        rgb: "sigmoid", or "scaled" for `scaled_sigmoid` by the buffer `alpha`, which training may move towards 1;
            such colours may exceed 1 and are not clamped before they are written to a file.
        view_channels: Channels of maps of the input views, whose mean and variance the first layer reads beside the
            planes (`ViewMaps`); 0 is no such input.
    """

    channels: int
    width: int = 64
    layers: int = 4
    activation: Literal["relu", "silu", "softplus"] = "relu"
    density: Literal["softplus", "exp", "laplace"] = "softplus"
    density_bias: float = -1.0
    rgb_margin: float = 0.001
    aggregate: Literal["concat", "mean"] = "concat"
    blob: float = 0.0
    blob_radius: float = 1.0
    rgb: Literal["sigmoid", "scaled"] = "sigmoid"
    view_channels: int = 0

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"a decoder needs at least 2 layers, got {self.layers}")
        if self.blob_radius <= 0:
            raise ValueError(f"a blob of density needs a radius above 0, got {self.blob_radius}")

    @classmethod
    def from_architecture(cls, architecture: Any) -> DecoderConfig:
        """The decoder of a network.

        Args:
            architecture: Settings of the network: fields of the same names (`width`, `layers` and `activation` with
                the prefix `decoder_`); what it has no field for keeps its default.
        """
        prefixed = {name: f"decoder_{name}" for name in ("width", "layers", "activation")}
        names = {field.name: prefixed.get(field.name, field.name) for field in fields(cls)}
        values = {name: getattr(architecture, other) for name, other in names.items() if hasattr(architecture, other)}
        if values.get("density") == "laplace":
            values.setdefault("density_bias", LAPLACE_BIAS)
        return cls(**values)

    @property
    def inputs(self) -> int:
        """Numbers that the first layer reads of a point."""
        return {"concat": 3, "mean": 1}[self.aggregate] * self.channels

    @property
    def tensors(self) -> int:
        """Tensors in the decoder's state: two of each layer, and one for each of three variants."""
        return 2 * self.layers + (self.rgb == "scaled") + (self.density == "laplace") + bool(self.view_channels)

    def as_dict(self) -> dict[str, Any]:
        """The arguments that build it again; of those that older files lack, only values other than the defaults."""
        rare = ("aggregate", "blob", "blob_radius", "rgb", "view_channels")
        usual = {name for name in rare if getattr(self, name) == getattr(DecoderConfig, name)}
        return {name: value for name, value in asdict(self).items() if name not in usual}


class LaplaceDensity(nn.Module):
    """Density of a signed distance with a trained sharpness (VolSDF, arXiv 2106.12052, eq. 2 and 3, alpha = 1 / beta).

    Density is the cumulative Laplace distribution of the distance inside the surface, divided by its scale beta:
    1 / beta inside, half of that on the surface, 0 outside. The smaller beta, the harder the surface.
    """

    def __init__(self, beta: float = LAPLACE_BETA) -> None:
        super().__init__()
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta)))

    def forward(self, inside: Tensor) -> Tensor:
        """Return the density (...) at distances (...) inside the surface, negative outside, in world units."""
        beta = self.log_beta.float().exp()
        tail = 0.5 * torch.exp(-inside.abs() / beta)
        return torch.where(inside > 0, 1 - tail, tail) / beta


class Decoder(nn.Module):
    """MLP from plane features to density and colour (LRM, arXiv 2311.04400, section 3.3)."""

    alpha: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.inputs, config.width)
        shown = 2 * config.view_channels
        self.from_views = nn.Linear(shown, config.width, bias=False) if shown else None
        self.hidden = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers - 2))
        self.last = nn.Linear(config.width, 4)
        activations: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "softplus": F.softplus}
        self.activation = activations[config.activation]
        densities: dict[str, Callable[[Tensor], Tensor]] = {"softplus": F.softplus, "exp": torch.exp}
        if config.density == "laplace":
            densities["laplace"] = LaplaceDensity()
        self.density_activation = densities[config.density]
        for layer in (self.first, *self.hidden, self.last):
            nn.init.zeros_(layer.bias)
        for layer in (self.first, *self.hidden):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        if self.from_views is not None:  # training starts from what the planes hold
            nn.init.zeros_(self.from_views.weight)
        if config.rgb == "scaled":
            self.register_buffer("alpha", torch.ones(()))

    def project(self, planes: Tensor) -> Tensor:
        """Apply the first layer's weights to planes (B, 3, C, P, P): (B, 3, width, P, P).

        Bilinear sampling is linear, so this is exact and moves the widest product out of the loop over points. The
        bias is added in `hidden_state`: outside the cube the planes are zero, the bias is not.
        """
        weight = self.first.weight
        if self.config.aggregate == "mean":
            weight = weight.repeat(1, 3) / 3
        weight = weight.unflatten(1, (3, self.config.channels))  # (width, 3, C)
        with torch.autocast(planes.device.type, enabled=False):  # sampling planes in bfloat16 would lose the position
            return torch.einsum("wkc,bkchv->bkwhv", weight, planes.to(weight.dtype))

    def hidden_state(self, projected: Tensor, points: Tensor, view_maps: ViewMaps | None = None) -> Tensor:
        """Return the last hidden layer's activations, (B, N, width)."""
        state = sample_planes(projected, points) + self.first.bias.to(projected.dtype)
        if self.from_views is not None and view_maps is not None:
            state = state + self.from_views(view_maps.sample(points).to(self.from_views.weight.dtype))
        state = self.activation(state)
        for layer in self.hidden:
            state = self.activation(layer(state))
        return state

    def with_blob(self, raw: Tensor, points: Tensor) -> Tensor:
        """Add the blob to the raw density (..., N) at points (..., N, 3)."""
        blob, radius = self.config.blob, self.config.blob_radius
        if not blob:
            return raw.float()
        x, y, z = points.unbind(-1)  # `norm` is fifty times as slow where coordinates come first in memory
        distance = (x * x + y * y + z * z).clamp(min=TINY).sqrt()
        return raw.float() + blob * (1 - distance / radius)

    def to_density(self, raw: Tensor, points: Tensor) -> Tensor:
        """Return the density (..., N) of raw values (..., N) at points (..., N, 3)."""
        return self.density_activation(self.with_blob(raw, points) + self.config.density_bias)

    def to_rgb(self, raw: Tensor) -> Tensor:
        """Return colours by the scaled sigmoid, or by the plain one widened by the margin."""
        if self.config.rgb == "scaled":
            return scaled_sigmoid(raw.float(), self.alpha)
        margin = self.config.rgb_margin
        return torch.sigmoid(raw.float()) * (1 + 2 * margin) - margin


class TriplaneField:
    """A `Field` decoded from a triplane; points have a batch dimension if the planes have one.

    Building it projects the planes once; reuse it while they do not change.
    """

    def __init__(self, triplane: Triplane, decoder: Decoder) -> None:
        planes = triplane.planes
        self.single = planes.dim() == 4
        self.decoder = decoder
        self.projected = decoder.project(planes[None] if self.single else planes)
        maps, expected = triplane.view_maps, decoder.config.view_channels
        found = 0 if maps is None else maps.channels
        if found != expected:
            raise ValueError(
                f"the decoder reads {expected} channels of the views, but the triplane has {found}; "
                "take both from one network"
            )
        self.view_maps = maps[None] if maps is not None and self.single else maps

    @property
    def device(self) -> torch.device:
        """Device of the field and its points."""
        return self.projected.device

    @functools.cached_property
    def fused(self) -> Fused | None:
        """The fused kernels for this field, or None if there are none."""
        from instant3d.nerf.fused import prepared

        return prepared(self)

    def density(self, points: Tensor) -> Tensor:
        """Return the density (..., N) at points (..., N, 3)."""
        if self.fused and self.fused.takes("points", 0, points):
            return self.fused.density(points)
        return self.decoder.to_density(self._raw(points, 1)[..., 0], points)

    def raw_density(self, points: Tensor) -> Tensor:
        """Return the density (..., N) before its activation, blob included; it varies where density is constant."""
        return self.decoder.with_blob(self._raw(points, 1)[..., 0], points)

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return density (..., N) and colour (..., N, 3) at points (..., N, 3)."""
        raw = self._raw(points, 4)
        return self.decoder.to_density(raw[..., 0], points), self.decoder.to_rgb(raw[..., 1:])

    def _raw(self, points: Tensor, outputs: int) -> Tensor:
        """Return the first of the decoder's outputs, (..., N, outputs)."""
        state = self.decoder.hidden_state(self.projected, points[None] if self.single else points, self.view_maps)
        last = self.decoder.last
        raw = F.linear(state, last.weight[:outputs].to(state.dtype), last.bias[:outputs].to(state.dtype))
        return raw[0] if self.single else raw
