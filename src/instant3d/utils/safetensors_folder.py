"""Checkpoint folder of one network: `config.json` describes its architecture, `model.safetensors` holds its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import nn

from instant3d.utils import bundled, tensor_files
from instant3d.utils.hub import snapshot

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MAX_PARAMETERS = 20_000_000_000  # of one network: 40 times the largest that has been published
LARGEST = 2**63  # beyond any whole number of an architecture; still larger ones do not even become a float
Kind = TypeVar("Kind")  # of dataclass
WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def resolve(source: str | Path, others: Sequence[str] = ()) -> Path:
    """Return a checkpoint folder, downloaded from the Hub if `source` is a Hub id.

    Args:
        source: An existing folder, a bundled one, or a Hub id (`owner/name`).
        others: Names of further files to download.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a Hub id, or cannot be downloaded.
    """
    if (folder := bundled.look_up(source)) is not None:
        return folder
    parts = str(source).split("/")
    if len(parts) != 2 or str(source).startswith((".", "/", "~")) or parts[0] == "checkpoints":
        raise FileNotFoundError(f"{source} is neither a checkpoint folder nor a Hub id such as owner/name")
    return snapshot(str(source), [CONFIG, WEIGHTS, *others])


def write(folder: Path, model: str, architecture: Any, network: nn.Module, dtype: torch.dtype, **extra: Any) -> None:
    """Write the checkpoint folder of a network.

    Args:
        folder: Created if it does not exist.
        model: Name of the kind of model in `config.json`.
        architecture: Dataclass of numbers.
        network: Network whose `state_dict` is stored.
        dtype: Number format of the stored weights.
        **extra: Further entries of `config.json`.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))  # save_file would make a file that only its owner can read
    (folder / CONFIG).write_text(json.dumps({"model": model, **asdict(architecture), **extra}, indent=2) + "\n")


def load_into(network: nn.Module, folder: Path) -> bool:
    """Load the weights of a folder into a network as float32; its own may be on the meta device.

    Returns:
        Whether all weights were stored as float32.

    Raises:
        FileNotFoundError: The weights file is missing.
        ValueError: Names or shapes of the tensors do not match the network.
    """
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS} beside its {CONFIG}; copy the whole folder")
    tensors = tensor_files.load_tensors(folder / WEIGHTS)
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: value.shape for key, value in tensors.items()}
    if found != expected:
        missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        other = sorted(key for key in set(found) & set(expected) if found[key] != expected[key])
        raise ValueError(
            f"{folder} does not hold the network its {CONFIG} describes: {len(missing)} tensors missing, "
            f"{len(extra)} unexpected, {len(other)} of another shape "
            f"(such as {', '.join((missing + extra + other)[:3])})"
        )
    own = {key: tensor_files.to_float32(key, value) for key, value in tensors.items()}
    own = {key: value.clone() if value is tensors[key] else value for key, value in own.items()}  # no mmap
    network.load_state_dict(own, assign=True)
    return all(value.dtype == torch.float32 for value in tensors.values())


def read_config(path: Path, model: str, kind: str, hint: str = "") -> dict[str, Any]:
    """Read the entries of a `config.json`.

    Args:
        path: The file.
        model: Kind of model that it must name.
        kind: Description of that kind in error messages.
        hint: Added to the error if the file names no model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It describes another kind of model.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; is it a checkpoint folder ({CONFIG} and {WEIGHTS})?"
        )
    numbers = tensor_files.load_json(path)
    found = numbers.pop("model", None) if isinstance(numbers, dict) else None
    if found != model:
        raise ValueError(
            f"{path} describes a {found or 'unnamed'} model, not a {kind}; "
            f"give another checkpoint{hint if found is None else ''}"
        )
    return numbers


def architecture_of(kind: type[Kind], numbers: dict[str, Any], source: object) -> Kind:
    """Build a dataclass from the JSON form of its `dataclasses.asdict`.

    Args:
        kind: The dataclass.
        numbers: Field names and values.
        source: Where they were read, for error messages.

    Raises:
        ValueError: A key is unknown, or a value has the wrong type; names it.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(numbers) - {field.name for field in fields(kind)})  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"{source} describes another architecture: unknown {', '.join(unknown)}")
    values = {name: _checked(value, hints[name], f"{source}: {name}") for name, value in numbers.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def check_ranges(architecture: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a dataclass with a number, or an element of a tuple, outside its range.

    Args:
        architecture: The dataclass.
        ranges: Field name to lowest and highest allowed value; None values are allowed.

    Raises:
        ValueError: Names field, value and range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(architecture, name)
        numbers = value if isinstance(value, tuple | list) else () if value is None else (value,)
        if not all(low <= number <= high for number in numbers):  # also false for what is no number (NaN)
            raise ValueError(f"{name} must lie from {low} to {high}, got {value}")


def check_size(parameters: int) -> None:
    """Refuse a network by its approximate number of parameters, before anything is built.

    Raises:
        ValueError: There are more than `MAX_PARAMETERS`.
    """
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"these sizes make some {parameters:,} parameters, but at most {MAX_PARAMETERS:,} are built; choose less"
        )


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Check and convert a value to the field's type; JSON has no tuples and does not separate 1 from 1.0."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if get_origin(hint) is UnionType:  # of a tuple and None
        return None if value is None else _checked_list(value, get_args(hint)[0], where, " or null")
    if get_origin(hint) is tuple:
        return _checked_list(value, hint, where)
    if hint is float and type(value) is int and abs(value) < LARGEST:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{where} must be {hint.__name__}, got {value!r}")
    return value


def _checked_list(value: Any, hint: Any, where: str, otherwise: str = "") -> tuple[Any, ...]:
    kind, last = get_args(hint)[0], get_args(hint)[-1]
    count = None if last is Ellipsis else len(get_args(hint))
    allowed = (int, float) if kind is float else (kind,)
    if (
        not isinstance(value, list | tuple)
        or any(type(v) not in allowed or (type(v) is int and abs(v) >= LARGEST) for v in value)
        or count not in (None, len(value))
    ):
        wanted = f"{count} numbers" if count else f"a list, of which each is {WORDS[kind]}"
        raise ValueError(f"{where} must be {wanted}{otherwise}, got {value!r}")
    return tuple(map(kind, value))
