"""Sampling of stage 1 at full size, plain and compiled, and text to a textured GLB: section `sample` of benchmarks.gpu.

Weights are random, as the time does not depend on them, except that of the mesh: a random field has more surface than
an object's.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.sdxl import building
from instant3d.modules.diffusion.components import NETWORKS, Components
from instant3d.modules.diffusion.sdxl import SIZES
from instant3d.modules.diffusion.tiny_models import train_tokenizer
from instant3d.pipelines.text_to_3d import Sampling, TextTo3D, ViewsTo3D, stage1_dtype
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.network import Reconstructor

PROMPT = "a red fire hydrant"
SAMPLINGS = {"30 steps": Sampling(30, 5.0, sampler="euler"), "8 steps": Sampling(8, 5.0, sampler="dpm++")}
SMALL_SIZES: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 8, "block_out_channels": [32, 64, 64], "attention_head_dim": [2, 4, 4]}
    | {"layers_per_block": 1, "transformer_layers_per_block": [1, 1, 1], "cross_attention_dim": 64}
    | {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 32},
    "vae": {"sample_size": 64, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    **{
        name: {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 32}
        | {"num_hidden_layers": 2, "num_attention_heads": 2}
        for name in ("text_encoder", "text_encoder_2")
    },
}
SMALL = Architecture(
    image_size=32,
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    width=32,
    depth=1,
    heads=2,
    token_side=4,
    plane_side=16,
    channels=8,
    decoder_width=16,
    decoder_layers=2,
)


def rows(quick: bool, device: torch.device) -> Iterator[str]:
    """Seconds of each sampling, and from the prompt to the file, with the UNet as it is and compiled."""
    with tempfile.TemporaryDirectory() as folder:
        plain, network = components(quick, device, Path(folder)), stage2(quick)
        for compiled in (False, True):
            model = TextTo3D(copy.copy(plain), ViewsTo3D(network), device=device, at_once=1, torch_compile=compiled)
            kind = "compiled" if compiled else "plain"
            text, away = model.encode([PROMPT])
            for name, sampling in SAMPLINGS.items():

                def denoise(model: TextTo3D = model, sampling: Sampling = sampling, text: Any = (text, away)) -> Any:
                    return model.denoise(*text, [0], sampling=sampling)

                first, rest = seconds(denoise, device, 1 if quick else 3)
                yield f"one grid, {name} of {sampling.sampler}, {kind}: {rest:.3f} s; the first {first:.1f} s"
            first, rest = seconds(lambda model=model: to_glb(model, Path(folder)), device, 1 if quick else 3)  # type: ignore[misc]
            yield f"text to textured GLB, 8 steps, {kind}: {rest:.3f} s"


def components(quick: bool, device: torch.device, folder: Path) -> Components:
    """SDXL with random weights, in the precision of `generate`."""
    train_tokenizer([PROMPT], folder, size=600)
    sizes = {name: {**config, **(SMALL_SIZES.get(name, {}) if quick else {})} for name, config in SIZES.items()}
    with building(device, stage1_dtype(device)):
        made = Components.build(sizes, folder)
    for name in NETWORKS:
        getattr(made, name).requires_grad_(False)
    return made


def stage2(quick: bool) -> Reconstructor:
    """The reconstructor of the paper's size."""
    return Reconstructor(SMALL if quick else Architecture()).eval().requires_grad_(False)


def to_glb(model: TextTo3D, folder: Path) -> None:
    """From the prompt to a textured mesh on the disk."""
    model(PROMPT, sampling=SAMPLINGS["8 steps"]).save(folder / "out")


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and the median of the next `rounds`."""
    taken = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return taken[0], statistics.median(taken[1:])
