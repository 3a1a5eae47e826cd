"""Prompts as users give them: read from lists, checked one by one, and named as folders. Knows nothing of networks.

A list is UTF-8 text with one prompt a line; blank lines and lines that begin with `#` are left out. Whatever is wrong
with one prompt is told with its place and leaves the others alone.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from instant3d.utils import shipped

LONGEST = 1000  # characters of a prompt
LONGEST_SHOWN = 40  # of a prompt in a message
LONGEST_SLUG = 48
MAX_LIST_BYTES = 2**20


@dataclass(frozen=True)
class Prompt:
    """What one place in the input holds: a `text`, or what is wrong with it, its `fault`."""

    text: str
    where: str  # such as "prompts.txt line 3"
    error: str = ""


def from_arguments(texts: Iterable[str]) -> list[Prompt]:
    """Prompts from the command line."""
    texts = list(texts)
    names = ["the prompt"] if len(texts) == 1 else [f"prompt {k}" for k in range(1, len(texts) + 1)]
    return [_checked(text, name) for text, name in zip(texts, names, strict=True)]


def read_prompts(source: str | Path) -> list[Prompt]:
    """The prompts of a list in a file, of a shipped list such as `held_out`, or from standard input if it is `-`."""
    if str(source) == "-":
        return _parse(sys.stdin.buffer, "standard input")
    path = shipped.look_up(source, ["prompts"], ".txt") or Path(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a list of prompts is a text file; name the file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a text file with one prompt a line, or - to type them")
    with path.open("rb") as stream:
        return _parse(stream, path.name)


def prompt_error(text: str) -> str:
    """What is wrong with a prompt, in a few words; "" if nothing is."""
    if not text.strip():
        return "is empty; describe an object"
    if len(text) > LONGEST:
        return f"has {len(text):,} characters, at most {LONGEST:,} are read; shorten it"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text; save it as such"
    strange = sorted({f"U+{ord(letter):04X}" for letter in text if _is_control(letter)})
    if strange:
        return f"holds control characters ({', '.join(strange[:3])}); take them out"
    return ""


def slug(text: str) -> str:
    """A name of ASCII letters, digits and single dashes inside, for every text; no two texts need differ in it.

    Accents are dropped. Alone it may be a name that Windows reserves, so put a number before it.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > LONGEST_SLUG:
        words = words[: LONGEST_SLUG + 1].rpartition("-")[0] or words[:LONGEST_SLUG]
    return words.strip("-") or "object"


def cut_off(text: str, fits: Callable[[str], bool]) -> str:
    """The last words of a prompt, beginning with the first that a reader of limited length does not reach to the end.

    fits  whether a text is read as a whole; if one is, so is each of its beginnings
    """
    words = text.split()
    low, high = 0, len(words)  # the first `low` words fit, more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(" ".join(words[:middle])) else (low, middle - 1)
    return " ".join(words[low:])


def abbreviate(text: str) -> str:
    """A prompt in a message: in quotes, not too long."""
    return repr(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…")


def _parse(stream: BinaryIO, name: str) -> list[Prompt]:
    data = stream.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise ValueError(f"{name} is larger than {MAX_LIST_BYTES:,} bytes; split the list of prompts")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{name} is in UTF-16; save the list of prompts as UTF-8")
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1)
    entries = [(number, line.strip()) for number, line in lines]
    return [
        _checked(line.decode(errors="surrogateescape"), f"{name} line {number}")
        for number, line in entries
        if line and not line.startswith(b"#")
    ]


def _checked(text: str, where: str) -> Prompt:
    text = text.replace("\t", " ")
    wrong = prompt_error(text)
    return Prompt("", where, wrong) if wrong else Prompt(unicodedata.normalize("NFC", text.strip()), where)


def _is_control(letter: str) -> bool:
    """Control characters and line ends of any kind; not the joiners that some scripts and emoji need."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp")
