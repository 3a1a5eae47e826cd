"""Text files of labels, rankings and lists of ids.

labels    lines `ID <tab> good`, or the JSON that the labelling page exports
ranking   JSON lines {"rank", "id", "score"[, "label"]}, best first
list      an id on each line, as `instant3d cache-stage1 --keep` takes it
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instant3d.utils.atomic import write_bytes

GOOD, BAD, SKIP = "good", "bad", "skip"
LABELS_FORMAT = "instant3d-labels-1"
MAX_BYTES = 2**30
MAX_SCORE = 1e30


@dataclass(frozen=True)
class RankedScene:
    """A scene's place in a ranking; a score above 0 means "good", and `label` is the user's, if there is one."""

    rank: int
    id: str
    score: float
    label: str | None = None


def read_labels(path: str | Path) -> dict[str, str]:
    """Read labels (good, bad or skip) by id; the last one for a scene counts."""
    text = _text(path, "the labelling page exports one")
    rows = _exported(text, path) if text.lstrip().startswith("{") else _lines(text, path)
    labels = dict(rows)
    strange = next((name for name, label in labels.items() if label not in (GOOD, BAD, SKIP)), None)
    if strange is not None:
        raise ValueError(f"{path} calls {strange!r:.80} {labels[strange]!r:.40}; expected good, bad or skip")
    return labels


def read_ranking(path: str | Path) -> list[RankedScene]:
    """All places of a ranking, best first."""
    places: list[RankedScene] = []
    for number, row in read_rows(path, "`instant3d data curate rank` writes it"):
        place = _place(row)
        if place is None:
            raise ValueError(f"{path}, line {number} is no place in a ranking; expected rank, id and a finite score")
        places.append(place)
    if len({place.id for place in places}) < len(places) or not places:
        raise ValueError(f"{path} ranks nothing, or a scene twice; make it again")
    return sorted(places, key=lambda place: place.rank)


def write_ranking(path: Path, places: Sequence[RankedScene]) -> None:
    """Write a ranking as one JSON line per scene, whole or not at all."""
    rows = ({key: value for key, value in asdict(place).items() if value is not None} for place in places)
    write_rows(path, rows)


def read_list(path: str | Path) -> list[str]:
    """Read ids in their order, one a line; empty lines and those that begin with # do not count."""
    lines = (line.strip() for line in _text(path, "name a text file with an id on each line").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def write_list(path: Path, ids: Iterable[str], *remarks: str) -> None:
    """Write one id a line, below remarks on how they were chosen, whole or not at all."""
    lines = [*(f"# {remark}" for remark in remarks), *ids]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def read_rows(path: str | Path, hint: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line numbers and objects of a file of JSON lines; `hint` ends each error message with a remedy."""
    for number, line in enumerate(_text(path, hint).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); {hint}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number} is no JSON object; {hint}")
        yield number, row


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _text(path: str | Path, hint: str) -> str:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {hint}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes; {hint}")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as such") from error


def _exported(text: str, path: str | Path) -> list[tuple[str, str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); export it again") from error
    rows = content.get("labels") if content.get("format") == LABELS_FORMAT else None
    if not isinstance(rows, list) or not all(_is_pair(row) for row in rows):
        raise ValueError(f"{path} holds no labels of the kind {LABELS_FORMAT}; the labelling page exports them")
    return [(row[0], row[1]) for row in rows]


def _is_pair(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)


def _lines(text: str, path: str | Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, tab, label = line.rpartition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number} should be an id, a tab, and good, bad or skip")
        yield name.strip(), label.strip().lower()


def _place(row: dict[str, Any]) -> RankedScene | None:
    rank, name, score, label = row.get("rank"), row.get("id"), row.get("score"), row.get("label")
    if not (isinstance(rank, int) and isinstance(name, str) and isinstance(score, int | float)):
        return None
    return (
        RankedScene(rank, name, float(score), label)
        if abs(score) < MAX_SCORE and label in (None, GOOD, BAD, SKIP)
        else None
    )
