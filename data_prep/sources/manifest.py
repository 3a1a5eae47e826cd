"""The growing manifest objects.jsonl: one row per object, unique ids and contents, written whole or not at all.

Files lie in the manifest's folder or below; others are brought in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from instant3d.utils import file_listing
from instant3d.utils.atomic import partial_file

from ..manifests import object_manifest
from ..manifests.object_manifest import SAFE_ID, Row

FIELDS = (
    *(
        "id",
        "file",
        "uid",
        "source",
        "license",
        "captions",
        "name",
        "author",
        "url",
        "category",
        "split",
        "colors",
        "up",
    ),
    *object_manifest.VARIANT,
)
SIDECARS = (".mtl", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff")  # of .obj and .gltf
WHOLE = (".glb", ".ply")  # formats that need no other file


class Manifest:
    """The rows of one objects.jsonl by id, and what was left out and why (objects.failures.jsonl beside it)."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent.resolve()
        self.failures_path = path.with_name(path.stem + ".failures.jsonl")
        self.rows: dict[str, Row] = {}
        self.left_out: dict[str, Row] = {}
        if path.is_file():
            for where, row in object_manifest.read_rows(path):
                if row["id"] in self.rows:
                    raise ValueError(f"{where} repeats the id {row['id']!r}; each object needs its own")
                self.rows[row["id"]] = row
        if self.failures_path.is_file():
            self.left_out = {row["id"]: row for _, row in object_manifest.read_rows(self.failures_path)}
        self._since = path.stat().st_mtime if path.is_file() else 0.0
        self._brought: set[Path] = set()
        self._ids_by_content: dict[str, list[str]] = {}
        self._id_by_file = {row["file"]: name for name, row in self.rows.items() if row.get("file")}
        for name, row in self.rows.items():
            self._ids_by_content.setdefault(row.get("sha256", ""), []).append(name)

    def has(self, row: Row, file: Path | None = None) -> bool:
        """Whether this object was added before and its file is as it was then, by size and date.

        Args:
            row: Its row.
            file: Its expected file; by default the file that it had.
        """
        known = self.rows.get(row["id"])
        if known is None or not (known.get("file") or file):
            return False
        file = file or self.folder / known["file"]
        row = row | {"file": self._below(file)}
        self._refuse_another(known, row)
        status = file.stat() if file.is_file() else None
        same = status and (known.get("file"), known.get("bytes")) == (row["file"], status.st_size)
        return bool(same and status and status.st_mtime < self._since)

    def holder(self, file: Path) -> str | None:
        """The id of the object that has this file."""
        return self._id_by_file.get(self._below(file))

    def add(self, row: Row, file: Path) -> bool:
        """Add or update an object; False (and recorded as a duplicate) if another one has the same content.

        Args:
            row: `id` and the known FIELDS except `file`.
            file: A file inside the manifest's folder.
        """
        row = row | {"file": self._below(file), "sha256": digest(file), "bytes": file.stat().st_size}
        if row["id"] in self.rows:
            self._refuse_another(self.rows[row["id"]], row)
        twin = self._twin(row, file)
        if twin is not None:
            self.leave_out(row, "duplicate", f"the same content as {twin}")
            return False
        self._ids_by_content.setdefault(row["sha256"], []).append(row["id"])
        self._id_by_file[row["file"]] = row["id"]
        self._put(row)
        return True

    def expect(self, row: Row) -> bool:
        """Add an object that is not downloaded yet; True if it is there with a file from another time."""
        known = self.rows.get(row["id"])
        if known is not None:
            self._refuse_another(known, row)
        if known is None or not known.get("file"):
            self._put(row)
        return bool(known and known.get("file"))

    def leave_out(self, row: Row, kind: str, reason: str) -> None:
        """Record why an object is not in the manifest, and remove the row that it had from the same source.

        Args:
            row: Its row.
            kind: The reason in one word, such as "missing" or "duplicate".
            reason: The reason in a sentence.
        """
        known = {name: row[name] for name in ("id", "file", "uid", "source") if row.get(name) is not None}
        if self.rows.get(row["id"], {}).get("source") == row.get("source"):
            self.rows.pop(row["id"], None)
        self.left_out[row["id"]] = {"file": "", "uid": "", **known, "kind": kind, "reason": reason}

    def bring_in(self, file: Path, root: Path) -> Path:
        """The file inside the manifest's folder: itself, or linked (copied from another disk) below objects/.

        Args:
            file: The object's file.
            root: The source folder; materials and images beside an .obj or .gltf file are linked too.
        """
        if file.resolve().is_relative_to(self.folder):
            return file
        place = self.folder / "objects" / f"{root.resolve().name.lstrip('.')}-{_fingerprint(root)}"
        if file.suffix.lower() not in WHOLE and file.parent not in self._brought:
            self._brought.add(file.parent)
            for other in file_listing.visible_files(file.parent, "**/*"):
                if other.suffix.lower() in SIDECARS and other.is_file() and inside(other, root):
                    link(other, place / other.relative_to(root))
        link(file, place / file.relative_to(root))
        return place / file.relative_to(root)

    def save(self) -> None:
        """Write both files, sorted by id; equal contents make equal bytes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        object_manifest.write_rows(self.path, self.rows.values())
        if self.left_out:
            object_manifest.write_rows(self.failures_path, self.left_out.values())
        else:
            self.failures_path.unlink(missing_ok=True)

    def _put(self, row: Row) -> None:
        if not SAFE_ID.fullmatch(row["id"]):
            raise ValueError(f"{row['id']!r} cannot be an id; letters, digits, `.`, `_` and `-` make one")
        self.rows[row["id"]] = {name: row[name] for name in (*FIELDS, "sha256", "bytes") if row.get(name) is not None}
        self.left_out.pop(row["id"], None)

    def _below(self, file: Path) -> str:
        return file.resolve().relative_to(self.folder).as_posix()

    def _refuse_another(self, known: Row, row: Row) -> None:
        """An object is the same as before if its source says so, or, in a folder, if it is the same file."""
        keys = ("source", "uid") if known.get("uid") or row.get("uid") else ("file",)
        if [known.get(key) for key in keys] != [row.get(key) for key in keys]:
            one, other = (f"{it.get('uid') or it.get('file')} ({it.get('source')})" for it in (known, row))
            raise ValueError(
                f"{one} and {other} have the same id {row['id']!r}; rename one, or add its folder by a --prefix"
            )

    def _twin(self, row: Row, file: Path) -> str | None:
        for other in self._ids_by_content.get(row["sha256"], []):
            known = self.rows.get(other)
            if other == row["id"] or known is None or not (self.folder / known["file"]).is_file():
                continue
            if file.suffix.lower() in WHOLE or _beside(file) == _beside(self.folder / known["file"]):
                return other
        return None


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def inside(file: Path, folder: Path) -> bool:
    """Whether a file lies in a folder even after all links are followed."""
    return file.resolve().is_relative_to(folder.resolve())


def link(file: Path, target: Path) -> None:
    """Make `target` the same file, or a copy where the disk is another; a copy as large and as old is kept."""
    if target.is_file():
        there, here = target.stat(), file.stat()
        if target.samefile(file) or (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(target) as partial:
        partial.unlink()  # a link needs a free name
        try:
            os.link(file.resolve(), partial)
        except OSError:  # another disk, or one without links
            shutil.copy2(file, partial)


def _fingerprint(root: Path) -> str:
    """A hash of a folder's path, to distinguish folders of the same name."""
    return hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]


def _beside(file: Path) -> dict[str, str]:
    """Files from which an .obj or .gltf may take its look: those in its folder, by name."""
    others = (
        other
        for other in file_listing.visible_files(file.parent, "*")
        if other.suffix.lower() in SIDECARS and other.is_file()
    )
    return {other.name: digest(other) for other in others}
