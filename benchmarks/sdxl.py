"""The full-size SDXL on grids of 1024 px: counted work and memory, estimated seconds, and measured ones on a GPU.

    python -m benchmarks.sdxl                       count; estimate; measure where there is a CUDA device
    python -m benchmarks.sdxl --variants sdpa       measure this one alone

Counting needs no weights, no GPU and a few seconds. The same calls, on random weights in bfloat16, are then timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.weightless import Cost, cost
from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.sdxl import SIZES
from instant3d.modules.xformers_attention import with_xformers

Run = Callable[[], object]
STEPS = 30  # of Euler, the default of `instant3d generate`
UTILISATION = 0.4  # of the peak: what the A100 of docs/speed.md reaches with SDPA
# Dense bfloat16 TFLOP/s with float32 sums that NVIDIA's data sheets and architecture papers give
PEAKS = {"H100 SXM": 989, "H200": 989, "L40S": 362, "A100": 312, "RTX 4090": 165, "L4": 121, "RTX 3090": 71}
VARIANTS = ("sdpa", "compiled", "xformers")  # the last one changes the network, so it comes last
WARM_UP, ROUNDS, AT_A_TIME = 3, 5, 4


@contextmanager
def building(device: str | torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Networks that are made inside begin their life there, in this precision."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(usual)


def step(unet: Any, grids: int = 1, length: int = SIZES["text_encoder"]["max_position_embeddings"]) -> Run:
    """One guided step of denoising: each grid twice, with its prompt of `length` tokens and without, in one batch."""
    config, like = unet.config, {"device": unet.device, "dtype": unet.dtype}
    batch, side = 2 * grids, config.sample_size
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    latents = torch.zeros(batch, config.in_channels, side, side, **like)
    conditions = {"text_embeds": torch.zeros(batch, pooled, **like), "time_ids": torch.zeros(batch, 6, **like)}
    tokens = torch.zeros(batch, length, config.cross_attention_dim, **like)
    timestep = torch.tensor(500, device=unet.device)
    return lambda: unet(latents, timestep, tokens, added_cond_kwargs=conditions, return_dict=False)[0]


def decoding(vae: Any) -> Run:
    """Latents to one grid."""
    side = vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1)
    latents = torch.zeros(1, vae.config.latent_channels, side, side, device=vae.device, dtype=vae.dtype)
    return lambda: vae.decode(latents, return_dict=False)[0]


def encoding(vae: Any) -> Run:
    """The blob that sampling starts from to latents; done once, however many grids are sampled."""
    side = vae.config.sample_size
    image = torch.zeros(1, 3, side, side, device=vae.device, dtype=vae.dtype)
    return lambda: vae.encode(image).latent_dist.mode()


def reading(encoder: Any) -> Run:
    """One prompt; nothing is read for the half without one."""
    tokens = torch.zeros(1, encoder.config.max_position_embeddings, dtype=torch.long, device=encoder.device)
    return lambda: encoder(tokens, output_hidden_states=True)


def costs() -> dict[str, Cost]:
    """Of each pass that a grid takes, in bfloat16; of the VAE in float32 too, as it was released."""
    with building("meta", torch.bfloat16):
        made = {name: build_part(name, config) for name, config in SIZES.items() if name != "scheduler"}
    with building("meta", torch.float32):
        exact = build_part("vae", SIZES["vae"])
    unet, vae = made["unet"], made["vae"]
    return {
        "text encoder": cost(made["text_encoder"], reading(made["text_encoder"])),
        "text encoder 2": cost(made["text_encoder_2"], reading(made["text_encoder_2"])),
        "UNet, a guided step": cost(unet, step(unet)),
        "UNet, of four grids": cost(unet, step(unet, grids=4)),
        "VAE, encoding": cost(vae, encoding(vae)),
        "VAE, decoding": cost(vae, decoding(vae)),
        "VAE, in float32": cost(exact, decoding(exact)),
    }


def operations_of_a_grid(found: Mapping[str, Cost], steps: int) -> int:
    """From the prompt to one image of four views."""
    once = ("text encoder", "text encoder 2", "VAE, encoding", "VAE, decoding")
    return steps * found["UNet, a guided step"].operations + sum(found[name].operations for name in once)


def counted(found: Mapping[str, Cost]) -> Iterator[str]:
    yield "Counted: SDXL, one grid of 1024 px, bfloat16. TFLOP = 10^12 operations, two for each product and sum."
    yield f"{'':22}{'TFLOP':>8}{'linear':>9}{'conv.':>7}{'att.':>6}{'weights GiB':>13}{'activations GiB':>17}"
    for name, row in found.items():
        shares = [f"{100 * row.shares[kind]:.0f} %" for kind in ("linear", "convolution", "attention")]
        numbers = f"{row.operations / 1e12:8.2f}{shares[0]:>9}{shares[1]:>7}{shares[2]:>6}"
        yield f"{name:22}{numbers}{row.weights / 2**30:13.2f}{row.activations / 2**30:17.2f}"
    parts = ("text encoder", "text encoder 2", "UNet, a guided step", "VAE, decoding")
    weights = sum(found[name].weights for name in parts)
    most = max(found[name].activations for name in parts)
    yield (
        f"All weights {weights / 2**30:.2f} GiB; with the largest activations {(weights + most) / 2**30:.2f} GiB, "
        "without the working space of kernels."
    )


def estimated(found: Mapping[str, Cost], utilisation: float, steps: int) -> Iterator[str]:
    yield (
        f"ESTIMATED, not measured: TFLOP over {utilisation:.0%} of the published dense bfloat16 peak; "
        f"a grid takes {steps} steps."
    )
    yield f"{'':12}{'peak TFLOP/s':>13}{'s a step':>10}{'s a grid':>10}"
    for name, peak in PEAKS.items():
        speed = utilisation * peak * 1e12
        a_step, a_grid = found["UNet, a guided step"].operations / speed, operations_of_a_grid(found, steps) / speed
        yield f"{name:12}{peak:13}{a_step:10.3f}{a_grid:10.1f}"


def seconds(run: Run, device: torch.device, *, rounds: int = ROUNDS, at_a_time: int = AT_A_TIME) -> list[float]:
    """For one run each, on the clock; the first runs, which choose kernels or compile, do not count."""
    for _ in range(WARM_UP):
        run()
    found = []
    for _ in range(rounds):
        _finish(device)
        start = time.perf_counter()
        for _ in range(at_a_time):
            run()
        _finish(device)
        found.append((time.perf_counter() - start) / at_a_time)
    return found


@torch.inference_mode()
def measured(
    found: Mapping[str, Cost], variants: Sequence[str], device: torch.device, sizes: Mapping[str, Any] = SIZES
) -> Iterator[str]:
    """One line for each variant of a step, and for the VAE."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield f"MEASURED on {name}: bfloat16, random weights, torch {torch.__version__}."
    yield f"{'':22}{'best s':>9}{'median s':>10}{'TFLOP/s':>9}{'peak GiB':>10}"
    with building(device, torch.bfloat16):
        unet, vae = (build_part(part, sizes[part]).requires_grad_(False) for part in ("unet", "vae"))
    for each in variants:
        try:
            run = step(variant(unet, each))
        except ValueError as error:
            yield f"{f'step, {each}':22}  {error}"
            continue
        yield _line(f"step, {each}", run, found["UNet, a guided step"], device)
    yield _line("VAE, decoding", decoding(vae), found["VAE, decoding"], device)


def variant(unet: Any, name: str) -> Any:
    """The same UNet by another kind of attention or compiled; diffusers uses PyTorch's attention by itself."""
    if name == "xformers":
        return with_xformers(unet)
    return torch.compile(unet) if name == "compiled" else unet


def _line(name: str, run: Run, counted: Cost, device: torch.device) -> str:
    """Its peak of memory is with all networks that are on the GPU; a CPU has none to tell."""
    on_gpu, peak = device.type == "cuda", ""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    found = seconds(run, device)
    if on_gpu:
        peak = f"{torch.cuda.max_memory_allocated(device) / 2**30:10.2f}"
    best = min(found)
    return f"{name:22}{best:9.4f}{statistics.median(found):10.4f}{counted.operations / best / 1e12:9.1f}{peak}"


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(utilisation: float, steps: int, variants: Sequence[str]) -> Iterator[str]:
    found = costs()
    yield from counted(found)
    yield ""
    yield from estimated(found, utilisation, steps)
    yield ""
    if torch.cuda.is_available():
        yield from measured(found, variants, torch.device("cuda"))
    else:
        yield "Nothing measured: there is no CUDA device here."


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--utilisation", type=float, default=UTILISATION, help="share of the peak (default %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of denoising (default %(default)s)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="to measure (default all)")
    options = parser.parse_args()
    if not 0 < options.utilisation <= 1 or options.steps < 1:
        parser.error("--utilisation is a share above 0 and at most 1, and --steps at least 1")
    chosen = tuple(name for name in VARIANTS if name in options.variants)
    warnings.simplefilter("ignore", UserWarning)  # of the compiler, about what it found in diffusers
    try:
        for line in report(options.utilisation, options.steps, chosen):
            print(line, flush=True)
    except torch.OutOfMemoryError as error:
        print(f"the GPU's memory is too small for this measurement: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
