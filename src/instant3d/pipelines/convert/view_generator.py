"""Conversion of released generators of views, which are folders of several networks in diffusers' layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.pipelines.convert.rules import Rule, differences, folded
from instant3d.pipelines.convert.source import licences
from instant3d.stage2.network import LICENCE_FILE
from instant3d.utils import atomic


@dataclass(frozen=True)
class ViewGenerator:
    """A released generator of views.

    Attributes:
        name: Name in commands.
        title: Name in messages.
        takes: What it generates views from.
        terms: The licence in a few words.
        licence: What is known of the licence, in full.
    """

    name: str
    title: str
    takes: str
    terms: str
    licence: str


@dataclass(frozen=True)
class GeneratorConversion:
    """A released generator's checkpoint and the networks made from it.

    Attributes:
        generator: The generator.
        file: File or folder of the weights.
        layout: Cameras of its views.
        networks: The networks by name; on the meta device if `missing` or `unexpected` is not empty.
        missing: Keys that the checkpoint lacks.
        unexpected: Keys that no rule converts.
        left_out: Keys that are no part of the networks.
        write: Writes the networks and their settings into a folder, in a number format.
    """

    generator: ViewGenerator
    file: Path
    layout: ViewLayout
    networks: Mapping[str, Any]
    missing: list[str]
    unexpected: list[str]
    left_out: list[str]
    write: Callable[[Path, torch.dtype], None]

    def report(self) -> list[str]:
        """Description of the checkpoint, line by line."""
        sizes = {name: count_parameters(network) for name, network in self.networks.items()}
        total = sum(sizes.values())
        angles = zip(self.layout.azimuths_deg, self.layout.elevations_deg, strict=True)
        views = ", ".join(f"{azimuth:g}/{elevation:g}" for azimuth, elevation in angles)
        return [
            f"{self.generator.title}: {self.file}",
            f"takes       {self.generator.takes}",
            f"views       {views} (azimuth/elevation), "
            f"distance {self.layout.radius:g}, field of view {self.layout.fov_deg:g}",
            f"networks    {', '.join(f'{name} {count:,}' for name, count in sizes.items())}",
            f"parameters  {total:,}: {4 * total / 1e9:.2f} GB in float32, {2 * total / 1e9:.2f} GB in half precision",
            f"licence     {self.generator.terms}; {LICENCE_FILE} says more",
            f"left out    {listed(self.left_out)}",
            f"missing     {listed(self.missing)}",
            f"unexpected  {listed(self.unexpected)}",
        ]

    def save(self, folder: str | Path, source: str | Path, dtype: torch.dtype) -> None:
        """Write the generator as a folder, whole or not at all.

        Args:
            folder: Output folder.
            source: Where the checkpoint came from, for `conversion.json`.
            dtype: Number format of the stored weights.

        Raises:
            ValueError: The checkpoint is incomplete, or holds other tensors; nothing is written.
        """
        if self.missing or self.unexpected:
            raise ValueError(
                f"{self.file} is not exactly one complete {self.generator.title}: missing {listed(self.missing)}; "
                f"unexpected {listed(self.unexpected)}"
            )
        notes = {
            "family": self.generator.name,
            "source": str(source),
            "file": self.file.name,
            "left_out": self.left_out,
        }
        with atomic.merged(folder) as partial:
            self.write(partial, dtype)
            self.layout.write(partial)
            (partial / LICENCE_FILE).write_text(self.generator.licence, encoding="utf-8")
            (partial / "conversion.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
            for licence in licences(self.file):
                shutil.copyfile(licence, partial / f"{licence.name}.source")


def fill(network: Any, rules: Sequence[Rule], tensors: Mapping[str, Tensor], where: object) -> Any:
    """Fill a network on the meta device with converted tensors, in the number format in which they come.

    Args:
        network: The network, which is returned.
        rules: Its conversion rules.
        tensors: Tensors by the released keys.
        where: Their source, for messages.

    Raises:
        ValueError: Shapes do not fit.
    """
    ours = folded(rules, {key: tensors[key] for rule in rules for key in rule.theirs if key in tensors})
    wanted = network.state_dict()
    other = [
        f"{key} {tuple(ours[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if ours[key].shape != value.shape
    ]
    if other:
        raise ValueError(f"{where} holds tensors of unexpected shapes: {'; '.join(other)}")
    network.load_state_dict(ours, assign=True)
    return network.eval()


def compare(rules: Sequence[Rule], keys: Sequence[str], left_out: Sequence[str]) -> tuple[list[str], list[str]]:
    """The missing and the unexpected keys, apart from those that are left out.

    Args:
        rules: Conversion rules of the network.
        keys: Keys of the checkpoint.
        left_out: Keys that are not compared.

    Returns:
        Both lists, sorted.
    """
    return differences(rules, sorted(set(keys) - set(left_out)))


def count_parameters(network: Any) -> int:
    """Number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def listed(keys: Sequence[str]) -> str:
    """Number of keys and their names."""
    return f"{len(keys)}: {', '.join(keys)}" if keys else "none"
