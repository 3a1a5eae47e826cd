"""Planning of `instant3d generate`: which assets are made, in which folders, and which are finished already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant3d.mesh import SIZE_MM
from instant3d.pipelines import results
from instant3d.pipelines.generators import AssetGenerator
from instant3d.pipelines.results import RECORD
from instant3d.utils.mesh_options import DEFAULT, MeshOptions
from instant3d.utils.prompts import Prompt, slug


@dataclass(frozen=True)
class GenerationRequest:
    """The settings that all prompts share.

    Attributes:
        seed: Seed of the first asset of each prompt.
        count: Assets of each prompt, by seeds that count up from `seed`.
        resolution: Nodes along each axis of the mesh's grid; None: the system's default.
        formats: Of the meshes, such as "glb".
        options: How the meshes are made.
        size_mm: Length of the largest side in an .stl or .3mf, in millimetres.
    """

    seed: int = 0
    count: int = 1
    resolution: int | None = None
    formats: Sequence[str] = ("glb",)
    options: MeshOptions = DEFAULT
    size_mm: float = SIZE_MM


@dataclass(frozen=True)
class Item:
    """One asset to be generated.

    Attributes:
        prompt: The text.
        where: Where the prompt was given, such as a line of a file, for messages.
        seed: The seed.
        folder: Where its results are written.
    """

    prompt: str
    where: str
    seed: int
    folder: Path


def plan(prompts: Sequence[Prompt], output: Path, request: GenerationRequest) -> list[Item]:
    """List the assets to be generated and their folders.

    Args:
        prompts: All prompts. A prompt's number is its place among them, whether the others are valid or not.
        output: The folder of results of a single item, else the parent of the items' folders.
        request: The seeds.

    Returns:
        The items of all valid prompts.

    Raises:
        ValueError: `request.count` is less than one.
    """
    if request.count < 1:
        raise ValueError(f"at least one asset is made of each prompt, got {request.count}")
    seeds = range(request.seed, request.seed + request.count)
    if len(prompts) * request.count == 1:
        return [Item(prompt.text, prompt.where, request.seed, output) for prompt in prompts if not prompt.error]
    return [
        _below(output, number, prompt, seed, several=request.count > 1)
        for number, prompt in enumerate(prompts, 1)
        if not prompt.error
        for seed in seeds
    ]


def mesh_nodes(request: GenerationRequest, generator: AssetGenerator) -> int:
    """Nodes along each axis of the mesh's grid: the request's, or else the system's default."""
    return generator.nodes if request.resolution is None else request.resolution


def asset_settings(item: Item, request: GenerationRequest, generator: AssetGenerator) -> dict[str, Any]:
    """The fields of result.json that determine an asset."""
    return {
        "system": generator.system,
        "prompt": item.prompt,
        "seed": item.seed,
        **generator.settings,
        "resolution": mesh_nodes(request, generator),
        "mesh_options": request.options.as_dict(),
        **results.printed_size(request.formats, request.size_mm),
        "weights": generator.weights,
    }


def is_finished(item: Item, request: GenerationRequest, generator: AssetGenerator) -> bool:
    """Whether the item's folder holds the same asset already; weights are compared by all but their names.

    Args:
        item: The asset.
        request: The settings, with which those in result.json are compared.
        generator: The system and its weights.
    """
    try:
        record = json.loads((item.folder / RECORD).read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(asset_settings(item, request, generator)))
        for each in (record, wanted):
            each["weights"] = {part: source | {"name": ""} for part, source in each["weights"].items()}
        files = [*record["files"], *(f"mesh.{name}" for name in request.formats)]
        same = all(record[name] == value for name, value in wanted.items())
        return same and all((item.folder / name).exists() for name in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # there is none, or it is another command's


def _below(output: Path, number: int, prompt: Prompt, seed: int, several: bool) -> Item:
    """Return an item with its own folder below `output`, named with the seed where it is one of several."""
    name = f"{number:03d}-{slug(prompt.text)}"
    if several:
        return Item(prompt.text, f"{prompt.where} (seed {seed})", seed, output / f"{name}-{seed}")
    return Item(prompt.text, prompt.where, seed, output / name)
