"""Instant3D's first stage as GRM's authors released it (`instant3d.pth`): an SDXL for grids of four views."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.checkpoint_source import NETWORKS, SDXL
from instant3d.modules.diffusion.components import Components, build_part
from instant3d.modules.diffusion.loading import load_tokenizer
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.pipelines.convert.family import Shapes
from instant3d.pipelines.convert.sgm_rules import sdxl_rules
from instant3d.pipelines.convert.sgm_sizes import TEXT, TEXT_2, sdxl_sizes
from instant3d.pipelines.convert.source import read_source
from instant3d.pipelines.convert.view_generator import GeneratorConversion, ViewGenerator, compare, fill
from instant3d.utils.hub import snapshot

LICENCE = """\
These weights were converted from `instant3d.pth`, GRM's reproduction of Instant3D's first stage (Hub repository
`justimyhxu/GRM`; Xu et al., "GRM: Large Gaussian Reconstruction Model for Efficient 3D Reconstruction and Generation",
arXiv 2403.14621).

The repository states **no licence** for them. They are fine-tuned from SDXL base 1.0, which is under CreativeML Open
RAIL++-M: its use restrictions pass on to whatever is derived from it, these weights and their images included
(https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md). Without a licence of their own
you may not pass the weights on; ask their authors before any use beyond trying them.

What was changed: names of tensors, the layout of a few matrices, and the folder's layout.
"""
GENERATOR = ViewGenerator(
    name="grm-instant3d",
    title="GRM's Instant3D stage 1",
    takes="a prompt; gives a grid of 2 x 2 views",
    terms="none stated; SDXL's CreativeML Open RAIL++-M at least: do not pass it on",
    licence=LICENCE,
)
FILE = "instant3d.pth"
LAYOUT = ViewLayout(azimuths_deg=(225.0, 315.0, 45.0, 135.0), sampling="legacy")
SIGMAS = "denoiser.sigmas"
NO_WEIGHTS = (SIGMAS, f"{TEXT}embeddings.position_ids", f"{TEXT_2}logit_scale")
AVERAGES = "model_ema."  # of the UNet's weights, under names that have lost their dots
VOCABULARY = 49408  # of CLIP's tokenizer
TOKENIZERS = ("tokenizer", "tokenizer_2")


def inspect(source: str | Path, config: Path | None = None) -> GeneratorConversion:
    """Read the checkpoint without writing; missing or unexpected keys are in the result, not an error.

    Args:
        source: A file, a folder, or a Hub id.
        config: JSON or YAML file that describes the networks, if there is none beside the weights.

    Raises:
        FileNotFoundError: The source, or the tokenizer's files, do not exist.
        ValueError: It is no such checkpoint, or was trained with another noise schedule.
    """
    found = read_source(source, wanted=[FILE], preferred=FILE, config=config)
    sizes = sdxl_sizes(Shapes(found.tensors, found.file), found.config)
    check_noise_levels(found.tensors, sizes["scheduler"], found.file)
    networks = empty_networks(sizes)
    rules = sdxl_rules(networks)
    left_out = sorted(key for key in found.tensors if key in NO_WEIGHTS or key.startswith(AVERAGES))
    missing, unexpected = compare([rule for each in rules.values() for rule in each], list(found.tensors), left_out)
    if not (missing or unexpected):
        networks = {name: fill(networks[name], rules[name], found.tensors, found.file) for name in networks}
    scheduler = build_scheduler(sizes["scheduler"], "euler", "trailing")
    components = Components(**networks, scheduler=scheduler, layout=LAYOUT)

    def write(folder: Path, dtype: torch.dtype) -> None:
        for name, tokenizer in tokenizers(found.file.parent, sizes["text_encoder"]["vocab_size"]).items():
            setattr(components, name, tokenizer)
        components.write(folder, dtype)

    return GeneratorConversion(GENERATOR, found.file, LAYOUT, networks, missing, unexpected, left_out, write)


def empty_networks(sizes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Networks of the given sizes on the meta device, which takes no memory."""
    with torch.device("meta"):
        return {name: build_part(name, sizes[name]) for name in NETWORKS}


def check_noise_levels(tensors: Mapping[str, Tensor], schedule: Mapping[str, Any], file: Path) -> None:
    """Check that the stored noise levels are those of the schedule with which it will be sampled.

    Args:
        tensors: Tensors by key; without noise levels there is nothing to check.
        schedule: Settings of the noise schedule.
        file: The checkpoint, for the message.

    Raises:
        ValueError: They differ.
    """
    if SIGMAS not in tensors:
        return
    abar = build_scheduler(schedule, "euler").alphas_cumprod.double()
    wanted, got = ((1 - abar) / abar).sqrt(), tensors[SIGMAS].double()
    if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-3):
        raise ValueError(
            f"{file} was trained with other noise levels ({SIGMAS}: {len(got)} from {got.min():.4g} to "
            f"{got.max():.4g}) than SDXL's {len(wanted)} from {wanted.min():.4g} to {wanted.max():.4g}; it is another "
            "model"
        )


def tokenizers(folder: Path, vocabulary: int) -> dict[str, Any]:
    """SDXL's two tokenizers: those beside the weights, else the Hub's (4 MB, cached).

    Args:
        folder: Folder of the weights.
        vocabulary: Tokens of the text encoders. If CLIP's tokenizer has another number, none fits, and a warning says
            so.

    Raises:
        FileNotFoundError: They are not beside the weights and cannot be downloaded.
    """
    if all((folder / name).is_dir() for name in TOKENIZERS):
        return {name: load_tokenizer(folder / name) for name in TOKENIZERS}
    if vocabulary != VOCABULARY:
        warnings.warn(
            f"{folder} has no {' and '.join(TOKENIZERS)}, and CLIP's does not fit a vocabulary of {vocabulary}; the "
            "result has none, so add them before use",
            stacklevel=2,
        )
        return {}
    try:
        hub = snapshot(SDXL, [f"{name}/*" for name in TOKENIZERS])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the weights come without a tokenizer, and SDXL's cannot be downloaded ({error}); or lay the folders "
            f"{' and '.join(TOKENIZERS)} of {SDXL} beside the weights"
        ) from None
    return {name: load_tokenizer(hub / name) for name in TOKENIZERS}
