"""Command line of curation: `instant3d data curate features|label|rank|duplicates|select`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from instant3d.utils import atomic
from instant3d.utils.arg_types import frame_numbers, positive_int, seed
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.progress import Progress

from ..manifests import id_lists
from . import scene_index, selection

SHOWN = 5  # scenes named on the terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when done, 1 when some scenes could not be read and were left out, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        if getattr(options, "out", None) is not None:
            atomic.prepare_output(options.out, is_file=True)
        return options.command(options)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {format_error(error) if isinstance(error, OSError) else error}", sys.stderr)
        return 2


def _features(options: argparse.Namespace) -> int:
    from . import features

    _checked_folder(options.out)
    subjects, failures = scene_index.find_scenes(options.scenes)
    encoder = features.ImageEncoder.from_pretrained(options.clip, options.device)
    with Progress.to_user().task(f"features of {len(subjects)} scenes") as on_step:
        found = features.extend(
            options.out,
            subjects,
            encoder,
            frames=_frames(options),
            per_view=options.per_view,
            threads=options.threads,
            on_step=on_step,
            failed=lambda subject, why: failures.append((subject.where, why)),
        )
    print_escaped(
        f"{options.out}: {len(found.ids)} scenes, {found.vectors.shape[1]} x {found.vectors.shape[2]} numbers each"
    )
    return _exit_code(failures)


def _label(options: argparse.Namespace) -> int:
    from . import labelling

    _checked_folder(options.out)
    subjects, failures = scene_index.find_scenes(options.scenes)
    if options.only is not None:
        wanted = set(id_lists.read_list(options.only))
        subjects = [subject for subject in subjects if subject.id in wanted]
        if not subjects:
            raise ValueError(f"{options.only} names none of the scenes")
    labels = id_lists.read_labels(options.labels) if options.labels else None
    chosen = labelling.sample(subjects, options.count, options.seed)
    with Progress.to_user().task(f"images of {len(chosen)} scenes") as on_step:
        unread = labelling.write(
            options.out, chosen, frames=_frames(options), labels=labels, embed=not options.beside, on_step=on_step
        )
    size = options.out.stat().st_size / 2**20
    print_escaped(
        f"{options.out}: {len(chosen) - len(unread)} of {len(subjects)} scenes ({size:.1f} MiB); open it in a browser"
    )
    return _exit_code(failures + unread)


def _rank(options: argparse.Namespace) -> int:
    from . import feature_store, ranking

    _checked_folder(options.out)
    labels = id_lists.read_labels(options.labels)
    places, confidence = ranking.rank(feature_store.load(options.features), labels, softness=options.softness)
    id_lists.write_ranking(options.out, places)
    best = selection.top(places, options.top)
    print_escaped(confidence.sentence())
    print_escaped(
        f"{options.out}: {len(places)} scenes, {sum(place.score > 0 for place in places)} of them on the good side"
    )
    doubtful = sum(place.score <= 0 for place in best)
    print_escaped(
        f"its top {len(best)} {f'hold {doubtful} from the bad side' if doubtful else 'are all on the good side'}"
    )
    return 0


def _duplicates(options: argparse.Namespace) -> int:
    from . import duplicates, feature_store

    _checked_folder(options.out)
    places = id_lists.read_ranking(options.ranking) if options.ranking else []
    features = feature_store.load(options.features)
    with Progress.to_user().task(f"comparing {len(features.ids)} scenes") as on_step:
        groups = duplicates.find(features, options.threshold, {place.id: place.score for place in places}, on_step)
    id_lists.write_rows(options.out, (group.record() for group in groups))
    for group in groups[:SHOWN]:
        for name, like, cosine in group.drop[:1]:
            print_escaped(f"  {name} looks like {like} (cosine {cosine:.3f})")
    count = sum(len(group.drop) for group in groups)
    similar = f"{count} of {len(features.ids)} scenes are similar to one that is kept"
    print_escaped(f"{options.out}: {len(groups)} groups, {similar}")
    return 0


def _select(options: argparse.Namespace) -> int:
    _checked_folder(options.out)
    places = id_lists.read_ranking(options.ranking)
    without: set[str] = set()
    for path in options.without:
        without |= selection.dropped(path)
    best = selection.top(places, options.top, without)
    if not best:
        raise ValueError(f"nothing of {options.ranking} is left to keep")
    remark = f"the best {len(best)} of {len(places)} scenes by {options.ranking.name}"
    remark += f", without {len(without)} near-duplicates" if without else ""
    id_lists.write_list(options.out, [place.id for place in best], remark)
    print_escaped(f"{options.out}: {len(best)} of {len(places)} scenes, down to a score of {best[-1].score:+.3f}")
    return 0


def _exit_code(failures: scene_index.Broken) -> int:
    for where, why in failures[:SHOWN]:
        print_escaped(f"left out {where}: {why}", sys.stderr)
    if len(failures) > SHOWN:
        print_escaped(f"left out {len(failures) - SHOWN} more", sys.stderr)
    return 1 if failures else 0


def _frames(options: argparse.Namespace) -> Sequence[int]:
    if options.frames == "all":
        raise ValueError("scenes have different numbers of frames; name frames that all have, such as 0,1,2,3")
    return options.frames


def _checked_folder(path: Path) -> None:
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it, or name another for {path.name}")


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data curate", description=__doc__.splitlines()[0])
    words = parser.add_subparsers(required=True, metavar="COMMAND")

    looks = words.add_parser("features", help="CLIP features of each scene, in one file; resumes")
    _add_scenes(looks)
    looks.add_argument("-o", "--out", type=Path, required=True, help="the .safetensors to write")
    looks.add_argument("--clip", default="openai/clip-vit-large-patch14", help="folder or Hub id (default: ViT-L/14)")
    looks.add_argument("--per-view", action="store_true", help="store a vector for each view, not their mean")
    looks.add_argument("--device", default="cpu", help="device, such as cuda (default cpu)")
    looks.add_argument("--threads", type=positive_int, default=os.cpu_count() or 1, help="threads that read images")
    looks.set_defaults(command=_features)

    page = words.add_parser("label", help="a page for labelling scenes good or bad, by keys")
    _add_scenes(page)
    page.add_argument("-o", "--out", type=Path, required=True, help="the .html to write")
    page.add_argument("--count", type=positive_int, default=1000, help="number of random scenes (default 1000)")
    page.add_argument("--seed", type=seed, default=0, help="seed of the random choice (default 0)")
    page.add_argument("--only", type=Path, help="file of ids to choose from")
    page.add_argument("--labels", type=Path, help="exported labels to start from")
    page.add_argument("--beside", action="store_true", help="write images into a folder beside the page, not into it")
    page.set_defaults(command=_label)

    order = words.add_parser("rank", help="all scenes from best to worst, by an SVM trained on labels")
    order.add_argument("features", type=Path)
    order.add_argument("labels", type=Path, help="labels exported by the labelling page (JSON or text)")
    order.add_argument("-o", "--out", type=Path, required=True, help="the .jsonl to write")
    order.add_argument("--top", type=_count, default=selection.TOP, help="number of scenes to keep (default 10000)")
    order.add_argument("--softness", type=_softness, default=1.0, help="the SVM's C (default 1)")
    order.set_defaults(command=_rank)

    alike = words.add_parser("duplicates", help="near-duplicate scenes, and which of each group is kept")
    alike.add_argument("features", type=Path)
    alike.add_argument("-o", "--out", type=Path, required=True, help="the .jsonl to write, a group on each line")
    alike.add_argument("--threshold", type=float, default=0.97, help="least cosine of near-duplicates (default 0.97)")
    alike.add_argument("--ranking", type=Path, help="keep the better ranked (default: the first by id)")
    alike.set_defaults(command=_duplicates)

    keep = words.add_parser("select", help="the list of ids to keep, as `instant3d cache-stage1 --keep` takes it")
    keep.add_argument("ranking", type=Path)
    keep.add_argument("-o", "--out", type=Path, required=True, help="the list to write")
    keep.add_argument("--top", type=_count, default=selection.TOP, help="number of scenes (default 10000)")
    keep.add_argument("--without", type=Path, action="append", default=[], help="near-duplicates to leave out")
    keep.set_defaults(command=_select)
    return parser


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenes", type=Path, nargs="+", help="folders of scene folders, or of shards")
    parser.add_argument(
        "--frames", type=frame_numbers, default=list(scene_index.STRUCTURED), help="frames to use (default 0,1,2,3)"
    )


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _softness(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
