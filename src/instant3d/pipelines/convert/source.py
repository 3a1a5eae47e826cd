"""Reading a peer's checkpoint from disk or from the Hub: tensors by key, and the configuration beside them.

Pickles are opened with `weights_only=True`, so nothing in them is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from instant3d.utils import file_listing, tensor_files
from instant3d.utils.hub import snapshot
from instant3d.utils.yaml_files import load_yaml

SAFE, PICKLED = (".safetensors",), (".ckpt", ".pth", ".pt", ".bin")
CONFIGS = ("config.json", "config.yaml", "config.yml")
MAX_VALUES, MAX_DEPTH = 100_000, 32  # that settings describe
NESTS = ("state_dict", "weights", "model")  # keys below which training checkpoints have their tensors
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")


@dataclass(frozen=True)
class Source:
    """A checkpoint.

    Attributes:
        file: File of the weights.
        tensors: Tensors by key.
        config: Configuration of the network; empty if there is none.
    """

    file: Path
    tensors: dict[str, Tensor]
    config: Config


@dataclass(frozen=True)
class Config:
    """Values of a configuration by dotted names.

    Attributes:
        values: Values by the dotted path in the document.
    """

    values: Mapping[str, Any]

    def get(self, *names: str, default: Any = None) -> Any:
        """The first value whose dotted name is or ends with one of `names`; else `default`."""
        for name in names:
            for key, value in self.values.items():
                if key == name or key.endswith("." + name):
                    return value
        return default

    def number(self, *names: str) -> int | None:
        """Like `get` for whole numbers; ValueError for another value."""
        value = self.get(*names)
        if value is not None and type(value) is not int:
            raise ValueError(f"the configuration has {names[0]} = {value!r}; expected a whole number")
        return value

    @classmethod
    def of(cls, document: Any) -> Config:
        """Flatten a document of nested mappings."""
        return cls(_flat(document))


def read_source(
    source: str | Path, *, wanted: Sequence[str], preferred: str | None = None, config: Path | None = None
) -> Source:
    """Read a file, a folder, or a Hub id (`owner/name`, or `owner/name/file` for one of its files).

    Args:
        source: File, folder or Hub id.
        wanted: Names (or patterns) of the files to download.
        preferred: The file to take where there are several.
        config: JSON or YAML file that describes the network, if there is none beside the weights.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If a file cannot be read, or it is not clear which one to take.
    """
    path = _located(source, wanted, preferred)
    file = _weights(path, preferred) if path.is_dir() else path
    document, tensors = _opened(file)
    beside = config or next((file.parent / name for name in CONFIGS if (file.parent / name).is_file()), None)
    described = _document(beside) if beside else document
    return Source(file, tensors, Config.of(described))


def licences(file: Path) -> list[Path]:
    """Licence files beside the weights."""
    return sorted({found for pattern in LICENCES for found in file.parent.glob(pattern) if found.is_file()})


def _located(source: str | Path, wanted: Sequence[str], preferred: str | None) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    parts = str(source).split("/")
    local = str(source).startswith((".", "/", "~")) or len(parts) < 2 or not all(parts)
    if local or (len(parts) == 2 and path.suffix in (*SAFE, *PICKLED)):
        raise FileNotFoundError(f"{source} is neither a file, nor a folder, nor a Hub id such as owner/name")
    name, inside = "/".join(parts[:2]), "/".join(parts[2:])
    files = [inside] if inside else [preferred] if preferred else list(wanted)
    folder = snapshot(name, [*files, *CONFIGS, *LICENCES])
    return folder / inside if inside else folder


def _weights(folder: Path, preferred: str | None) -> Path:
    """The one file of weights in a folder; safetensors before pickles."""
    if preferred and (folder / preferred).is_file():
        return folder / preferred
    for suffixes in (SAFE, PICKLED):
        found = [path for path in file_listing.visible_files(folder, "*") if path.suffix in suffixes]
        usual = [path for path in found if path.stem in ("weights", "model", "pytorch_model")]
        if len(found) == 1 or usual:
            return (usual or found)[0]
        if found:
            raise ValueError(f"{folder} holds {', '.join(path.name for path in found)}; name the file itself")
    raise FileNotFoundError(f"{folder} holds no weights ({', '.join((*SAFE, *PICKLED))})")


def _opened(file: Path) -> tuple[Any, dict[str, Tensor]]:
    """The other contents of a file, and its tensors."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix in SAFE:
        return {}, tensor_files.load_tensors(file)
    content = tensor_files.load_weights_only(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not tensors by name")
    nest = next((name for name in NESTS if isinstance(content.get(name), Mapping)), None)
    tensors = content if nest is None else content[nest]
    found = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not found:
        raise ValueError(f"{file} holds no tensors; it has {', '.join(map(str, list(content)[:8]))}")
    return {key: value for key, value in content.items() if key != nest and isinstance(value, Mapping)}, found


def _document(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration {path}")
    if path.suffix == ".json":
        return tensor_files.load_json(path)
    return load_yaml(path)


def _flat(document: Any) -> dict[str, Any]:
    """All values by dotted names; bounded, since parts of a document may refer to each other."""
    waiting, found = [("", document)], dict[str, Any]()
    for prefix, part in waiting:  # grows in the loop
        for key, value in part.items() if isinstance(part, Mapping) else ():
            if isinstance(value, Mapping):
                waiting.append((f"{prefix}{key}.", value))
            else:
                found[f"{prefix}{key}"] = value
        if len(waiting) + len(found) > MAX_VALUES or prefix.count(".") > MAX_DEPTH:
            raise ValueError(
                f"the configuration holds more than {MAX_VALUES} values, or values below more than {MAX_DEPTH} names; "
                "give that of the network alone"
            )
    return found
