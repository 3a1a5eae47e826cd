"""Conversion of peers' released weights to our format and back; each family of peers has one module.

conversion = convert("instantmesh", "TencentARC/InstantMesh", "checkpoints/instantmesh-large")
network = Reconstructor.from_pretrained("checkpoints/instantmesh-large")
theirs = to_original("instantmesh", network)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.pipelines.convert import instantmesh, openlrm, triposr
from instant3d.pipelines.convert.family import Family, Release, Shapes
from instant3d.pipelines.convert.parts import without
from instant3d.pipelines.convert.rules import differences, folded, unfolded
from instant3d.pipelines.convert.source import Config, Source, licences, read_source
from instant3d.stage2.architecture import Architecture
from instant3d.stage2.network import LICENCE_FILE, Reconstructor
from instant3d.utils import atomic
from instant3d.utils.tensor_files import to_float32

FAMILIES: dict[str, Family] = {
    module.FAMILY.name: module.FAMILY for module in (instantmesh, openlrm, triposr)
}  # fmt: skip
IMAGE_SIZES = ("cond_image_size", "source_size", "source_image_res", "input_image_size", "input_size")


@dataclass(frozen=True)
class Conversion:
    """A peer's checkpoint and the network made from it.

    Attributes:
        family: The peer.
        file: File of the weights.
        prefix: Prefix of all keys of the network.
        architecture: Architecture of the network.
        release: The known release, if its sizes match one.
        missing: Keys that the checkpoint lacks.
        unexpected: Keys that no rule converts.
        left_out: Keys that are not part of the network, or unused.
        unit: Length of our world unit in the peer's world.
        network: The network; None unless `missing` and `unexpected` are empty.
    """

    family: Family
    file: Path
    prefix: str
    architecture: Architecture
    release: Release | None
    missing: list[str]
    unexpected: list[str]
    left_out: list[str]
    unit: float
    network: Reconstructor | None = None

    def report(self) -> list[str]:
        """Description of the checkpoint, line by line."""
        a, count = self.architecture, parameters(self.architecture)
        size = f"{a.image_size} px" if a.image_size else "any (no size is known; --image-size sets one)"
        views = "one image" if a.assumed_camera else "any number of posed views"
        return [
            f"{self.family.title}: {self.file}" + (f", the release {self.release.name}" if self.release else ""),
            f"takes       {views}, {size}",
            f"encoder     {a.encoder_depth} layers x {a.encoder_width}, {a.encoder_heads} heads, patches of {a.patch}",
            f"transformer {a.depth} layers x {a.width}, {a.heads} heads, 3 x {a.token_side}^2 tokens",
            f"field       3 x {a.channels} x {a.plane_side}^2, {a.decoder_layers} layers x {a.decoder_width}",
            f"parameters  {count:,}: {4 * count / 1e9:.2f} GB in float32, {2 * count / 1e9:.2f} GB in half precision",
            f"licence     {self.family.terms}; {LICENCE_FILE} says more",
            f"left out    {_listed(self.left_out)}",
            f"missing     {_listed(self.missing)}",
            f"unexpected  {_listed(self.unexpected)}",
        ]


def convert(
    family: str,
    source: str | Path,
    folder: str | Path | None = None,
    *,
    config: Path | None = None,
    image_size: int | None = None,
    half: bool = False,
) -> Conversion:
    """Read a peer's checkpoint and write it as a folder for `Reconstructor.from_pretrained`, whole or not at all.

    Args:
        family: Key of FAMILIES.
        source: A file, a folder, or a Hub id (`owner/name`, `owner/name/file`).
        folder: Output folder; None only makes the network.
        config: JSON or YAML file that describes the network, if there is none beside the weights.
        image_size: Pixels a side of its training images, if it is not a known release.
        half: Store float16: half the size, and computed in half precision where that is fast.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If it is not a complete checkpoint of the family; nothing is written.
    """
    conversion = inspect(family, source, config=config, image_size=image_size)
    if conversion.missing or conversion.unexpected:
        raise ValueError(
            f"{conversion.file} is not exactly one complete {conversion.family.title} checkpoint: "
            f"missing {_listed(conversion.missing)}; unexpected {_listed(conversion.unexpected)}"
        )
    if folder is not None and conversion.network is not None:
        with atomic.merged(folder) as partial:
            conversion.network.save_pretrained(partial, torch.float16 if half else torch.float32)
            _write_notes(conversion, source, partial)
    return conversion


def inspect(
    family: str, source: str | Path, *, config: Path | None = None, image_size: int | None = None
) -> Conversion:
    """Read a checkpoint without writing; missing or unexpected keys are in the result, not an error.

    Args:
        family: Key of FAMILIES.
        source: A file, a folder, or a Hub id (`owner/name`, `owner/name/file`).
        config: JSON or YAML file that describes the network, if there is none beside the weights.
        image_size: Pixels a side of its training images, if it is not a known release.

    Returns:
        The conversion; its network is None if keys are missing or unexpected.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If the family is unknown, the source cannot be read or is of another family, or its tensors and
            configuration do not give the sizes.
    """
    peer = _family(family)
    found = read_source(source, wanted=peer.files, preferred=peer.preferred, config=config)
    prefix = _prefix(peer, found)
    inside = {key.removeprefix(prefix): value for key, value in found.tensors.items() if key.startswith(prefix)}
    outside = [key for key in found.tensors if not key.startswith(prefix)]
    _refuse_relatives(peer, inside, found.file)
    kept, strangers = without(inside, peer.strangers)
    tensors = {
        key: to_float32(key, inside[key]) for key in kept
    }  # before folding, for which float16 and float8 are too imprecise
    architecture, release = _architecture(peer, Shapes(tensors, found.file), found.config, image_size)
    rules = peer.rules(architecture)
    missing, unexpected = differences(rules, tensors)
    idle = [key for rule in rules if not rule.ours for key in rule.theirs if key in tensors]
    conversion = Conversion(
        peer, found.file, prefix, architecture, release, missing, unexpected,
        sorted([*outside, *(prefix + key for key in [*strangers, *idle])]), peer.unit(found.config),
    )  # fmt: skip
    if missing or unexpected:
        return conversion
    network = _filled(architecture, folded(rules, tensors), found.file)
    network.licence = peer.licence
    return replace(conversion, network=network)


def to_native(
    family: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, image_size: int | None = None
) -> Reconstructor:
    """Convert a peer's tensors to a network of ours.

    Args:
        family: Key of FAMILIES.
        tensors: Tensors by keys without a prefix.
        config: The configuration that comes with them.
        image_size: Pixels a side of its images, if neither configuration nor release sets it.

    Raises:
        ValueError: If keys are missing or unexpected, or shapes do not fit.
    """
    peer = _family(family)
    shapes = Shapes(tensors, "the state dict")
    architecture, _ = _architecture(peer, shapes, Config.of(config or {}), image_size)
    rules = peer.rules(architecture)
    missing, unexpected = differences(rules, tensors)
    if missing or unexpected:
        raise ValueError(f"missing {_listed(missing)}; unexpected {_listed(unexpected)}")
    return _filled(architecture, folded(rules, tensors), "the state dict")


def to_original(family: str, network: Reconstructor) -> dict[str, Tensor]:
    """A network's tensors by a peer's keys, without a prefix; the inverse of `to_native`.

    Raises:
        ValueError: If the network does not have the peer's architecture.
    """
    rules = _family(family).rules(network.architecture)
    ours = network.state_dict()
    known = {key for rule in rules for key in rule.ours}
    if known != set(ours):
        other = sorted(known ^ set(ours))
        raise ValueError(
            f"this network has not the architecture of {_family(family).title}: {len(other)} tensors differ, such as "
            f"{', '.join(other[:3])}; only networks converted from it, or of its architecture, can be written back"
        )
    return {key: value.detach().contiguous() for key, value in unfolded(rules, ours).items()}


def write_back(family: str, folder: str | Path, target: str | Path | None) -> list[str]:
    """Write our checkpoint as the peer's own code reads it: FAMILY.ckpt, and a configuration that names its heads.

    The file is a pickle of tensors only, since that is what the peer's code reads.

    Args:
        family: Key of FAMILIES.
        folder: Folder of our checkpoint.
        target: Output folder; None only checks.

    Returns:
        Lines that describe what was (or would be) written.
    """
    network = Reconstructor.from_pretrained(folder)
    peer = _family(family)
    tensors = {peer.prefix + key: value for key, value in to_original(family, network).items()}
    count = sum(value.numel() for value in tensors.values())
    file = f"{family}.ckpt"
    if target is not None:
        with atomic.merged(target) as partial:
            torch.save({"state_dict": tensors}, partial / file)
            (partial / "config.json").write_text(json.dumps(original_config(family, network), indent=2) + "\n")
            (partial / LICENCE_FILE).write_text(peer.licence)
    where = Path(target) / file if target is not None else file
    return [f"{where}: {len(tensors)} tensors, {count:,} parameters as {peer.title} names them, and config.json"]


def original_config(family: str, network: Reconstructor) -> dict[str, Any]:
    """Configuration of a network with the settings that do not follow from tensors, as `to_native` reads it."""
    a, peer = network.architecture, _family(family)
    return {
        "family": family,
        "cond_image_size": a.image_size,
        "vit": {"num_attention_heads": a.encoder_heads, "num_heads": a.encoder_heads},
        "lrm": {"transformer_heads": a.heads, "heads": a.heads, **peer.settings(a)},
        "key_prefix": peer.prefix,
    }


def parameters(architecture: Architecture) -> int:
    """Number of trained parameters; allocates no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Reconstructor(architecture).parameters())


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"{name!r} is not a family of checkpoints; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _prefix(peer: Family, found: Source) -> str:
    """The prefix of the keys: the peer's own if it occurs, else the shortest."""
    starts = {key.removesuffix(mark) for mark in peer.marks for key in found.tensors if key.endswith(mark)}
    starts = {start for start in starts if not start or start.endswith(".")}
    if not starts:
        raise ValueError(
            f"{found.file} is not a {peer.title} checkpoint: none of its {len(found.tensors)} keys ends in "
            f"{' or '.join(peer.marks)}; examples are {', '.join(list(found.tensors)[:3])}"
        )
    return peer.prefix if peer.prefix in starts else min(starts, key=len)


def _refuse_relatives(peer: Family, tensors: Mapping[str, Tensor], file: Path) -> None:
    for start, why in peer.refused:
        if any(key.startswith(start) for key in tensors):
            raise ValueError(f"{file} holds {start}*: {why}")


def _architecture(
    peer: Family, shapes: Shapes, config: Config, image_size: int | None
) -> tuple[Architecture, Release | None]:
    """The architecture with its image size: as given, as configured, or as in the known release."""
    architecture = peer.architecture(shapes, config)
    release = next((release for release in peer.releases if release.is_of(architecture)), None)
    size = image_size or config.number(*IMAGE_SIZES) or (release.image_size if release else 0)
    if size % architecture.patch:
        raise ValueError(f"images of {size} px do not divide into patches of {architecture.patch} px")
    return replace(architecture, image_size=size), release


def _filled(architecture: Architecture, ours: Mapping[str, Tensor], where: object) -> Reconstructor:
    with torch.device("meta"):
        network = Reconstructor(architecture)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in ours.items()}
    other = [f"{key} {found.get(key)} for {shape}" for key, shape in expected.items() if found.get(key) != shape]
    if other:
        raise ValueError(f"{where} holds tensors of unexpected shapes: {'; '.join(other)}")
    network.load_state_dict({key: ours[key].float().contiguous() for key in expected}, assign=True)
    network.precise = True
    return network.eval()


def _write_notes(conversion: Conversion, source: str | Path, folder: Path) -> None:
    """Write conversion.json and copy the source's licence, if there is one beside it."""
    notes = {
        "family": conversion.family.name,
        "source": str(source),
        "file": conversion.file.name,
        "release": conversion.release and conversion.release.name,
        "key_prefix": conversion.prefix,
        "left_out": conversion.left_out,
        "length_of_our_unit_in_its_world": conversion.unit,
    }
    (folder / "conversion.json").write_text(json.dumps(notes, indent=2) + "\n")
    for licence in licences(conversion.file):
        shutil.copyfile(licence, folder / f"{licence.name}.source")


def _listed(keys: list[str]) -> str:
    return f"{len(keys)}: {', '.join(keys)}" if keys else "none"
