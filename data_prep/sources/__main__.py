"""Command line of the sources: add objects of any source to objects.jsonl, `instant3d data sources`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped
from instant3d.utils.progress import Progress

from ..manifests.licences import allowed
from .objaverse import XL_SOURCES

if TYPE_CHECKING:
    from ..manifests.object_manifest import Row
    from .manifest import Manifest
    from .objaverse import ObjaverseStore
    from .selection import Selection

Counts = dict[str, int]
FINE = ("new", "there", "listed", "duplicate")  # what may become of an object without the command having failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all wanted objects exist, 1 if some do not (see objects.failures.jsonl), 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        atomic.prepare_output(options.output, is_file=True)
        counts = _run(options)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    print_escaped(closing_line(options.output, counts))
    return 0 if all(kind in FINE or kind.startswith("under ") for kind in counts) else 1


def closing_line(output: Path, counts: Counts) -> str:
    """Counts of objects by result, the largest first."""
    words = {"there": "there already", "listed": "listed but not downloaded", "duplicate": "left out as duplicates"}
    usual = [
        f"{counts.get('new', 0)} new",
        *(f"{counts[kind]} {word}" for kind, word in words.items() if counts.get(kind)),
    ]
    other = sorted((kind for kind in counts if kind not in FINE), key=lambda kind: (-counts[kind], kind))
    licences = [f"{counts[kind]} {kind}" for kind in other if kind.startswith("under ")]
    failures = [f"{counts[kind]} {kind}" for kind in other if not kind.startswith("under ")]
    usual += [f"not taken: {', '.join(licences)}"] if licences else []
    usual += (
        [f"failed: {', '.join(failures)} (see {output.with_name(output.stem + '.failures.jsonl')})"] if failures else []
    )
    return f"{output}: {'; '.join(usual)}"


def _run(options: argparse.Namespace) -> Counts:
    from .manifest import Manifest

    manifest = Manifest(options.output)
    manifest.folder.mkdir(parents=True, exist_ok=True)
    try:
        counts: Counts = options.work(manifest, options)
    except (OSError, KeyboardInterrupt):
        if manifest.rows:
            manifest.save()  # what came until then need not come again
        raise
    manifest.save()
    return counts


def _folder(manifest: Manifest, options: argparse.Namespace) -> Counts:
    from . import folder

    counts: Counts = {}
    for path in options.paths:
        with Progress.to_user().task(f"looking through {path}") as on_step:
            part = folder.gather(
                manifest,
                path,
                allowed=allowed(options.licences),
                licence=options.licence,
                prefix=options.prefix,
                up=options.up,
                on_step=on_step,
            )
        counts = {kind: counts.get(kind, 0) + part.get(kind, 0) for kind in {**counts, **part}}
    return counts


def _procedural(manifest: Manifest, options: argparse.Namespace) -> Counts:
    from . import folder

    if options.count < 1 or options.first_seed < 0:
        raise ValueError(f"expected --count >= 1 and --first-seed >= 0, got {options.count} and {options.first_seed}")
    seeds = range(options.first_seed, options.first_seed + options.count)
    with Progress.to_user().task(f"making {len(seeds)} objects") as on_step:
        return folder.make(manifest, seeds, workers=options.workers, on_step=on_step)


def _sweethome3d(manifest: Manifest, options: argparse.Namespace) -> Counts:
    from . import sweethome3d

    if options.workers < 1:
        raise ValueError(f"expected --workers >= 1, got {options.workers}")
    with Progress.to_user().task("converting furniture") as on_step:
        return sweethome3d.gather(
            manifest, options.libraries, allowed=allowed(options.licences), workers=options.workers, on_step=on_step
        )


def _objaverse(manifest: Manifest, options: argparse.Namespace) -> Counts:
    from . import objaverse, selection

    wanted, others = _selection(options, "--lvis, --uids, --count"), Counts()
    with objaverse.open_store(options.cache or manifest.folder / "objaverse") as store:
        rows = list(selection.objaverse(store, wanted, allowed(options.licences), others))
        return _fetched(manifest, store, rows, options) | others


def _objaverse_xl(manifest: Manifest, options: argparse.Namespace) -> Counts:
    from . import objaverse, selection

    wanted, others = _selection(options, "--uids, --count"), Counts()
    sources = options.sources.split(",")
    if not set(sources) <= set(XL_SOURCES):
        raise ValueError(
            f"{options.sources!r} should be some of {', '.join(XL_SOURCES)}; Thingiverse has only bare STL"
        )
    with objaverse.open_store(options.cache or manifest.folder / "objaverse") as store:
        rows: list[Row] = []
        for source in sources:
            rows += selection.objaverse_xl(store, source, wanted, allowed(options.licences), others)
        return _fetched(manifest, store, rows, options) | others


def _selection(options: argparse.Namespace, ways: str) -> Selection:
    from .selection import Selection, names_in

    lvis = tuple(name.strip() for name in (getattr(options, "lvis", None) or "").split(",") if name.strip())
    if not (lvis or options.uids or options.count is not None or options.all):
        raise ValueError(f"which objects? choose by {ways}, or take everything there is by --all")
    if options.count is not None and options.count < 1:
        raise ValueError(f"--count should be at least 1, got {options.count}")
    if lvis and options.uids:
        raise ValueError("--lvis and --uids both name objects; give one of them")
    return Selection(lvis, names_in(options.uids) if options.uids else None, options.count, options.seed)


def _fetched(manifest: Manifest, store: ObjaverseStore, rows: list[Row], options: argparse.Namespace) -> Counts:
    from . import downloads

    if options.no_download:
        there = sum(manifest.has(row) or manifest.expect(row) for row in rows)
        return {"listed": len(rows) - there, "there": there}
    if options.jobs < 1 or options.retries < 0:
        raise ValueError(f"expected --jobs >= 1 and --retries >= 0, got {options.jobs} and {options.retries}")
    with Progress.to_user().task(f"fetching {len(rows)} objects into {store.cache}") as on_step:
        return downloads.fetch(manifest, store, rows, downloads.RetryPolicy(options.jobs, options.retries), on_step)


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data sources", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="sources", metavar="SOURCE", required=True)

    local = commands.add_parser("folder", help="folders of .glb, .gltf, .obj or .ply files, or other .jsonl manifests")
    local.add_argument(
        "paths", type=Path, nargs="+", help="a folder (with its manifest, if there is one) or a manifest"
    )
    local.add_argument(
        "--licence", "--license", help="licence of objects without one in their manifest, such as CC0-1.0"
    )
    local.add_argument("--prefix", default="", help="prefix of every id, for folders with equal ids")
    local.add_argument("--up", choices=("y", "z"), help="up axis of .obj and .ply files (default y)")
    _common(local, _folder, licences="all")

    made = commands.add_parser("procedural", help="procedural objects")
    made.add_argument("--count", type=int, default=100, help="number of objects (default 100)")
    made.add_argument("--first-seed", type=int, default=0, help="seed of the first object (default 0)")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    _common(made, _procedural, licences=None)

    furniture = commands.add_parser("sweethome3d", help="furniture libraries of Sweet Home 3D (.sh3f)")
    furniture.add_argument("libraries", type=Path, nargs="+", metavar="FILES", help=".sh3f files, or folders of such")
    furniture.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    _common(furniture, _sweethome3d, licences="redistributable")

    first = commands.add_parser("objaverse", help="Objaverse 1.0: 800,000 objects of Sketchfab")
    first.add_argument("--lvis", metavar="NAMES", help="LVIS categories, such as chair,mug; `all` for any")
    _downloads(first)
    _common(first, _objaverse, licences="redistributable")

    xl = commands.add_parser("objaverse-xl", help="Objaverse-XL: objects of Sketchfab, GitHub and the Smithsonian")
    xl.add_argument("--from", dest="sources", default=",".join(XL_SOURCES), help="which sources (default: %(default)s)")
    _downloads(xl)
    _common(xl, _objaverse_xl, licences="redistributable")
    return parser


def _common(command: argparse.ArgumentParser, work: object, licences: str | None) -> None:
    command.add_argument(
        "-o", "--output", type=Path, required=True, help="the manifest to create or extend: objects.jsonl"
    )
    if licences:
        words = "only these: redistributable, all, or names such as CC-BY-4.0,CC0-1.0 (default: %(default)s)"
        command.add_argument("--licences", "--licenses", default=licences, help=words)
    command.set_defaults(work=work)


def _downloads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--uids", type=Path, metavar="FILE", help="file with the uids of the objects, one a line")
    command.add_argument("--count", type=int, help="number of objects (of each source)")
    command.add_argument("--seed", type=int, help="seed of a random order for --count (default: the data set's order)")
    command.add_argument("--all", action="store_true", help="all objects")
    command.add_argument("--cache", type=Path, help="folder of downloads (default: `objaverse` beside the manifest)")
    command.add_argument("--jobs", type=int, default=8, help="parallel downloads (default 8)")
    command.add_argument("--retries", type=int, default=4, help="retries for each object (default 4)")
    command.add_argument("--no-download", action="store_true", help="list objects without downloading them")


if __name__ == "__main__":
    sys.exit(main())
