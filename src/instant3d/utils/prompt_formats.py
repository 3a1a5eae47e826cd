"""Formats of prompt lists: text with one prompt a line, JSON, JSON lines, and CSV with a column of prompts."""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterable
from typing import Any

PROMPT_KEYS = ("prompt", "caption", "text")  # a column or field with one of these names holds the prompts
NAME = re.compile(r"\w+")  # of a column

Entry = tuple[str, object]  # where it was read, and its text or another value


def split_entries(data: bytes, name: str, *, note_comments: bool = True) -> list[Entry]:
    """Split the content of a prompt list into its entries, by its content and the ending of its name.

    Args:
        data: The content, in UTF-8 with or without a byte order mark.
        name: Name of the list for messages.
        note_comments: Warn of lines that are left out because they begin with `#`.

    Returns:
        Where each entry was read, such as "list.txt line 3", and its value: a text for a valid entry. Bytes that are
        not UTF-8 become lone surrogates.

    Raises:
        ValueError: It begins like JSON but is not a JSON list of prompts, or is a table without a column of prompts.
    """
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    if text.lstrip()[:1] in ("[", "{"):
        return _json_entries(text, name)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = "\t" if "\t" in first else ","
    if name.lower().endswith((".csv", ".tsv")) or _is_header(first.split(separator)):
        return _table_entries(text, name, separator)
    return _line_entries(data.removeprefix(b"\xef\xbb\xbf"), name, note_comments)


def _line_entries(data: bytes, name: str, note_comments: bool) -> list[Entry]:
    """One prompt a line; lines that begin with `#` are left out."""
    lines = [(number, line.strip()) for number, line in enumerate(data.splitlines(), 1)]
    comments = [number for number, line in lines if line.startswith(b"#")]
    if comments and note_comments:
        many = f"{len(comments)} lines that begin" if len(comments) > 1 else f"line {comments[0]}, which begins"
        warnings.warn(f"{name}: {many} with # left out as comments", stacklevel=4)
    return [
        (f"{name} line {number}", line.decode(errors="surrogateescape"))
        for number, line in lines
        if line and not line.startswith(b"#")
    ]


def _json_entries(text: str, name: str) -> list[Entry]:
    try:
        return _numbered(_json_list(json.loads(text), name), f"{name} entry")
    except ValueError as error:  # also of a number with too many digits
        lines = [line for line in text.splitlines() if line.strip()]
        if getattr(error, "msg", None) != "Extra data" or not all(line.lstrip().startswith("{") for line in lines):
            raise ValueError(
                f"{name} begins like JSON, but is not valid ({error}); expected a JSON list, or text with "
                "one prompt a line"
            ) from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deeply; expected a JSON list of texts") from error
    return _numbered([_json_line(line, name) for line in lines], f"{name} entry")


def _json_line(line: str, name: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{name} is not valid JSON lines ({error}); expected one object with a prompt a line"
        ) from error


def _json_list(content: Any, name: str) -> list[Any]:
    """The list itself, or the only list in an object, as prompt libraries have."""
    if isinstance(content, list):
        return content
    lists = [value for value in content.values() if isinstance(value, list)]
    if len(lists) == 1:
        return lists[0]
    if _field(content) is not None:
        return [content]
    raise ValueError(
        f"{name} is a JSON object with {len(lists)} lists; expected a list of texts, or an object with one"
    )


def _numbered(values: Iterable[Any], where: str) -> list[Entry]:
    return [
        (f"{where} {number}", _field(value) if isinstance(value, dict) else value)
        for number, value in enumerate(values, 1)
    ]


def _field(record: dict[str, Any]) -> Any:
    """The value of an object's field of prompts; None if it has none."""
    return next((record[key] for key in PROMPT_KEYS if key in record), None)


def _table_entries(text: str, name: str, separator: str) -> list[Entry]:
    """The column of prompts of a table whose first row names the columns; rows are counted as a spreadsheet does.

    A quoted text may have several lines, which are joined.
    """
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [(number, row) for number, row in enumerate(table, 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{name} is not a valid table ({error}); save it again, or write one prompt a line") from error
    column = _column(rows[0][1]) if rows else None
    if column is None:
        raise ValueError(
            f"{name} is a table without a column of prompts; name one {' or '.join(PROMPT_KEYS)} in its first line, or "
            "save the prompts as text, one a line"
        )
    return [
        (f"{name} row {number}", " ".join(row[column].splitlines()) if column < len(row) else "")
        for number, row in rows[1:]
    ]


def _is_header(cells: list[str]) -> bool:
    """Whether a first line names columns, one of them that of the prompts; "text, on a sign" is a prompt."""
    return len(cells) > 1 and all(NAME.fullmatch(cell.strip('"')) for cell in cells) and _column(cells) is not None


def _column(header: list[str]) -> int | None:
    """Number of the column that holds the prompts."""
    names = [cell.strip().strip('"').lower() for cell in header]
    return next((names.index(key) for key in PROMPT_KEYS if key in names), None)
