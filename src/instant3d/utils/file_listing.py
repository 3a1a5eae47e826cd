"""Directory listing without hidden files: macOS leaves `._name` beside files, killed processes partial ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def is_hidden(path: str | Path) -> bool:
    """Whether any part of a relative path begins with a dot."""
    return any(part.startswith(".") and part not in (".", "..") for part in Path(path).parts)


def visible_files(folder: str | Path, pattern: str) -> list[Path]:
    """Return the files and folders in `folder` that match a pattern such as `*.tar` or `**/transforms.json`, sorted."""
    return sorted(_visible(Path(folder), pattern))


def any_visible_files(folder: str | Path, pattern: str) -> bool:
    """Whether at least one file matches; stops at the first match."""
    return next(_visible(Path(folder), pattern), None) is not None


def _visible(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in folder.glob(pattern) if not is_hidden(path.relative_to(folder)))
