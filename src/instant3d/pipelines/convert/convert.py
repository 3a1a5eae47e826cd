"""Weights that peers gave away as ours, and ours as theirs. Knows the families' names; each has one file.

conversion = convert("instantmesh", "TencentARC/InstantMesh", "checkpoints/instantmesh-large")
network = Reconstructor.from_pretrained("checkpoints/instantmesh-large")
theirs = to_theirs("instantmesh", network)
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
    """What a checkpoint turned out to be, and the network made of it (None if it was only looked at).

    missing, unexpected   keys of theirs; there is no network unless both are empty
    left_out              keys that are not the network's, or of no use to it
    unit                  length in the peer's world of one of ours
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
        """What was found, line by line."""
        a, count = self.architecture, parameters(self.architecture)
        size = f"{a.image_size} px" if a.image_size else "as they come (no size is known; --image-size sets one)"
        views = "one picture" if a.assumed_camera else "any number of posed views"
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

    source      a file, a folder, or a Hub id (`owner/name`, `owner/name/file`)
    folder      where to; None only makes the network
    config      JSON or YAML that describes the network, if none lies beside the weights
    image_size  pixels a side of the pictures it was taught with, if it is no known release
    half        store float16: half the size, and computed in half precision where that is fast
    """
    conversion = inspect(family, source, config=config, image_size=image_size)
    if conversion.missing or conversion.unexpected:
        raise ValueError(
            f"{conversion.file} is not a whole {conversion.family.title} checkpoint and nothing else: "
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
    """What a checkpoint is; keys that are missing or unexpected are in the answer, not an error."""
    peer = _family(family)
    found = read_source(source, wanted=peer.files, preferred=peer.preferred, config=config)
    prefix = _prefix(peer, found)
    inside = {key.removeprefix(prefix): value for key, value in found.tensors.items() if key.startswith(prefix)}
    outside = [key for key in found.tensors if not key.startswith(prefix)]
    _refuse_relatives(peer, inside, found.file)
    kept, strangers = without(inside, peer.strangers)
    tensors = {
        key: to_float32(key, inside[key]) for key in kept
    }  # before folding, which halves and float8 are too rough for
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
    """A peer's tensors, by keys without a prefix, as a network of ours; `config` as it lies beside them."""
    peer = _family(family)
    shapes = Shapes(tensors, "the state dict")
    architecture, _ = _architecture(peer, shapes, Config.of(config or {}), image_size)
    rules = peer.rules(architecture)
    missing, unexpected = differences(rules, tensors)
    if missing or unexpected:
        raise ValueError(f"missing {_listed(missing)}; unexpected {_listed(unexpected)}")
    return _filled(architecture, folded(rules, tensors), "the state dict")


def to_original(family: str, network: Reconstructor) -> dict[str, Tensor]:
    """A network's tensors by a peer's keys, without a prefix; the inverse of `to_ours`."""
    rules = _family(family).rules(network.architecture)
    ours = network.state_dict()
    known = {key for rule in rules for key in rule.ours}
    if known != set(ours):
        other = sorted(known ^ set(ours))
        raise ValueError(
            f"this network is not built as {_family(family).title}'s: {len(other)} tensors differ, such as "
            f"{', '.join(other[:3])}; only what was converted from it, or has its architecture, can be written back"
        )
    return {key: value.detach().contiguous() for key, value in unfolded(rules, ours).items()}


def write_back(family: str, folder: str | Path, target: str | Path | None) -> list[str]:
    """Write our checkpoint as the peer's own code reads it: FAMILY.ckpt, and a configuration that names its heads.

    The file is a pickle of tensors alone, for that is what their code opens. Says what it wrote, or would write.
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
    """What tensors do not tell and `to_ours` wants to know."""
    a, peer = network.architecture, _family(family)
    return {
        "family": family,
        "cond_image_size": a.image_size,
        "vit": {"num_attention_heads": a.encoder_heads, "num_heads": a.encoder_heads},
        "lrm": {"transformer_heads": a.heads, "heads": a.heads, **peer.settings(a)},
        "key_prefix": peer.prefix,
    }


def parameters(architecture: Architecture) -> int:
    """How many numbers are learned; takes no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Reconstructor(architecture).parameters())


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"{name!r} is no family of checkpoints; choose among {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _prefix(peer: Family, found: Source) -> str:
    """What stands before the keys: the peer's own prefix if it is there, else the shortest."""
    starts = {key.removesuffix(mark) for mark in peer.marks for key in found.tensors if key.endswith(mark)}
    starts = {start for start in starts if not start or start.endswith(".")}
    if not starts:
        raise ValueError(
            f"{found.file} is no {peer.title} checkpoint: none of its {len(found.tensors)} keys ends in "
            f"{' or '.join(peer.marks)}; they look like {', '.join(list(found.tensors)[:3])}"
        )
    return peer.prefix if peer.prefix in starts else min(starts, key=len)


def _refuse_relatives(peer: Family, tensors: Mapping[str, Tensor], file: Path) -> None:
    for start, why in peer.refused:
        if any(key.startswith(start) for key in tensors):
            raise ValueError(f"{file} holds {start}*: {why}")


def _architecture(
    peer: Family, shapes: Shapes, config: Config, image_size: int | None
) -> tuple[Architecture, Release | None]:
    """The architecture with the size of its pictures: as told, as configured, or as of the known release."""
    architecture = peer.architecture(shapes, config)
    release = next((release for release in peer.releases if release.is_of(architecture)), None)
    size = image_size or config.number(*IMAGE_SIZES) or (release.image_size if release else 0)
    if size % architecture.patch:
        raise ValueError(f"pictures of {size} px do not divide into patches of {architecture.patch} px")
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
    """What was done, for whoever finds the folder later, and the source's own licence if it lay beside it."""
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
