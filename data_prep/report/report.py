"""An HTML report on a set of scenes, with images: `instant3d data report SCENES -o report.html`.

This module collects the facts, `report_page` formats them. All documents are read, and the images of a sample.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from instant3d.utils.arg_types import positive_int
from instant3d.utils.atomic import prepare_output, write_bytes
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.progress import OnStep, Progress

from ..curation import scene_index
from ..curation.labelling import sample
from ..curation.scene_index import Broken, SceneRef, montage
from ..manifests import failure_log, id_lists
from ..manifests.thumbnails import webp
from . import report_page
from .report_facts import ENDS, ReportFacts, Thumbnail

WIDTH = 192  # pixels of an image
MAX_BYTES = 2**28  # of a JSON file that is read


def collect(
    roots: Sequence[Path],
    *,
    shown: int,
    objects: Path | None = None,
    rejected: Path | None = None,
    doctor: Path | None = None,
    ranking: Path | None = None,
    on_step: OnStep = lambda *_: None,
) -> ReportFacts:
    """Collect the facts of a report.

    Args:
        roots: Folders of scenes.
        shown: Number of random scenes whose images are read.
        objects: Manifest of the objects.
        rejected: File of failures; the failures.jsonl beside the scenes by default.
        doctor: Report of `instant3d doctor -o`.
        ranking: Ranking of `curate rank`.
        on_step: Called with the progress.
    """
    subjects, broken = scene_index.find_scenes(roots)
    frames, sizes, licences, sources = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    without: list[str] = []
    for subject in subjects:
        document = subject.document()
        frames[str(document.count)] += 1
        sizes[_size(document.content)] += 1
        licences[document.text("license") or document.text("licence") or "unknown"] += 1
        sources[document.text("source") or "unknown"] += 1
        without += [] if document.text("caption") else [subject.id]
    lost = _rejected(
        [rejected] if rejected else [root / failure_log.FILE for root in roots], named=rejected is not None
    )
    known = {subject.id: subject for subject in subjects}
    chosen = sample(subjects, shown)
    thumbnails = []
    for done, subject in enumerate(chosen, start=1):
        thumbnails += _thumbnail(subject, broken)
        on_step(done, len(chosen))
    best, worst = _ends(known, ranking, broken) if ranking else ([], [])
    return ReportFacts(
        len(subjects),
        frames,
        sizes,
        licences,
        sources,
        len(subjects) - len(without),
        without,
        broken,
        thumbnails,
        lost,
        _objects(objects, known, lost) if objects else None,
        _doctor(doctor) if doctor else None,
        best,
        worst,
    )


def _thumbnail(subject: SceneRef, broken: Broken, remark: str = "") -> list[Thumbnail]:
    """The scene's image, or None (and an entry in `broken`) if it cannot be read."""
    try:
        document = subject.document()
        views = subject.read(scene_index.STRUCTURED[: document.count]).views
        image: Tensor = montage(subject.on_white(scene_index.STRUCTURED[: document.count]))
    except (ValueError, OSError) as error:
        broken.append((subject.where, str(error)))
        return []
    coverage = float(views.alpha.mean())
    return [Thumbnail(subject.id, document.text("caption"), webp(image, WIDTH, 70), coverage, remark)]


def _ends(known: Mapping[str, SceneRef], ranking: Path, broken: Broken) -> tuple[list[Thumbnail], list[Thumbnail]]:
    """The best and the worst scenes of a ranking that are here."""
    places = [place for place in id_lists.read_ranking(ranking) if place.id in known]

    def thumbnails(some: Sequence[id_lists.RankedScene]) -> list[Thumbnail]:
        return [t for place in some for t in _thumbnail(known[place.id], broken, f"{place.score:+.2f}")]

    return thumbnails(places[:ENDS]), thumbnails(places[ENDS:][-ENDS:])


def _rejected(paths: Sequence[Path], named: bool) -> list[dict[str, Any]]:
    """Rows of failures, the last of each object."""
    if named and not paths[0].is_file():
        raise FileNotFoundError(f"{paths[0]} does not exist; rendering writes failures.jsonl where objects failed")
    return [row for path in paths if path.is_file() for row in failure_log.read(path).values()]


def _objects(path: Path, known: Mapping[str, SceneRef], lost: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Result for a manifest's objects."""
    names = {str(row.get("id")) for _, row in id_lists.read_rows(path, "`instant3d data sources` writes it")}
    rendered, failed = names & known.keys(), names & {row["id"] for row in lost} - known.keys()
    neither = len(names) - len(rendered) - len(failed)
    return {"in the manifest": len(names), "with a scene": len(rendered), "rejected": len(failed), "neither": neither}


def _doctor(path: Path) -> dict[str, Any]:
    """The doctor's own report."""
    hint = "`instant3d doctor SCENES -o FILE` writes it"
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise FileNotFoundError(f"{path} is no file of at most {MAX_BYTES} bytes; {hint}")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {hint}") from error
    findings = content.get("findings") if isinstance(content, dict) else None
    if not isinstance(findings, list) or not all(isinstance(finding, dict) for finding in findings):
        raise ValueError(f"{path} has no list of findings; {hint}")
    return content


def _size(content: Mapping[str, Any]) -> str:
    """A document's image size, given for all frames or in the first."""
    for place in (content, *content["frames"][:1]):
        if isinstance(place, dict) and {"w", "h"} <= place.keys():
            return f"{place['w']} x {place['h']}"
    return "unknown"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when the page was written, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        if not options.out.resolve().parent.is_dir():
            raise FileNotFoundError(f"{options.out.parent} is no folder; make it, or name another for the page")
        prepare_output(options.out, is_file=True)
        with Progress.to_user().task("looking at scenes") as on_step:
            facts = collect(
                options.scenes,
                shown=options.shown,
                objects=options.objects,
                rejected=options.failures,
                doctor=options.doctor,
                ranking=options.ranking,
                on_step=on_step,
            )
        data = report_page.page(facts, ", ".join(map(str, options.scenes))).encode()
        write_bytes(options.out, data)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {format_error(error) if isinstance(error, OSError) else error}", sys.stderr)
        return 2
    problems = [f"{len(facts.rejected)} objects rejected"] * bool(facts.rejected)
    problems += [f"{len(facts.broken)} scenes cannot be used"] * bool(facts.broken)
    print_escaped(", ".join([f"{options.out}: {facts.scenes} scenes", *problems, f"{len(data) / 2**20:.2f} MiB"]))
    return 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data report", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of scene folders, or of shards")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .html to write")
    parser.add_argument("--objects", type=Path, help="manifest of the objects, to report the state of each")
    parser.add_argument("--failures", type=Path, help="rejected objects (default: failures.jsonl beside the scenes)")
    parser.add_argument("--doctor", type=Path, help="report of `instant3d doctor -o`")
    parser.add_argument("--ranking", type=Path, help="a ranking; the report shows its best and worst scenes")
    parser.add_argument(
        "--shown", type=positive_int, default=96, help="random scenes whose images are shown (default 96)"
    )
    return parser
