"""A tiny `Reconstructor` whose weights are set by hand: whatever it is shown, it answers one coloured sphere.

Density is high where r^2 < RADIUS^2 and colour is sigmoid(4 x), sigmoid(4 y), sigmoid(4 z): a closed form for what
the pipeline renders, meshes, saves and loads.
"""

import torch

from instant3d.stage2.network import Architecture, Reconstructor

RADIUS = 0.6
SHARPNESS = 2000.0

SPHERE = Architecture(
    image_size=32,
    encoder="plucker",
    encoder_width=16,
    encoder_depth=0,
    encoder_heads=1,
    patch=8,
    width=16,
    depth=0,
    heads=1,
    token_side=16,
    plane_side=16,
    channels=4,
    decoder_width=8,
    decoder_layers=2,
)


def sphere_network() -> Reconstructor:
    network = Reconstructor(SPHERE).eval().requires_grad_(False)
    network.tokens.copy_(tokens(plane_features(SPHERE.token_side)))
    network.upsample.weight.zero_()
    network.upsample.bias.zero_()
    for channel in range(4):
        network.upsample.weight[2 * channel, channel] = 2**0.5
    set_decoder(network.decoder)
    return network


def plane_features(side: int) -> torch.Tensor:
    """Per plane and cell [height, width], channels that sum over the planes to 1 - r^2, x, y, z: (3, side, side, 4)."""
    line = (torch.arange(side) + 0.5) * (2 / side) - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    zero = torch.zeros_like(across)
    xy = torch.stack([1 - across**2 - down**2, across, down, zero], dim=-1)
    xz = torch.stack([-(down**2), zero, zero, down], dim=-1)
    return torch.stack([xy, xz, torch.zeros_like(xy)])


def tokens(features: torch.Tensor) -> torch.Tensor:
    """Tokens (1, N, 16) that a layer norm merely divides by sqrt 2: each number beside its negative, one pair to fill
    the squares up to 16."""
    flat = features.flatten(0, 2)
    filled = torch.cat([flat, (16 - flat.square().sum(-1, keepdim=True)).sqrt()], dim=-1)
    pairs = torch.stack([filled, -filled], dim=-1).flatten(-2)
    return torch.nn.functional.pad(pairs, (0, 6))[None]


def set_decoder(decoder: torch.nn.Module) -> None:
    for layer in (decoder.first, decoder.last):
        layer.weight.zero_()
        layer.bias.zero_()
    for channel in range(4):
        decoder.first.weight[channel, channel::4] = 1.0  # the same channel of all three planes
    decoder.first.bias[1:4] = 1.0  # coordinates, above zero for the sake of relu
    decoder.last.weight[0, 0], decoder.last.bias[0] = SHARPNESS, -SHARPNESS * (1 - RADIUS**2)
    for channel in (1, 2, 3):
        decoder.last.weight[channel, channel], decoder.last.bias[channel] = 4.0, -4.0
