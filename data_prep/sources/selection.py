"""Selection of Objaverse's objects, as rows of the manifest, without downloads."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..manifests.licences import Allowed, spdx
from ..manifests.object_manifest import SUFFIXES, Row
from .objaverse import UID, ObjaverseStore

AHEAD = 1.25  # how many more annotations are looked at than objects are wanted: about one in ten has another licence
COLUMNS = {"fileIdentifier", "license", "fileType", "sha256"}
MAX_LIST_BYTES = 2**28


@dataclass(frozen=True)
class Selection:
    """A user's choice: by LVIS categories or by name; then the first `count` of what remains.

    Attributes:
        lvis: LVIS categories; `all` is every one.
        names: uids; for Objaverse-XL file identifiers or SHA-256s.
        count: How many objects; all if None.
        seed: Seed of a random order, of which the first objects are a fair sample; the data set's own order if None.
    """

    lvis: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None
    count: int | None = None
    seed: int | None = None

    def ordered(self, names: dict[str, str]) -> list[str]:
        """Names in order.

        Args:
            names: Of each name, the key of the data set's own order.
        """
        if self.seed is None:
            return sorted(names, key=lambda name: names[name])
        return sorted(names, key=lambda name: hashlib.sha256(f"{self.seed}/{name}".encode()).digest())


def names_in(path: Path) -> tuple[str, ...]:
    """Names in a text file, one a line, or in a JSON list."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no list {path}; expected a text file with one name a line, or a JSON list")
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ValueError(f"{path} is larger than {MAX_LIST_BYTES} bytes; is it a list of names?")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as such") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} begins as a JSON list but is none ({error}); write it again") from error
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} should be a list of names, one a line or in JSON")
    names = tuple(dict.fromkeys(name.strip() for name in found if name.strip()))
    if not names:
        raise ValueError(f"{path} names no objects; expected one name a line, or a JSON list")
    return names


def objaverse(store: ObjaverseStore, wanted: Selection, allowed: Allowed, others: dict[str, int]) -> Iterator[Row]:
    """Yield rows of the selected objects of Objaverse 1.0.

    Args:
        store: Objaverse's package and its cache.
        wanted: The selection.
        allowed: Which licences to take.
        others: Counts of objects under other licences, by kind; extended here.

    Raises:
        ValueError: A name is no uid, or no LVIS category of Objaverse.
    """
    paths = store.paths()
    categories = _categories(store, wanted.lvis) if wanted.lvis else {}
    names = categories if wanted.lvis else (paths if wanted.names is None else wanted.names)
    uids = wanted.ordered({uid: paths.get(uid, "") for uid in names if UID.fullmatch(uid)})
    if len(uids) < len(names):
        odd = next(name for name in names if not UID.fullmatch(name))
        raise ValueError(f"{odd!r} is no uid of Objaverse; expected 32 hexadecimal digits")
    found, start = 0, 0
    while start < len(uids):
        many = len(uids) if wanted.count is None else int((wanted.count - found) * AHEAD) + 16
        some, start = uids[start : start + many], start + many
        for row in _described(store, paths, some, categories):
            if not allowed(row["license"]) and row["uid"] in paths:
                _count(others, row["license"], 1)
                continue
            yield row
            found += 1
            if found == wanted.count:
                return


def objaverse_xl(
    store: ObjaverseStore, source: str, wanted: Selection, allowed: Allowed, others: dict[str, int]
) -> list[Row]:
    """Rows of the selected objects of one source of Objaverse-XL, each with `expected`, the SHA-256 of its file.

    Args:
        store: Objaverse's package and its cache.
        source: One of `XL_SOURCES`.
        wanted: The selection.
        allowed: Which licences to take.
        others: Counts of objects under other licences, by kind; extended here.

    Raises:
        ValueError: The source's table lacks a column.
    """
    table = store.xl_annotations(source)
    if not set(table.columns) >= COLUMNS:
        raise ValueError(f"Objaverse-XL's table of {source} lacks {', '.join(sorted(COLUMNS - set(table.columns)))}")
    table = table[table["fileType"].str.lower().isin([suffix[1:] for suffix in SUFFIXES])]
    if wanted.names is not None:
        table = table[table["fileIdentifier"].isin(wanted.names) | table["sha256"].isin(wanted.names)]
    identifiers = {name: spdx(name) for name in table["license"].dropna().unique()}
    licences = table["license"].map(identifiers)
    fine = licences.map({name: allowed(name) for name in identifiers.values()}).eq(True) | (
        licences.isna() & allowed(None)
    )
    for name, many in licences[~fine].fillna("").value_counts().items():
        _count(others, name, int(many))
    table = table.assign(license=licences)[fine].drop_duplicates("fileIdentifier").set_index("fileIdentifier")
    names = wanted.ordered({name: name for name in table.index})[: wanted.count]
    return [
        _xl_row(source, name, record) for name, record in zip(names, table.loc[names].to_dict("records"), strict=True)
    ]


def _count(others: dict[str, int], licence: str | None, many: int) -> None:
    kind = f"under {licence or 'no known licence'}"
    others[kind] = others.get(kind, 0) + many


def _categories(store: ObjaverseStore, wanted: Sequence[str]) -> dict[str, str]:
    """The first wanted category of each uid."""
    known = store.lvis()
    chosen = sorted(known) if "all" in wanted else wanted
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or sorted(known)[:3]
            raise ValueError(f"{name!r} is no LVIS category of Objaverse; did you mean {', '.join(near)}?")
    categories: dict[str, str] = {}
    for name in chosen:
        for uid in known[name]:
            categories.setdefault(uid, name)
    return categories


def _described(
    store: ObjaverseStore, paths: dict[str, str], uids: Sequence[str], categories: dict[str, str]
) -> list[Row]:
    """Rows in the order of `uids`; each shard's annotations are read once."""
    shards: dict[str, list[str]] = {}
    for uid in uids:
        if uid in paths:
            shards.setdefault(paths[uid].split("/")[1], []).append(uid)
    rows: dict[str, Row] = {}
    for shard in sorted(shards):
        for uid, note in store.annotations(shard, shards[shard]).items():
            rows[uid] = _row(uid, note, categories.get(uid))
    return [rows.get(uid) or _row(uid, {}, categories.get(uid)) for uid in uids]


def _row(uid: str, note: dict[str, Any], category: str | None) -> Row:
    user = note.get("user")
    return {
        "id": uid,
        "uid": uid,
        "source": "objaverse",
        "license": spdx(note.get("license")),
        "captions": [in_words(category)] if category else [],
        "name": note.get("name"),
        "author": user.get("username") if isinstance(user, dict) else None,
        "url": note.get("viewerUrl"),
        "category": category,
    }


def in_words(category: str) -> str:
    """A category of LVIS in plain words: `bow_(weapon)` becomes "bow"."""
    return re.sub(r"\s+", " ", re.sub(r"\(.*?\)", "", category).replace("_", " ")).strip()


def _xl_row(source: str, identifier: str, record: dict[str, Any]) -> Row:
    licence = record["license"] if isinstance(record["license"], str) else None
    row = {"license": licence, "expected": record["sha256"], "captions": []}
    if source == "sketchfab":  # Objaverse 1.0 under another name
        uid = identifier.rsplit("/", 1)[-1]
        return row | {"id": uid, "uid": uid, "source": "objaverse", "url": identifier}
    try:
        note = json.loads(record.get("metadata") or "{}")
    except (ValueError, TypeError):
        note = {}
    name = note.get("title") if isinstance(note, dict) else None
    author = identifier.split("/")[3] if source == "github" else "Smithsonian Institution"
    own = {"source": f"objaverse-xl/{source}", "url": identifier, "author": author, "name": name}
    return row | own | {"id": record["sha256"], "uid": identifier}
