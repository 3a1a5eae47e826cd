"""The file failures.jsonl: which objects failed, why and how often.

During a run rows are only appended and the last row of an object counts, so that a killed run loses at most one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any

from instant3d.utils import atomic

FILE = "failures.jsonl"
PASSING = ("crash", "timeout", "memory")  # kinds that may be a neighbour's fault: worth a second attempt
ATTEMPTS = 2

Row = dict[str, Any]  # id, file, reason, kind, seconds, attempts


class FailureLog:
    """Failures of objects; `with FailureLog(out) as failures` keeps the file open for appending."""

    def __init__(self, out: Path) -> None:
        self.path = out / FILE
        self.rows = read(self.path) if self.path.is_file() else {}

    def __enter__(self) -> FailureLog:
        self.file = self.path.open("ab")
        if _is_cut(self.path):
            self.file.write(b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.file.close()

    def add(self, row: Row) -> None:
        """Append a row and flush it to the disk."""
        self.rows[row["id"]] = row
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()

    def may_retry(self, object_id: str) -> bool:
        """Whether an object has failed, but fewer times than it may be tried."""
        row = self.rows.get(object_id)
        return row is not None and row.get("kind") in PASSING and int(row.get("attempts", ATTEMPTS)) < ATTEMPTS

    def forget(self, ids: Collection[str]) -> None:
        """Remove the failures of these objects."""
        self.rows = {name: row for name, row in self.rows.items() if name not in set(ids)}

    def settle(self, out: Path) -> None:
        """Leave one row for each object that has failed and has no scene; no file if there is none."""
        rows = [row for row in self.rows.values() if not (out / row["id"] / "transforms.json").is_file()]
        if not rows:
            self.path.unlink(missing_ok=True)
            return
        atomic.write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def read(path: Path) -> dict[str, Row]:
    """The last row of each object; a row that a killed run left half-written is passed over."""
    rows: dict[str, Row] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                rows[row["id"]] = row
    return rows


def _is_cut(path: Path) -> bool:
    """Whether the last line has no end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
