"""Zero123++ v1.1 and v1.2 as released: six views of the object in one image.

The names in the files are diffusers' and transformers' own, except those of old versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.components import build_part
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.modules.diffusion.zero123plus_parts import EXTRACTORS, NETWORKS, RAMP, Zero123PlusParts, check_index
from instant3d.pipelines.convert.rules import Rule, renamed
from instant3d.pipelines.convert.source import Config, read_source
from instant3d.pipelines.convert.view_generator import GeneratorConversion, ViewGenerator, compare, fill
from instant3d.utils import file_listing
from instant3d.utils.hub import snapshot
from instant3d.utils.tensor_files import load_json, load_tensors, load_weights_only

LICENCE = """\
These weights were converted from Zero123++ (Shi et al., "Zero123++: a Single Image to Consistent Multi-view Diffusion
Base Model", arXiv 2310.15110; Hub repositories `sudo-ai/zero123plus-v1.1` and `-v1.2`).

Its code is under Apache-2.0, its weights are under **CC BY-NC 4.0**: attribution, **no commercial use** of the weights
and of what is derived from them (https://creativecommons.org/licenses/by-nc/4.0/); its authors let you use its images
freely. (The Hub's card of v1.1 was tagged `openrail`; the authors' statement here is the stricter one.) The weights are
fine-tuned from Stable Diffusion 2, whose CreativeML Open RAIL++-M use restrictions pass on to them.

What was changed: the folder's layout, and names of tensors that old versions of diffusers wrote.
"""
GENERATOR = ViewGenerator(
    name="zero123plus",
    title="Zero123++",
    takes="one image; gives six views",
    terms="CC BY-NC 4.0: not for commercial use",
    licence=LICENCE,
)
AZIMUTHS_DEG = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)  # from the input image's
# v1.2 shows a sphere of radius R from R / tan 15 degrees; InstantMesh, which was trained on these views, takes 4.0
LAYOUTS = {
    "1.1": ViewLayout(AZIMUTHS_DEG, (30.0, -20.0) * 3, radius=2.34, fov_deg=49.134, front_azimuth_deg=0.0),
    "1.2": ViewLayout(AZIMUTHS_DEG, (20.0, -10.0) * 3, radius=4.0, fov_deg=30.0, front_azimuth_deg=0.0),
}
INDEX = "model_index.json"
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # in the VAE's middle
NO_WEIGHTS = re.compile(r"(text|vision)_encoder\..*position_ids")


@dataclass(frozen=True)
class Release:
    """A released Zero123++ as read from disk.

    Attributes:
        file: File or folder of the weights.
        tensors: All tensors, the network's name before each key.
        configs: Settings by the name of each part, and `index` for those of the whole.
    """

    file: Path
    tensors: dict[str, Tensor]
    configs: dict[str, dict[str, Any]]


def inspect(source: str | Path, config: Path | None = None) -> GeneratorConversion:
    """Read the checkpoint without writing; missing or unexpected keys are in the result, not an error.

    Args:
        source: A folder in diffusers' layout, its Hub id, or a file (or a folder with one) in which each part's name
            stands before its keys, with a `config.json` that has a section for each part.
        config: The configuration of such a file, if there is none beside it.

    Raises:
        FileNotFoundError: The source, or a file of it, does not exist.
        ValueError: It is no Zero123++.
    """
    found = _read(source, config)
    absent = [name for name in (*NETWORKS, "scheduler", *EXTRACTORS) if name not in found.configs]
    if absent:
        raise ValueError(f"{found.file} has no settings of {', '.join(absent)}; give a whole Zero123++")
    index = check_index(found.configs["index"], found.file)
    with torch.device("meta"):
        networks = {name: build_part(name, found.configs[name]) for name in NETWORKS}
    rules = {name: _rules(name, networks[name], found.tensors) for name in NETWORKS}
    left_out = sorted(filter(NO_WEIGHTS.match, found.tensors))
    missing, unexpected = compare([rule for each in rules.values() for rule in each], list(found.tensors), left_out)
    if not (missing or unexpected):
        networks = {name: fill(networks[name], rules[name], found.tensors, found.file) for name in NETWORKS}
    layout = _layout(str(source), found.configs)
    parts = Zero123PlusParts(
        networks, found.configs["scheduler"], {name: found.configs[name] for name in EXTRACTORS}, tuple(index[RAMP]),
        layout, **{name: index[name] for name in ("view_size", "background") if name in index},
    ).checked(found.file)  # fmt: skip
    return GeneratorConversion(GENERATOR, found.file, layout, networks, missing, unexpected, left_out, parts.write)


def _rules(name: str, network: Any, tensors: Mapping[str, Tensor]) -> list[Rule]:
    """Rules of one network: its own names after its folder's, or the old ones where the checkpoint has them."""
    tower = f"{name.split('_')[0]}_model."
    rules = []
    for key in network.state_dict():
        theirs = f"{name}.{key}"
        if name.endswith("encoder") and theirs not in tensors:  # the class may have lost this level since
            theirs = f"{name}.{tower}{key}"
        elif ".attentions." in key and theirs not in tensors and name == "vae":
            theirs = re.sub(r"to_(q|k|v|out\.0)(?=\.)", lambda match: OLD_ATTENTION[match[0]], theirs)
        rules.append(renamed(key, theirs))
    return rules


def _layout(source: str, configs: Mapping[str, Mapping[str, Any]]) -> ViewLayout:
    """Cameras of the release: as configured, else those of v1.1 or v1.2 by the source's name."""
    layout = LAYOUTS["1.1" if "v1.1" in source else "1.2"]
    views = configs.get("views")
    if views is None:
        return layout
    azimuths, elevations = (tuple(map(float, views[name])) for name in ("azimuth", "elevation"))
    known = next((each for each in LAYOUTS.values() if each.elevations_deg == elevations), layout)
    return replace(known, azimuths_deg=azimuths, elevations_deg=elevations)


def _read(source: str | Path, config: Path | None) -> Release:
    folder = Path(source).expanduser()
    if not folder.exists() and str(source).count("/") == 1 and not str(source).startswith((".", "/")):
        folder = snapshot(str(source), ["*.json", *(f"{name}/*" for name in (*NETWORKS, "scheduler", *EXTRACTORS))])
    return _read_folder(folder) if (folder / INDEX).is_file() else _read_file(source, config)


def _read_folder(root: Path) -> Release:
    files = {"scheduler": "scheduler_config.json", **dict.fromkeys(EXTRACTORS, "preprocessor_config.json")}
    files |= dict.fromkeys(NETWORKS, "config.json")
    configs = {name: load_json(root / name / file) for name, file in files.items() if (root / name / file).is_file()}
    tensors = {f"{name}.{key}": value for name in NETWORKS for key, value in _weights(root / name).items()}
    return Release(root, tensors, {**configs, "index": load_json(root / INDEX)})


def _weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of one part; safetensors before pickles, full precision before half."""
    for suffix in (".safetensors", ".bin"):
        found = [file for file in file_listing.visible_files(folder, "*") if file.suffix == suffix]
        if found:
            file = min(found, key=lambda each: len(each.name))
            return load_tensors(file) if suffix == ".safetensors" else load_weights_only(file)
    raise FileNotFoundError(f"{folder} has no weights (*.safetensors, *.bin); download the whole model again")


def _read_file(source: str | Path, config: Path | None) -> Release:
    found = read_source(source, wanted=["*.safetensors"], config=config)
    settings = _nested(found.config)
    index = {RAMP: settings.get(RAMP), "view_size": settings.get("sampling", {}).get("view_size", 320)}
    index["background"] = settings.get("alpha_background", 127)
    sections = {name: value for name, value in settings.items() if isinstance(value, dict)}
    return Release(found.file, found.tensors, {**sections, "index": index})


def _nested(config: Config) -> dict[str, Any]:
    """A configuration's values by section again."""
    nested: dict[str, Any] = {}
    for name, value in config.values.items():
        *parents, last = name.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested
