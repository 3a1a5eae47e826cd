"""Which object files there are and what is known of them. Knows nothing of what is in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".glb", ".gltf", ".obj", ".ply")
MANIFEST = "manifest.jsonl"
SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
PASSED_ON = ("split", "license", "source", "colors")  # fields of a manifest that a scene keeps


@dataclass(frozen=True)
class Item:
    """One object: a file and the words and facts that travel with it."""

    id: str
    path: Path
    caption: str | None
    facts: dict[str, Any]


def find(source: str | Path, *, split: str | None = None, licenses: Collection[str] | None = None) -> list[Item]:
    """The objects of a folder (by its manifest.jsonl if it has one) or of a .jsonl manifest, in order.

    split, licenses  keep only objects whose manifest says so; without a manifest nothing is kept
    """
    items = [item for item in _all(Path(source)) if _wanted(item, split, licenses)]
    if not items:
        asked = f" of split {split!r}" if split else ""
        asked += f" under {', '.join(sorted(licenses))}" if licenses else ""
        raise ValueError(f"{source} names no objects{asked}; expected {', '.join(SUFFIXES)} files or a {MANIFEST}")
    return items


def _all(source: Path) -> Iterator[Item]:
    if source.is_dir() and not (source / MANIFEST).is_file():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        for path in files:
            yield Item(_id_from(path.relative_to(source)), path, None, {})
        return
    manifest = source / MANIFEST if source.is_dir() else source
    if not manifest.is_file():
        raise FileNotFoundError(f"there is no folder or manifest {source}")
    yield from _rows(manifest)


def _id_from(path: Path) -> str:
    """A name that can be a folder's: `chairs/red one.glb` becomes `chairs__red_one`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", "__".join(path.with_suffix("").parts)).lstrip(".-") or "_"


def _rows(manifest: Path) -> Iterator[Item]:
    folder = manifest.parent.resolve()
    for number, line in enumerate(manifest.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{manifest}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error})") from error
        if not isinstance(row, dict) or not {"id", "file"} <= set(row):
            raise ValueError(f"{where} should be an object with `id` and `file`")
        path = (folder / str(row["file"])).resolve()
        if not path.is_relative_to(folder):
            raise ValueError(f"{where} names {row['file']!r}, which lies outside {folder}")
        if not SAFE_ID.fullmatch(str(row["id"])):
            raise ValueError(f"{where} has the id {row['id']!r}; letters, digits, `.`, `_` and `-` make an id")
        caption = row.get("caption") or row.get("name")
        yield Item(row["id"], path, caption, {key: row[key] for key in PASSED_ON if key in row})


def _wanted(item: Item, split: str | None, licenses: Collection[str] | None) -> bool:
    return (split is None or item.facts.get("split") == split) and (
        licenses is None or item.facts.get("license") in licenses
    )
