"""Writing captions into scene folders: `instant3d data caption cap3d|manifest|blip2`.

A caption is written into a scene's `transforms.json`, of which every other byte stays unchanged. Existing captions are
kept unless `--overwrite` is given, so the same command resumes an interrupted run.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from instant3d import scenes
from instant3d.utils import file_listing, prompts
from instant3d.utils.arg_types import frame_numbers
from instant3d.utils.atomic import write_bytes
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.progress import Progress

from ..manifests import object_manifest
from ..manifests.id_lists import read_rows

MAX_CSV_BYTES = 2**32
SHOWN = 5  # examples on the terminal

Caption = tuple[tuple[str, ...], str]  # the names that its object goes by, and the words


@dataclass
class CaptionStats:
    """Numbers of captions that were written, kept and refused."""

    written: int = 0
    had_one: int = 0
    without: list[str] = field(default_factory=list)  # scenes without a caption in the source
    refused: list[str] = field(default_factory=list)  # captions that are none, in a sentence each
    unknown: int = 0  # ids of the source that are no scene's

    def lines(self) -> Iterator[str]:
        """Lines for the terminal: the counts, and at most `SHOWN` scenes without a caption and refused captions."""
        yield f"{self.written} captions written, {self.had_one} scenes had one already"
        if self.without:
            yield f"{len(self.without)} scenes stay without one, such as {', '.join(self.without[:SHOWN])}"
        if self.unknown:
            yield f"{self.unknown} captions belong to no scene here"
        yield from (f"refused: {words}" for words in self.refused[:SHOWN])
        if len(self.refused) > SHOWN:
            yield f"{len(self.refused) - SHOWN} more were refused"


def with_caption(data: bytes, caption: str) -> bytes:
    """The JSON document `data` with this caption; all other bytes are unchanged."""
    encoding = json.detect_encoding(data)
    text, words = data.decode(encoding), json.dumps(caption)
    fields = {key: (begin, end) for key, begin, end in _fields(text)}  # of a key that comes twice the last one counts
    if "caption" in fields:
        begin, end = fields["caption"]
        return (text[:begin] + words + text[end:]).encode(encoding)
    brace = text.index("{") + 1
    indent = text[brace : len(text) - len(text[brace:].lstrip())]
    return f'{text[:brace]}{indent}"caption": {words},{text[brace:]}'.encode(encoding)


def write_caption(folder: Path, caption: str) -> None:
    """Write a caption into the scene in `folder`, atomically."""
    scenes.document(folder)  # a broken document is not touched
    file = folder / scenes.DOCUMENT
    write_bytes(file, with_caption(file.read_bytes(), caption))


def cleaned(caption: str) -> str:
    """A caption on one line, without surrounding spaces."""
    return unicodedata.normalize("NFC", " ".join(caption.split()))


def assign_captions(captions: Iterable[Caption], folders: Mapping[str, Path], overwrite: bool = False) -> CaptionStats:
    """Write captions into scenes; the first valid one for a scene counts.

    Args:
        captions: The names of an object, of which the first that is in `folders` counts, and the words of its caption.
        folders: Scene folders by id and by uid (see `by_name`).
        overwrite: Whether to replace existing captions.

    Returns:
        How many were written, kept, refused and unknown, and which scenes are left without one.
    """
    tally = CaptionStats()
    met: set[Path] = set()
    for names, words in captions:
        name = next((name for name in names if name in folders), None)
        if name is None:
            tally.unknown += 1
            continue
        if folders[name] in met:
            continue
        caption = cleaned(words)
        if wrong := prompts.prompt_error(caption):
            tally.refused.append(f"the caption of {name} {wrong}")
            continue
        met.add(folders[name])
        if scenes.document(folders[name]).text("caption") and not overwrite:
            tally.had_one += 1
        else:
            write_caption(folders[name], caption)
            tally.written += 1
    left = set(folders.values()) - met
    tally.without = sorted(folder.name for folder in left if not scenes.document(folder).text("caption"))
    return tally


def by_name(roots: Sequence[Path]) -> dict[str, Path]:
    """Scene folders by the names that a source may use: id (else the folder's name) and uid."""
    found: dict[str, Path] = {}
    for root in roots:
        folders = scenes.below(root)
        if not folders:
            tars = root.is_file() or file_listing.any_visible_files(root, "*.tar")
            hint = "`instant3d unpack` makes folders of tars" if tars else "`make render-data` makes some"
            raise FileNotFoundError(f"there is no scene folder in {root}; {hint}")
        for folder in folders:
            document = scenes.document(folder)
            for name in filter(None, {document.text("id") or folder.resolve().name, document.text("uid")}):
                if found.setdefault(name, folder) != folder:
                    raise ValueError(f"{found[name]} and {folder} have the same id, {name}; each scene needs its own")
    return found


def read_cap3d(path: Path) -> Iterator[Caption]:
    """Ids and captions of Cap3D's CSV: two columns, no header, captions with a comma in quotes. Read as a stream."""
    _is_there(path, "Cap3D's Cap3D_automated_Objaverse_full.csv, say")
    if path.stat().st_size > MAX_CSV_BYTES:
        raise ValueError(f"{path} is larger than {MAX_CSV_BYTES} bytes; split it")
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines)
        try:
            for row in reader:
                if len(row) == 2:
                    yield (row[0].strip(),), row[1]
                elif row:
                    raise ValueError(
                        f"{path}, line {reader.line_num} has {len(row)} columns; expected an id and a caption"
                    )
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num} is no CSV ({error}); download it again") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text; download it again") from error


def read_manifest(path: Path) -> Iterator[Caption]:
    """Ids, uids and captions of a manifest's rows, from the same fields as rendering takes them."""
    for _, row in read_rows(path, "name a manifest of JSON lines with id and caption"):
        if "captions" in row and not isinstance(row["captions"], list):
            raise ValueError(f"{path} has captions {row['captions']!r:.40}; expected a list of sentences")
        words = object_manifest.words(row)
        names = tuple(row[key] for key in ("id", "uid") if isinstance(row.get(key), str))
        if words and names:
            yield names, words[0]


def _fields(text: str) -> Iterator[tuple[str, int, int]]:
    """Names of a valid JSON object's fields, and the start and end of their values."""
    decoder = json.JSONDecoder()
    at = _past_space(text, text.index("{") + 1)
    while text[at] == '"':
        key, at = decoder.raw_decode(text, at)
        begin = _past_space(text, _past_space(text, at) + 1)  # + 1: the colon
        _, end = decoder.raw_decode(text, begin)
        yield key, begin, end
        at = _past_space(text, end)
        if text[at] == ",":
            at = _past_space(text, at + 1)


def _past_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _is_there(path: Path, what: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name {what}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when done, 1 when captions were refused or scenes could not be read, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        folders = by_name(options.scenes)
        tally = options.command(options, folders)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {format_error(error) if isinstance(error, OSError) else error}", sys.stderr)
        return 2
    print_escaped("\n".join(tally.lines()))
    return 1 if tally.refused else 0


def _listed(options: argparse.Namespace, folders: Mapping[str, Path]) -> CaptionStats:
    return assign_captions(options.read(options.list), folders, options.overwrite)


def _by_blip2(options: argparse.Namespace, folders: Mapping[str, Path]) -> CaptionStats:
    """Caption scenes by a network; each caption is written immediately."""
    from .blip2 import Captioner, consensus

    if options.frames == "all":
        raise ValueError("no frame is given; name the frames to caption, such as 0,1,2,3")
    tally = CaptionStats()
    every = sorted(set(folders.values()))
    left = [folder for folder in every if options.overwrite or not scenes.document(folder).text("caption")]
    tally.had_one = len(every) - len(left)
    if not left:
        return tally
    captioner = Captioner.from_pretrained(options.model, options.device)
    with Progress.to_user().task(f"captions of {len(left)} scenes") as on_step:
        for done, folder in enumerate(left, start=1):
            try:
                images = scenes.read(folder, frames=options.frames, maps=()).views.composite(1.0)
            except (ValueError, OSError) as error:
                tally.refused.append(str(error))
                continue
            caption = cleaned(consensus(captioner(images, options.prompt)))
            if wrong := prompts.prompt_error(caption):
                tally.refused.append(f"the caption of {folder.name} {wrong}")
                continue
            write_caption(folder, caption)
            tally.written += 1
            on_step(done, len(left))
    return tally


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data caption", description=__doc__.splitlines()[0])
    words = parser.add_subparsers(required=True, metavar="SOURCE")
    for name, read, about in (
        ("cap3d", read_cap3d, "Cap3D's CSV: id, caption"),
        ("manifest", read_manifest, "JSON lines with id (or uid) and captions, caption or name"),
    ):
        listed = words.add_parser(name, help=about)
        listed.add_argument("list", type=Path, help=about)
        _add_scenes(listed)
        listed.set_defaults(command=_listed, read=read)
    blip2 = words.add_parser("blip2", help="captions of the images by BLIP-2")
    _add_scenes(blip2)
    blip2.add_argument("--model", default="Salesforce/blip2-opt-2.7b", help="folder or Hub id (default: %(default)s)")
    blip2.add_argument("--device", default="cpu", help="device, such as cuda (default cpu)")
    blip2.add_argument("--frames", type=frame_numbers, default=[0, 1, 2, 3], help="frames to caption (default 0,1,2,3)")
    blip2.add_argument("--prompt", default="", help="beginning of the caption, or a question")
    blip2.set_defaults(command=_by_blip2)
    return parser


def _add_scenes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scenes", type=Path, nargs="+", help="folders of scene folders")
    parser.add_argument("--overwrite", action="store_true", help="replace existing captions too")
