"""Safe reading of untrusted settings in YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instant3d.utils.errors import LIBRARY_ERRORS, first_line

MAX_BYTES = 2**17  # some seconds of reading


def load_yaml(path: Path) -> Any:
    """The content of a YAML file: numbers, words, lists and mappings; nothing in it is run.

    Args:
        path: The file, which exists.

    Raises:
        ValueError: It is too long, nested too deeply, or no YAML.
    """
    import yaml

    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is {path.stat().st_size} bytes long; at most {MAX_BYTES} of YAML are read")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, *LIBRARY_ERRORS) as error:  # RecursionError is a RuntimeError
        raise ValueError(f"{path} is not readable YAML ({first_line(error)}); write it again") from None
