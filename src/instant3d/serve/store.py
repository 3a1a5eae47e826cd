"""The jobs of a server in an SQLite file: their order, states and results survive a kill at any time."""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

VERSION = 1
ID = re.compile(r"[A-Za-z0-9_-]{22}")  # as `new_id` makes them
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'queued',
    kind TEXT NOT NULL,
    prompt TEXT,
    options TEXT NOT NULL,
    created TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    error TEXT,
    result TEXT,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
"""


@dataclass(frozen=True)
class StoredJob:
    """A row of the database.

    Attributes:
        number: Its place in the order of creation.
        id: Its name in the API, which cannot be guessed.
        state: "queued", "running", "done", "failed" or "cancelled".
        kind: "text" or "images".
        prompt: The prompt of a text job.
        options: The options as JSON has them.
        created: When it came; times are ISO 8601 in UTC.
        started: When it began last.
        finished: When it ended.
        error: Why it failed.
        result: The content of result.json.
        attempts: How often it was begun.
    """

    number: int
    id: str
    state: str
    kind: str
    prompt: str | None
    options: dict[str, Any]
    created: str
    started: str | None
    finished: str | None
    error: str | None
    result: dict[str, Any] | None
    attempts: int


class JobStore:
    """The jobs, in the order of their creation. It may be used from several threads.

    Args:
        path: The database, which is created if it does not exist.

    Raises:
        ValueError: The file is no database of this version.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise ValueError(f"{path} was written by another version; name another folder by --data")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.executescript(SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path} is no database of jobs ({error}); name another folder by --data") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, kind: str, prompt: str | None, options: dict[str, Any], name: str | None = None) -> StoredJob:
        """Append a job to the queue.

        Args:
            kind: "text" or "images".
            prompt: The prompt, if any.
            options: The job's options, as JSON values.
            name: Its id; by default a new random one.

        Returns:
            The job as stored.
        """
        row = (name or new_id(), kind, prompt, json.dumps(options), now())
        self._run("INSERT INTO jobs (id, kind, prompt, options, created) VALUES (?, ?, ?, ?, ?)", row)
        return self.get(row[0])

    def get(self, name: str) -> StoredJob:
        """Return a job.

        Raises:
            KeyError: There is none of that id.
        """
        found = self._select("SELECT * FROM jobs WHERE id = ?", (name,))
        if not found:
            raise KeyError(name)
        return found[0]

    def has(self, name: str) -> bool:
        """Whether there is a job of that id."""
        return bool(self._select("SELECT * FROM jobs WHERE id = ?", (name,)))

    def newest(self, limit: int, before: int | None = None) -> list[StoredJob]:
        """Return the newest jobs first, those with a smaller number than `before`."""
        return self._select(
            "SELECT * FROM jobs WHERE number < ? ORDER BY number DESC LIMIT ?", (before or 2**62, limit)
        )

    def waiting(self) -> list[StoredJob]:
        """Return the queued jobs, the next one first."""
        return self._select("SELECT * FROM jobs WHERE state = 'queued' ORDER BY number", ())

    def count(self, state: str) -> int:
        """Return how many jobs are in a state."""
        with self._lock:
            return self._connection.execute("SELECT COUNT(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0]

    def position(self, number: int) -> int:
        """Return how many queued jobs come before the one with that number."""
        with self._lock:
            return self._connection.execute(
                "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND number < ?", (number,)
            ).fetchone()[0]

    def start(self, names: Iterable[str]) -> None:
        """Mark queued jobs as running."""
        rows = [(now(), name) for name in names]
        self._run_many(
            "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1 WHERE id = ? AND state = 'queued'",
            rows,
        )

    def finish(self, name: str, result: dict[str, Any]) -> None:
        """Mark a running job as done."""
        self._end(name, "done", None, result)

    def fail(self, name: str, error: str) -> None:
        """Mark a job as failed."""
        self._end(name, "failed", error, None)

    def cancel(self, name: str) -> None:
        """Mark a job as cancelled."""
        self._end(name, "cancelled", None, None)

    def requeue(self, names: Iterable[str] | None = None) -> None:
        """Put running jobs back at their places in the queue: those of `names`, or all."""
        if names is None:
            self._run("UPDATE jobs SET state = 'queued', started = NULL WHERE state = 'running'", ())
        else:
            self._run_many(
                "UPDATE jobs SET state = 'queued', started = NULL WHERE id = ? AND state = 'running'",
                [(name,) for name in names],
            )

    def delete(self, name: str) -> None:
        """Delete a job."""
        self._run("DELETE FROM jobs WHERE id = ?", (name,))

    def _end(self, name: str, state: str, error: str | None, result: dict[str, Any] | None) -> None:
        self._run(
            "UPDATE jobs SET state = ?, error = ?, result = ?, finished = ? "
            "WHERE id = ? AND state IN ('queued', 'running')",
            (state, error, None if result is None else json.dumps(result), now(), name),
        )

    def _run(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._lock:
            self._connection.execute(statement, values)

    def _run_many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")

    def _select(self, statement: str, values: tuple[Any, ...]) -> list[StoredJob]:
        with self._lock:
            rows = [dict(row) for row in self._connection.execute(statement, values).fetchall()]
        for row in rows:
            row["options"] = json.loads(row["options"])
            row["result"] = None if row["result"] is None else json.loads(row["result"])
        return [StoredJob(**row) for row in rows]


def new_id() -> str:
    """Return a random id of 128 bits."""
    return secrets.token_urlsafe(16)


def now() -> str:
    """Return the time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
