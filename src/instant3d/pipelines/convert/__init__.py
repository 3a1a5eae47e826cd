"""Weights that peers gave away as ours, and ours as theirs."""

from instant3d.pipelines.convert.convert import (
    FAMILIES,
    Conversion,
    convert,
    look,
    parameters,
    their_config,
    to_ours,
    to_theirs,
    write_back,
)
from instant3d.pipelines.convert.source import read
from instant3d.stage2.network import LICENCE_FILE

__all__ = [
    "FAMILIES",
    "LICENCE_FILE",
    "Conversion",
    "convert",
    "look",
    "parameters",
    "read",
    "their_config",
    "to_ours",
    "to_theirs",
    "write_back",
]
