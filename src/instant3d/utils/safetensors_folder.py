"""A network's folder: `config.json` tells its architecture, `model.safetensors` holds its weights. Knows no network."""

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
Kind = TypeVar("Kind")  # of dataclass
WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def resolve(source: str | Path, others: Sequence[str] = ()) -> Path:
    """A checkpoint folder as it is, or downloaded, with `others` of its files, if `source` is no folder but looks like
    a Hub id (`owner/name`).
    """
    if (folder := bundled.look_up(source)) is not None:
        return folder
    parts = str(source).split("/")
    if len(parts) != 2 or str(source).startswith((".", "/", "~")) or parts[0] == "checkpoints":
        raise FileNotFoundError(f"{source} is neither a checkpoint folder nor a Hub id such as owner/name")
    return snapshot(str(source), [CONFIG, WEIGHTS, *others])


def write(folder: Path, model: str, architecture: Any, network: nn.Module, dtype: torch.dtype, **told: Any) -> None:
    """The folder of a `model` whose architecture is a dataclass of numbers; `told` is what else its config tells."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors))  # save_file leaves a file that only its owner reads
    (folder / CONFIG).write_text(json.dumps({"model": model, **asdict(architecture), **told}, indent=2) + "\n")


def load_into(network: nn.Module, folder: Path) -> bool:
    """Give a network, whose own weights may be on the meta device, those in a folder, as float32.

    Tells whether float32 is also how they were stored.
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
    own = {key: value.clone() if value is tensors[key] else value for key, value in own.items()}  # of no file's memory
    network.load_state_dict(own, assign=True)
    return all(value.dtype == torch.float32 for value in tensors.values())


def read_config(path: Path, model: str, kind: str, hint: str = "") -> dict[str, Any]:
    """What a `config.json` tells of a `model`, a `kind` in complaints, which add `hint` where it names no model."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; is it a checkpoint folder ({CONFIG} and {WEIGHTS})?"
        )
    numbers = tensor_files.load_json(path)
    found = numbers.pop("model", None) if isinstance(numbers, dict) else None
    if found != model:
        raise ValueError(
            f"{path} describes a {found or 'nameless'} model, not a {kind}; "
            f"give another checkpoint{hint if found is None else ''}"
        )
    return numbers


def architecture_of(kind: type[Kind], numbers: dict[str, Any], source: object) -> Kind:
    """The inverse of `dataclasses.asdict`, by way of JSON, for a dataclass `kind`; names every unknown key."""
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
    """Refuse a dataclass of which a number, or one of a tuple of numbers, lies outside its range.

    Raises:
        ValueError: Names field, value and range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(architecture, name)
        numbers = value if isinstance(value, tuple | list) else () if value is None else (value,)
        if not all(low <= number <= high for number in numbers):  # also false for what is no number (NaN)
            raise ValueError(f"{name} must lie from {low} to {high}, got {value}")


def check_size(parameters: int) -> None:
    """Refuse a network by the rough number of its parameters, before anything is built.

    Raises:
        ValueError: They are more than `MAX_PARAMETERS`.
    """
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"these sizes make some {parameters:,} parameters, but at most {MAX_PARAMETERS:,} are built; choose less"
        )


def _checked(value: Any, hint: Any, where: str) -> Any:
    """The value as the field wants it; JSON knows neither tuples nor the difference between 1 and 1.0."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{where} must be one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if get_origin(hint) is UnionType:  # of a tuple and None
        return None if value is None else _checked_list(value, get_args(hint)[0], where, " or null")
    if get_origin(hint) is tuple:
        return _checked_list(value, hint, where)
    if hint is float and type(value) is int:
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
        or any(type(v) not in allowed for v in value)
        or count not in (None, len(value))
    ):
        wanted = f"{count} numbers" if count else f"a list, of which each is {WORDS[kind]}"
        raise ValueError(f"{where} must be {wanted}{otherwise}, got {value!r}")
    return tuple(map(kind, value))
