"""A forward pass of the paper's network on this machine's CPU: `python -m benchmarks.paper`.

Four views of 512 px through 378.5 M random weights in bfloat16: seconds (best of three after one), the growth of
resident memory over the weights, and the operations that the pass needs, counted by torch.
"""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed import forget_peak, peak
from instant3d.cameras import structured_cameras
from instant3d.stage2.network import Reconstructor
from instant3d.views import Views


def main() -> None:
    torch.manual_seed(0)
    network = Reconstructor().to(torch.bfloat16).eval().requires_grad_(False)
    count = sum(parameter.numel() for parameter in network.parameters())
    views = some_views(network.image_size)
    forget_peak()
    before = peak()
    seconds = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(4):
            start = time.perf_counter()
            network.triplane(views)
            seconds.append(time.perf_counter() - start)
    memory, best, work = peak() - before, min(seconds[1:]), operations() / 1e12
    print(
        f"{count / 1e6:.1f} M parameters, {torch.get_num_threads()} threads, bfloat16: {best:.2f} s, "
        f"{memory / 1024:.2f} GiB beside {2 * count / 2**30:.2f} GiB of weights, "
        f"{work:.2f} TFLOP ({work / best:.2f} TFLOP/s)"
    )


def some_views(size: int) -> Views:
    return Views(torch.rand(4, 3, size, size), torch.ones(4, 1, size, size), structured_cameras())[None]


def operations() -> int:
    """Floating-point operations of one pass, two for each product and sum, without computing it."""
    with torch.device("meta"):
        network = Reconstructor()
    views = some_views(network.image_size).to("meta")
    with FlopCounterMode(display=False) as counter:
        network.triplane(views)
    return int(counter.get_total_flops())


if __name__ == "__main__":
    main()
