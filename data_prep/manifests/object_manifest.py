"""Manifests of object files: objects.jsonl and manifest.jsonl."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from instant3d.utils import file_listing
from instant3d.utils.atomic import partial_file

from .licences import spdx

SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
MANIFESTS = ("objects.jsonl", "manifest.jsonl")  # the first that a folder holds lists its objects
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
VARIANT = ("variant_of", "turned_deg", "stretched", "mirrored")  # what a row of `data_prep.variants` has beside others
# Fields of a manifest that a scene keeps.
PASSED_ON = ("split", "license", "source", "colors", "name", "author", "url", *VARIANT)
TRAIN = "train"  # the split of objects whose manifest names none
MAX_MANIFEST_BYTES = 2**32  # a million rows take about half a gigabyte

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One object: a file with its caption and facts; `row` is the whole row of its manifest."""

    id: str
    path: Path
    caption: str | None
    facts: dict[str, Any]
    row: Row = field(default_factory=dict)

    @property
    def up(self) -> Literal["y", "z"]:
        """Up axis of an .obj or .ply, whose formats do not define it; y unless the manifest's row has another."""
        return "z" if self.row.get("up") == "z" else "y"


def find(source: str | Path, *, split: str | None = None, licenses: Collection[str] | None = None) -> list[Item]:
    """The objects of a folder (by its objects.jsonl or manifest.jsonl if it has one) or of a .jsonl manifest, in order.

    Args:
        source: Folder or manifest.
        split: Keep only objects of this split; objects without one belong to "train".
        licenses: Keep only objects under these licences; those without a licence are left out.
    """
    asked_for = None if licenses is None else {spdx(name) for name in licenses}
    items = [item for item in _all(Path(source)) if _wanted(item, split, asked_for)]
    if not items:
        asked = f" of split {split!r}" if split else ""
        asked += f" under {', '.join(sorted(licenses))}" if licenses else ""
        raise ValueError(
            f"{source} names no objects{asked}; expected {', '.join(SUFFIXES)} files or a {' or '.join(MANIFESTS)}"
        )
    return items


def find_all(
    sources: Sequence[str | Path], *, split: str | None = None, licenses: Collection[str] | None = None
) -> list[Item]:
    """The objects of several folders and manifests, in order.

    Args:
        sources: Folders and manifests.
        split: As in `find`.
        licenses: As in `find`.

    Raises:
        ValueError: A source names no objects, or two objects have the same id.
    """
    items = [item for source in sources for item in find(source, split=split, licenses=licenses)]
    name, times = Counter(item.id for item in items).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} objects have the id {name!r}; each needs its own")
    return items


class ContainedFiles:
    """Files of a folder by name, wherever links lead: quick for many files, as folders on the way are followed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder)
        self._real: dict[str, str] = {}

    def path(self, name: str) -> Path | None:
        """The real place of a file; None if that is not in the folder."""
        if "\0" in name:
            return None
        parent, last = os.path.split(os.path.join(self.folder, name))
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        real = os.path.join(self._real[parent], last)
        if last in ("", ".", "..") or os.path.islink(real):
            real = os.path.realpath(real)
        return Path(real) if os.path.commonpath([self.folder, real]) == self.folder else None


def files(folder: Path) -> list[Path]:
    """The object files in a folder at any depth, sorted by path; folders that are links are not entered."""
    return [
        path
        for path in file_listing.visible_files(folder, "**/*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]


def id_from(path: Path) -> str:
    """A name that can be a folder's: `chairs/red one.glb` becomes `chairs__red_one`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", "__".join(path.with_suffix("").parts)).lstrip(".-")[:200] or "_"


def read_rows(manifest: Path) -> Iterator[tuple[str, Row]]:
    """Each row of a manifest, after where it stands; ids are safe names and files lie in the manifest's folder."""
    if manifest.stat().st_size > MAX_MANIFEST_BYTES:
        raise ValueError(f"{manifest} is larger than {MAX_MANIFEST_BYTES} bytes; split it into several manifests")
    inside = ContainedFiles(manifest.parent)
    with manifest.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{manifest}, line {number}"
                yield where, _checked(line, where, inside)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as JSON lines, sorted by id; the file appears whole or not at all."""
    with partial_file(path) as partial, partial.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in sorted(rows, key=lambda row: str(row["id"])))


def words(row: Mapping[str, Any]) -> list[str]:
    """Texts of a row's object, best first: its captions; without that field a caption or a name."""
    if "captions" in row:
        return [str(words) for words in row["captions"]]
    return [str(row[key]) for key in ("caption", "name") if row.get(key)][:1]


def facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a scene keeps, the licence by its SPDX identifier."""
    kept = {key: row[key] for key in PASSED_ON if key in row}
    licence = row.get("license", row.get("licence"))
    return kept | ({"license": spdx(licence)} if licence else {})


def _all(source: Path) -> Iterator[Item]:
    manifest = next((source / name for name in MANIFESTS if (source / name).is_file()), source)
    if manifest.is_dir():
        for path in files(manifest):
            yield Item(id_from(path.relative_to(source)), path, None, {})
        return
    if not manifest.is_file():
        raise FileNotFoundError(f"there is no folder or manifest {source}")
    inside = ContainedFiles(manifest.parent)
    for where, row in read_rows(manifest):
        if not row.get("file"):
            raise ValueError(
                f"{where}: {row['id']!r} has no file yet; run `instant3d data sources` without --no-download"
            )
        file = inside.path(row["file"])
        assert file is not None, "rows are checked as they are read"
        yield Item(row["id"], file, next(iter(words(row)), None), facts(row), row)


def _checked(line: str, where: str, inside: ContainedFiles) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error})") from error
    if not isinstance(row, dict) or "id" not in row or not {"file", "uid"} & set(row):
        raise ValueError(f"{where} should be an object with `id` and `file`")
    if not isinstance(row["id"], str) or not SAFE_ID.fullmatch(row["id"]):
        raise ValueError(f"{where} has the id {row['id']!r}; letters, digits, `.`, `_` and `-` make an id")
    file = row.get("file") or "."
    if not isinstance(file, str) or inside.path(file) is None:
        raise ValueError(f"{where} names {file!r}, which lies outside {inside.folder}")
    if row.get("up", "y") not in ("y", "z"):
        raise ValueError(f"{where} has {row['up']!r:.40} as `up`; expected y or z")
    captions, licence = row.get("captions", []), row.get("license", row.get("licence"))
    if not isinstance(captions, list) or not isinstance(licence, str | None):
        raise ValueError(f"{where} should have a list as `captions` and words as `license`")
    return row


def _wanted(item: Item, split: str | None, licenses: Collection[str | None] | None) -> bool:
    return (split is None or item.facts.get("split", TRAIN) == split) and (
        licenses is None or item.facts.get("license") in licenses
    )
