"""Fused GPU ray marching of a projected triplane: selection and launch of the Triton kernels.

Optional: needs Triton. `TriplaneField.fused` offers it; `march` and `TriplaneField.density` use it where it is
available and its self-check, run once for every kind of call, agrees with the plain path.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.cameras import Rays
from instant3d.nerf.triplane import Decoder, DecoderConfig, TriplaneField

Mode = Literal["pixels", "weights", "points"]
Choice = Literal["auto", "never", "always"]

NAMES = {F.relu: "relu", F.silu: "silu", F.softplus: "softplus", torch.exp: "exp"}
COLUMNS = 16  # outputs of the last layer: 4, padded to the least size of a product
POINT_STEPS = 8  # blocks of points per program
WIDEST, DEEPEST = 128, 16  # decoders that fit a processor's registers and shared memory
DEEP = 4  # hidden layers from which the backward pass must take fewer rows, as it must with float32


@dataclass(frozen=True)
class Launch:
    """Launch parameters of a kernel.

    Attributes:
        block: Rows of a block.
        warps: Warps per program.
        registers: Most registers per thread; None for no limit.
    """

    block: int = 64
    warps: int = 4
    registers: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Triton's launch options, apart from the kernel's own arguments."""
        return {"num_warps": self.warps, "num_stages": 1} | ({"maxnreg": self.registers} if self.registers else {})


LAUNCHES = {"forward": Launch(128), "backward": Launch(warps=8), "tight backward": Launch(32, 8)}
SHORT_PLANES = True  # the forward pass reads texels in bfloat16 where products are; the backward pass the same numbers

_choice: list[Choice] = ["auto"]


@contextlib.contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Use the fused path "never", "always" (unchecked, on any device), or where it is available and correct."""
    _choice.append(choice)
    try:
        yield
    finally:
        _choice.pop()


@dataclass(frozen=True)
class Setup:
    """Compile-time parameters of the kernels, except the numbers of samples and texels; fields as in `Decoder`."""

    width: int
    layers: int
    activation: str
    density: str
    density_bias: float
    blob: float
    blob_radius: float
    scaled: bool
    rgb_margin: float

    @classmethod
    def of(cls, decoder: Decoder) -> Setup | None:
        """Return the parameters for a decoder, or None if there is no kernel for it."""
        activation, density = NAMES.get(decoder.activation), NAMES.get(decoder.density_activation)
        config = decoder.config
        width, layers = config.width, len(decoder.hidden)
        if activation is None or density is None or config.view_channels or width > WIDEST or layers > DEEPEST:
            return None
        return cls(
            width,
            layers,
            activation,
            density,
            config.density_bias,
            config.blob,
            config.blob_radius,
            config.rgb == "scaled",
            config.rgb_margin,
        )

    @property
    def padded(self) -> int:
        """The width, padded to a size that matrix products accept."""
        return max(16, 1 << (self.width - 1).bit_length())

    def decoder(self) -> Decoder:
        """Build a decoder with these parameters."""
        return Decoder(
            DecoderConfig(
                4,
                self.width,
                self.layers + 2,
                activation=self.activation,  # type: ignore[arg-type]
                density=self.density,  # type: ignore[arg-type]
                density_bias=self.density_bias,
                rgb_margin=self.rgb_margin,
                blob=self.blob,
                blob_radius=self.blob_radius,
                rgb="scaled" if self.scaled else "sigmoid",
            )
        )

    def constants(self, mode: Mode, steps: int, side: int, product: torch.dtype) -> dict[str, Any]:
        """Return the kernels' compile-time arguments.

        Args:
            mode: What the kernel computes.
            steps: Samples on each ray, or blocks of points per program.
            side: Texels along each side of a plane.
            product: Type of the products' operands: bfloat16, float32 or float64.

        Returns:
            Values of the arguments in capitals, by name, except BLOCK.
        """
        import triton.language as tl

        types = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}
        return {
            "MODE": mode,
            "STEPS": steps,
            "SIDE": side,
            "WIDTH": self.padded,
            "LAYERS": self.layers,
            "KIND": self.activation,
            "DENSITY": self.density,
            "BIAS": self.density_bias,
            "BLOB": self.blob,
            "RADIUS": self.blob_radius,
            "SCALED": self.scaled,
            "MARGIN": self.rgb_margin,
            "PRODUCT": types[product],
            "SUM": tl.float64 if product == torch.float64 else tl.float32,
            "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        }


class Fused:
    """A triplane field in the kernels' layout: planes of projected features, channels last, and stacked layers."""

    def __init__(self, setup: Setup, projected: Tensor, decoder: Decoder) -> None:
        pad = setup.padded - setup.width
        self.setup, self.dtype, self.side = setup, projected.dtype, projected.shape[-1]
        hidden = [cast(nn.Linear, layer) for layer in decoder.hidden]
        empty = projected.new_zeros(0)
        self.tensors = (
            F.pad(projected.permute(0, 1, 3, 4, 2), (0, pad)).contiguous(),
            F.pad(decoder.first.bias, (0, pad)),
            torch.stack([F.pad(layer.weight, (0, pad, 0, pad)) for layer in hidden]) if hidden else empty,
            torch.stack([F.pad(layer.bias, (0, pad)) for layer in hidden]) if hidden else empty,
            F.pad(decoder.last.weight, (0, pad, 0, COLUMNS - 4)),
            F.pad(decoder.last.bias, (0, COLUMNS - 4)),
        )
        self.alpha = decoder.alpha if setup.scaled else projected.new_ones(())

    @property
    def product(self) -> torch.dtype:
        """Number format of the products' operands: autocast's, or the planes' own."""
        device = self.tensors[0].device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

    def takes(self, mode: Mode, steps: int, *inputs: Tensor) -> bool:
        """Whether the kernels can replace the plain path for this call."""
        choice = _choice[-1]
        if choice == "never" or any(tensor.requires_grad for tensor in inputs):
            return False
        if choice == "always":
            return True
        from instant3d.nerf.fused_check import passes

        device, product = self.tensors[0].device, self.product
        if product not in (torch.bfloat16, torch.float32) or torch.are_deterministic_algorithms_enabled():
            return False
        return available(device) and passes(self.setup, mode, steps, self.side, product, device)

    def pixels(self, rays: Rays, edges: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Render rays.

        Args:
            rays: (..., R).
            edges: Interval boundaries (..., R, S + 1).
            at: Sample distances (..., R, S).

        Returns:
            rgb (..., R, 3), alpha and distance (..., R).
        """
        out = self._run("pixels", at.shape[-1], rays.origins, rays.directions, edges, at)
        alpha, rgb, moment = out.split([1, 3, 1], dim=-1)
        return rgb, alpha[..., 0], (moment / alpha.clamp(min=1e-6))[..., 0]

    def weights(self, rays: Rays, edges: Tensor, at: Tensor) -> Tensor:
        """Return each interval's rendering weight, without gradient.

        Args:
            rays: (..., R).
            edges: Interval boundaries (..., R, S + 1).
            at: Sample distances (..., R, S).

        Returns:
            (..., R, S).
        """
        with torch.no_grad():
            return self._run("weights", at.shape[-1], rays.origins, rays.directions, edges, at)

    def density(self, points: Tensor) -> Tensor:
        """Return the density (..., N) at points (..., N, 3)."""
        return self._run("points", POINT_STEPS, points, points, points, points)

    def _run(self, mode: Mode, steps: int, *inputs: Tensor) -> Tensor:
        product = self.product
        exact = torch.float64 if product == torch.float64 else torch.float32
        batch = len(self.tensors[0])
        ready = [tensor.detach().to(exact).reshape(batch, -1, tensor.shape[-1]).contiguous() for tensor in inputs]
        out = _Pass.apply(self.setup, mode, steps, product, self.alpha.to(exact), *ready, *self.tensors)
        lead = inputs[-1].shape[:-1]
        return out.reshape(*lead, *out.shape[2:])


class _Pass(torch.autograd.Function):
    """One kernel over all rays or points, and the kernel of its gradient."""

    @staticmethod
    def forward(ctx: Any, setup: Setup, mode: Mode, steps: int, product: torch.dtype, *given: Tensor) -> Tensor:
        alpha, origins, directions, edges, at, planes, *layers = given
        batch, count = origins.shape[:2]
        shape = {"pixels": (5,), "weights": (steps,), "points": ()}[mode]
        out = origins.new_zeros(batch, count, *shape)
        short = SHORT_PLANES and product == torch.bfloat16
        ready = [planes.to(product) if short else planes, *(layer.to(origins.dtype).contiguous() for layer in layers)]
        ctx.given = setup, mode, steps, product
        ctx.save_for_backward(alpha, origins, directions, edges, at, out, *ready)
        ctx.dtypes = [tensor.dtype for tensor in (planes, *layers)]
        _launch("forward", ctx.given, [*ready, alpha, origins, directions, edges, at, out])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        alpha, origins, directions, edges, at, out, *ready = ctx.saved_tensors
        ready[0] = ready[0].to(origins.dtype)  # reading in one layout and adding in another would cost conversions
        sums = [torch.zeros_like(tensor) for tensor in ready]
        inputs = [*ready, alpha, origins, directions, edges, at, out, gradient.to(origins.dtype).contiguous()]
        _launch("backward", ctx.given, [*inputs, *sums])
        return (*[None] * 9, *(total.to(dtype) for total, dtype in zip(sums, ctx.dtypes, strict=True)))


def launch_of(name: str, setup: Setup, product: torch.dtype) -> Launch:
    """Return the launch parameters of a kernel for a decoder.

    Args:
        name: "forward" or "backward".
        setup: The decoder's parameters.
        product: Type of the products' operands.

    Returns:
        Fewer rows for a backward kernel of many layers or in float32.
    """
    tight = name == "backward" and (setup.layers >= DEEP or product == torch.float32)
    return LAUNCHES["tight backward" if tight else name]


def _launch(name: Literal["forward", "backward"], given: tuple[Any, ...], tensors: list[Tensor]) -> None:
    from instant3d.nerf import fused_kernels

    setup, mode, steps, product = given
    planes, origins = tensors[0], tensors[7]
    batch, count = origins.shape[:2]
    if not batch * count:
        return
    how = launch_of(name, setup, product)
    rows = how.block * (steps if mode == "points" else 1)
    constants = setup.constants(mode, steps, planes.shape[2], product)
    kernel, grid = getattr(fused_kernels, name), (-(-count // rows), batch)
    if name == "backward":
        tensors = [*tensors, origins.new_empty(grid[0] * batch * how.block * setup.padded)]
    with torch.cuda.device(planes.device) if planes.is_cuda else contextlib.nullcontext():
        kernel[grid](*tensors, count, **constants, BLOCK=how.block, **how.options)


def prepared(field: TriplaneField) -> Fused | None:
    """Return a field in the kernels' layout, or None if they cannot run."""
    setup = Setup.of(field.decoder)
    if setup is None or not (_choice[-1] == "always" or available(field.projected.device)):
        return None
    with torch.set_grad_enabled(field.projected.requires_grad), torch.autocast(field.device.type, enabled=False):
        return Fused(setup, field.projected, field.decoder)


@functools.cache
def available(device: torch.device) -> bool:
    """Whether Triton is installed and the device is a GPU that multiplies bfloat16."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
