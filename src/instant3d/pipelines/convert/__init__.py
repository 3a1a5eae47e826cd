"""Conversion of released weights of other projects (peers) to our format and back."""

from instant3d.pipelines.convert.convert import (
    FAMILIES,
    Conversion,
    convert,
    inspect,
    original_config,
    parameters,
    to_native,
    to_original,
    write_back,
)
from instant3d.pipelines.convert.source import read_source
from instant3d.pipelines.convert.view_generators import VIEW_GENERATORS
from instant3d.stage2.network import LICENCE_FILE

__all__ = [
    "FAMILIES",
    "LICENCE_FILE",
    "VIEW_GENERATORS",
    "Conversion",
    "convert",
    "inspect",
    "original_config",
    "parameters",
    "read_source",
    "to_native",
    "to_original",
    "write_back",
]
