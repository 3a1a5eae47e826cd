"""GPU resources of the fused renderer's kernels: `python -m benchmarks.kernels`, which needs no GPU.

Compiles every kernel for Hopper as it would be launched, and prints shared memory (at most 227 KiB), registers (at most
255 a thread) and spilled bytes of each thread.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import CHECKED
from instant3d.nerf import fused

MODES: dict[str, tuple[fused.Mode, ...]] = {
    "forward": ("pixels", "weights", "points"),
    "backward": ("pixels", "points"),
}
PRODUCTS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
HEADINGS = ("decoder", "mode", "pass", "products", "shared memory", "registers", "spilled", "block x warps")


def main(arguments: Sequence[str] | None = None) -> None:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CHECKED), nargs="+", default=list(CHECKED))
    parser.add_argument("--product", choices=list(PRODUCTS), nargs="+", default=list(PRODUCTS))
    parser.add_argument("--mode", choices=MODES["forward"], nargs="+", default=MODES["forward"])
    options = parser.parse_args(arguments)
    print("| " + " | ".join(HEADINGS) + " |\n" + "|---" * len(HEADINGS) + "|")
    for decoder, product, direction in itertools.product(options.only, options.product, MODES):
        for mode in (mode for mode in MODES[direction] if mode in options.mode):
            shared, registers, spilled, launch = compiled(direction, mode, CHECKED[decoder], PRODUCTS[product])
            size = f"{launch.block} x {launch.warps}"
            cells = (decoder, mode, direction, product, shared, registers, spilled, size)
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compiled(
    direction: str, mode: fused.Mode, setup: fused.Setup, product: torch.dtype
) -> tuple[int, int, int, fused.Launch]:
    """Bytes of shared memory, registers and spilled bytes of a thread, and how the kernel is launched."""
    import triton
    from triton.backends.compiler import GPUTarget

    from instant3d.nerf import fused_kernels

    kernel, launch = getattr(fused_kernels, direction), fused.launch_of(direction, setup, product)
    constants = setup.constants(mode, fused.POINT_STEPS if mode == "points" else 64, 64, product)
    constants["BLOCK"] = launch.block
    signature = dict(types(kernel.arg_names, constants, direction, product))
    aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind[0] == "*"}
    source = triton.compiler.ASTSource(kernel, signature, constants, aligned)
    done = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
    return done.metadata.shared, *assembled(done.asm["ptx"]), launch


def types(
    names: Sequence[str], constants: dict[str, Any], direction: str, product: torch.dtype
) -> Iterator[tuple[str, str]]:
    short = direction == "forward" and product == torch.bfloat16 and fused.SHORT_PLANES
    for name in names:
        if name in constants:
            yield name, "constexpr"
        elif name == "count":
            yield name, "i32"
        else:
            yield name, "*bf16" if short and name == "planes" else "*fp32"


def assembled(ptx: str) -> tuple[int, int]:
    """Registers and spilled bytes of a thread."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        command = [assembler, "-v", "-arch=sm_90a", file, "-o", Path(folder, "kernel.cubin")]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (spilled,) = re.findall(r"(\d+) bytes spill stores", report)
    (registers,) = re.findall(r"Used (\d+) registers", report)
    return int(registers), int(spilled)


if __name__ == "__main__":
    main()
