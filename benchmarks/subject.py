"""The object of all benchmarks: a triplane and decoder fitted to a coloured solid that has a formula.

`fitted()` takes half a minute once (a few hundred steps of regression, the same on every run) and is then read from
a cache beside this file.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField

CACHE = Path(__file__).parent / ".cache" / "subject.safetensors"
CHANNELS, SIDE, WIDTH, LAYERS = 80, 64, 64, 4
SOLID, SOFTNESS = 100.0, 0.008  # density inside, and the length over which it falls off at the surface


def distance(points: Tensor) -> Tensor:
    """Signed distance (N) to a lying ring, a tilted slab, a ball and a thin mast: no two axes alike."""
    x, y, z = points.unbind(-1)
    ring = torch.hypot(torch.hypot(x, y) - 0.5, z + 0.35) - 0.16
    ball = torch.linalg.vector_norm(points - points.new_tensor([0.22, -0.1, 0.12]), dim=-1) - 0.26
    u, v = 0.8 * x + 0.6 * z, -0.6 * x + 0.8 * z
    outside = torch.stack([(u + 0.25).abs() - 0.3, (y - 0.2).abs() - 0.14, (v - 0.1).abs() - 0.22], -1)
    slab = outside.clamp(min=0).norm(dim=-1) + outside.amax(-1).clamp(max=0)
    mast = torch.maximum(torch.hypot(x - 0.22, y + 0.1) - 0.04, (z - 0.5).abs() - 0.28)
    return torch.stack([ring, ball, slab, mast]).amin(0)


def density(points: Tensor) -> Tensor:
    return SOLID * torch.sigmoid(-distance(points) / SOFTNESS)


def color(points: Tensor) -> Tensor:
    """Stripes and gradients (N, 3) that tell left from right."""
    x, y, z = points.unbind(-1)
    return torch.stack([0.5 + 0.45 * torch.sin(9 * x + 2 * y), 0.5 + 0.4 * y, 0.5 + 0.4 * torch.cos(7 * z)], -1)


def fitted() -> tuple[Triplane, Decoder]:
    """The weights, fitted now or read from the cache."""
    decoder = Decoder(DecoderConfig(CHANNELS, WIDTH, LAYERS))
    if not CACHE.exists():
        weights = _fit(decoder)
        CACHE.parent.mkdir(exist_ok=True)
        save_file(weights, CACHE)
    weights = load_file(CACHE)
    triplane = Triplane(weights.pop("planes"))
    decoder.load_state_dict(weights)
    return triplane, decoder.requires_grad_(False)


def _fit(decoder: Decoder, steps: int = 500, points: int = 12_000) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (decoder.first, *decoder.hidden, decoder.last):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=chance) * layer.in_features**-0.5)
    planes = (0.3 * torch.randn(3, CHANNELS, SIDE, SIDE, generator=chance)).requires_grad_(True)
    groups = [{"params": [planes], "lr": 2e-2}, {"params": list(decoder.parameters()), "lr": 5e-3}]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        at = _places(points, chance)
        guess, rgb = TriplaneField(Triplane(planes), decoder)(at)
        truth = density(at)
        loss = sum(F.mse_loss(torch.exp(-guess * length), torch.exp(-truth * length)) for length in (0.01, 0.1, 1.0))
        near = (truth > 1) & (truth < SOLID - 1)
        loss = loss + 0.3 * F.mse_loss(rgb[near], color(at[near]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {"planes": planes.detach(), **{name: value.detach() for name, value in decoder.state_dict().items()}}


def _places(count: int, chance: torch.Generator) -> Tensor:
    """Half of the points anywhere in the cube, half moved towards the surface."""
    points = 2 * torch.rand(count, 3, generator=chance) - 1
    close = points[: count // 2].requires_grad_(True)
    away = distance(close)
    (slope,) = torch.autograd.grad(away.sum(), close)
    scatter = 0.02 * torch.randn(len(close), 1, generator=chance)
    close = (close - (away[:, None] + scatter) * slope).detach().clamp(-1, 1)
    return torch.cat([points[count // 2 :].detach(), close])
