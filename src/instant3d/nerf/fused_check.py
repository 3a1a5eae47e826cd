"""Self-check of the fused kernels against the plain path, run before `auto` uses them."""

from __future__ import annotations

import functools
import subprocess
import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.cameras import Rays
from instant3d.nerf import volume
from instant3d.nerf.fused import Choice, Mode, Setup, using
from instant3d.nerf.ray_sampling import box_span, even_edges
from instant3d.nerf.triplane import Triplane, TriplaneField

TOLERANCES = {torch.bfloat16: 0.15, torch.float32: 5e-3}  # shares of the norm; an H200 gave up to 0.062 in bfloat16


@functools.cache
def passes(setup: Setup, mode: Mode, steps: int, side: int, product: torch.dtype, device: torch.device) -> bool:
    """Whether a kernel compiles and agrees with the plain path, forward and backward; warns if not.

    Args:
        setup: The decoder's parameters.
        mode: What the kernel computes.
        steps: Samples on each ray; of no effect for "points".
        side: Texels along each side of a plane.
        product: Type of the products' operands; its tolerance is in `TOLERANCES`.
        device: Where it runs.
    """
    from triton.errors import TritonError

    try:
        error = self_check(setup, mode, steps, side, product, device)
    except (TritonError, RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as failure:
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
    else:
        if error <= TOLERANCES[product]:
            return True
        reason = f"it differs from the plain path by {error:.2g} of its norm"
    warnings.warn(f"the fused renderer is not used for {mode}: {reason}; the plain renderer is used", stacklevel=2)
    return False


def self_check(
    setup: Setup, mode: Mode, steps: int, side: int, product: torch.dtype, device: torch.device, rays: int = 200
) -> float:
    """Compare a kernel with the plain path on random planes and rays.

    Args:
        setup: The decoder's parameters.
        mode: What the kernel computes.
        steps: Samples on each ray; of no effect for "points".
        side: Texels along each side of a plane.
        product: Type of the products' operands; autocast is on for bfloat16.
        device: Where both run.
        rays: Rays or points of each of two objects.

    Returns:
        The largest relative difference (of norms) among results and gradients; NaN if one of them is NaN.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(0)
        decoder = setup.decoder().to(device)
        planes = torch.randn(2, 3, 4, side, side, device=device, requires_grad=True)
        points = 2.2 * torch.rand(2, rays, 3, device=device) - 1.1
        origins = F.normalize(torch.randn(2, rays, 3, device=device), dim=-1) * 2.5
        results = []
        runs: tuple[tuple[Choice, bool], ...] = (("never", False), ("always", product == torch.bfloat16))
        for choice, autocast in runs:
            with using(choice), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                results.append(_results(TriplaneField(Triplane(planes), decoder), mode, steps, origins, points))
    shares = [(ours - plain).norm() / plain.norm().clamp(min=1e-12) for plain, ours in zip(*results, strict=True)]
    return float(torch.stack(shares).max())  # NaN if one of them is NaN


def _results(field: TriplaneField, mode: Mode, steps: int, origins: Tensor, points: Tensor) -> list[Tensor]:
    """Return the outputs of one kind of call, and the gradients of a weighted sum of them."""
    rays = Rays(origins, F.normalize(points - origins, dim=-1))
    edges = even_edges(*box_span(rays), steps)
    at = (edges[..., 1:] + edges[..., :-1]) / 2
    if mode == "weights":
        with torch.no_grad():
            return [volume.interval_weights(field, rays, edges, at)]
    if mode == "points":
        outputs = [field.density(points)]
    else:
        pixels = volume.blended(field, rays, edges, at)
        outputs = [pixels.rgb, pixels.alpha, pixels.distance]
    loss = torch.zeros((), device=origins.device)
    for output in outputs:
        loss = loss + (output * torch.linspace(0.5, 1.5, output.numel(), device=output.device).view_as(output)).sum()
    wanted = [field.projected, *field.decoder.parameters()]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [output.detach() for output in outputs] + [gradient for gradient in gradients if gradient is not None]
