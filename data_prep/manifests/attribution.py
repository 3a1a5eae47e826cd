"""Attribution of objects, for a model card: `instant3d data attribution SCENES_OR_CACHES... [-o FILE.md]`.

Scenes (in folders, tars or behind URLs) and caches of stage 1 keep the licence, author, source, title and address of
their object. Works under CC-BY and its relatives are listed one by one, as these licences ask; others are counted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instant3d.scenes.dataset import SceneSources
from instant3d.scenes.transforms import CREDIT
from instant3d.utils.atomic import prepare_output, write_bytes
from instant3d.utils.errors import print_escaped
from instant3d.utils.progress import OnStep, Progress

from . import object_manifest
from .licences import deed, spdx

CACHE = "instant3d-stage1-cache"  # what the format of a cache's index begins with
NAMED = "CC-BY"  # prefix of the licences that require each work's author
FEW = 3  # authors that a line of the overview names
LONGEST = 200  # characters of a name in the table
CHANGES = (
    "All were rendered from several sides; some were rotated, stretched or mirrored before that, or recoloured in "
    "other colours after it."
)

Credit = Mapping[str, str]


@dataclass(frozen=True, order=True)
class Work:
    """A work with the fields that its licence requires, and the number of its scenes; unknown fields are "".

    Several works with all of these in common count as one.
    """

    license: str
    source: str
    author: str
    name: str
    url: str
    scenes: int = 0


def gather(
    roots: Sequence[str | Path], objects: Sequence[str | Path] = (), on_step: OnStep = lambda *_: None
) -> list[Work]:
    """The works in scenes and caches, by licence, source, author and name.

    Args:
        roots: Folders of scene folders or of shards, single ones of either, URLs of shards, and caches of stage 1.
        objects: Manifests with fields that the scenes lack, looked up by id or uid.
        on_step: Called with the progress.

    Raises:
        ValueError: If there is neither a scene nor a cache in one of `roots`.
    """
    from_manifests = _manifest_credits(objects)
    counts = Counter(
        _work({**from_manifests.get(name, {}), **credit}) for root in roots for name, credit in _credits(root, on_step)
    )
    return sorted(replace(work, scenes=scenes) for work, scenes in counts.items())


def markdown(works: Sequence[Work]) -> str:
    """The section of a card: an overview by licence and source, then each work whose licence requires its author."""
    groups: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for work in works:
        groups[work.license, work.source].append(work)
    total = sum(work.scenes for work in works)
    lines = ["## Objects and their authors", "", f"{total} scenes show objects of these sources. {CHANGES}", ""]
    lines += ["| licence | source | titles | scenes | authors |", "|---|---|---|---|---|"]
    lines += [_overview(*group, some) for group, some in groups.items()]
    for (licence, source), some in groups.items():
        if licence.startswith(NAMED):
            lines += ["", f"### {_plain(source) or 'No source named'}, {_linked(licence, deed(licence))}", ""]
            lines += _listed(some)
    return "\n".join(lines) + "\n"


def _credits(root: str | Path, on_step: OnStep) -> Iterator[tuple[str, Credit]]:
    """The id and the credit of each scene or grid."""
    index = Path(root) / "index.json"
    content = json.loads(index.read_bytes()) if index.is_file() else {}
    if str(content.get("format", "")).startswith(CACHE):
        yield from ((grid["id"], grid.get("credit", {})) for grid in content["grids"])
        return
    scenes = SceneSources.find([root])
    if not len(scenes):
        raise ValueError(f"there is neither a scene nor a cache in {root}; name folders of scenes, shards or caches")
    for number in range(len(scenes)):
        document = scenes.document(number)
        yield document.text("id") or scenes.name(number), document.credit
        on_step(number + 1, len(scenes))


def _work(credit: Credit) -> Work:
    licence = spdx(credit.get("license")) or ""
    source, author, name, url = (credit.get(key, "") for key in ("source", "author", "name", "url"))
    return Work(licence, source, author, name, url)


def _manifest_credits(manifests: Sequence[str | Path]) -> dict[str, Credit]:
    """Credits by id and by uid."""
    found: dict[str, Credit] = {}
    for manifest in manifests:
        for _, row in object_manifest.read_rows(Path(manifest)):
            facts = object_manifest.facts(row)
            credit = {key: facts[key] for key in CREDIT if isinstance(facts.get(key), str)}
            found |= {row[key]: credit for key in ("uid", "id") if isinstance(row.get(key), str)}
    return found


def _overview(licence: str, source: str, works: Sequence[Work]) -> str:
    """One line of the table."""
    authors = sorted({work.author for work in works} - {""})
    names = ", ".join(map(_plain, authors)) if len(authors) <= FEW else f"{len(authors)} authors"
    names = "listed below" if licence.startswith(NAMED) else names
    cells = [_linked(licence, deed(licence)) or "none named", _plain(source) or "none named"]
    return f"| {' | '.join([*cells, str(len(works)), str(sum(work.scenes for work in works)), names or '-'])} |"


def _listed(works: Sequence[Work]) -> list[str]:
    """One line per author, with the titles of the works, linked to their sources."""
    titles: dict[str, list[str]] = defaultdict(list)
    for work in works:
        titles[work.author].append(_linked(work.name or "untitled", work.url))
    return [f"- **{_plain(author) or 'No author named'}**: {', '.join(some)}" for author, some in titles.items()]


def _linked(words: str, url: str | None) -> str:
    """Words that lead to a page, if its address is one that cannot end the link."""
    return f"[{_plain(words)}]({url})" if url and re.fullmatch(r"https?://[^\s()<>\[\]\"\\|`]+", url) else _plain(words)


def _plain(words: str) -> str:
    """Words that cannot be markup."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(words.split())[:LONGEST])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when the table was written, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.out:
            prepare_output(options.out, is_file=True)
        with Progress.to_user().task("reading whose works these are") as on_step:
            works = gather(options.roots, options.objects, on_step)
        text = markdown(works)
        if options.out:
            write_bytes(options.out, text.encode())
    except (ValueError, OSError) as error:
        print_escaped(f"error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    if unknown := sum(work.scenes for work in works if not work.license):
        print_escaped(f"note: {unknown} scenes name no licence; --objects takes a manifest that does", sys.stderr)
    print_escaped(f"{options.out}: {sum(work.scenes for work in works)} scenes" if options.out else text.rstrip("\n"))
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data attribution", description=__doc__.splitlines()[0])
    parser.add_argument("roots", nargs="+", metavar="SCENES_OR_CACHES", help="scenes, shards, or caches of stage 1")
    parser.add_argument("-o", "--out", type=Path, help="the Markdown file (default: standard output)")
    parser.add_argument(
        "--objects", type=Path, nargs="+", default=[], help="manifests with the licences of scenes that have none"
    )
    return parser
