"""Text prompts: read from lists and arguments, checked one by one, and turned into folder names.

A list is UTF-8 text with one prompt a line, where blank lines and lines that begin with `#` are left out, or one of the
other formats in `instant3d.utils.prompt_formats`. An error in one prompt is reported with its line and does not affect
the others.
"""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from instant3d.utils import shipped
from instant3d.utils.prompt_formats import split_entries

LONGEST = 1000  # characters of a prompt
LONGEST_SHOWN = 40  # of a prompt in a message
LONGEST_SLUG = 48
MAX_LIST_BYTES = 2**20


@dataclass(frozen=True)
class Prompt:
    """One prompt of the input, valid or not.

    Attributes:
        text: The prompt; "" if it is invalid.
        where: Where it was read, such as "prompts.txt line 3".
        error: What is wrong with it; "" if it is valid.
    """

    text: str
    where: str
    error: str = ""


def from_arguments(texts: Iterable[str]) -> list[Prompt]:
    """Check prompts from the command line."""
    texts = list(texts)
    names = ["the prompt"] if len(texts) == 1 else [f"prompt {k}" for k in range(1, len(texts) + 1)]
    return [_checked(text, name) for text, name in zip(texts, names, strict=True)]


def read_prompts(source: str | Path) -> list[Prompt]:
    """Read a list of prompts.

    Args:
        source: A text file with one prompt a line, a JSON list, a CSV table with a column `prompt`, the name of a
            shipped list such as `held_out`, or `-` for standard input.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a folder, too large, in UTF-16, or JSON or a table without prompts.

    Warns:
        UserWarning: Lines that begin with `#` were left out, except of a shipped list.
    """
    if str(source) == "-":
        return _parse(sys.stdin.buffer, "standard input")
    path = shipped.look_up(source, ["prompts"], ".txt") or Path(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a list of prompts is a text file; name the file in it")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a text file with one prompt a line, or - to type them")
    with path.open("rb") as stream:
        ours = path.resolve().is_relative_to(shipped.configs_folder().resolve())
        return _parse(stream, path.name, note_comments=not ours)


def drop_words(text: str, probability: float, key: str) -> str:
    """Leave each word of a text out at random; if none were left, one of them stays.

    Args:
        text: Words between spaces.
        probability: Of leaving a word out, in [0, 1].
        key: Seed of the random choice.
    """
    words, generator = text.split(), random.Random(key)
    kept = [word for word in words if generator.random() >= probability]
    return " ".join(kept or generator.sample(words, min(1, len(words))))


def prompt_error(text: str) -> str:
    """Describe in a few words what is wrong with a prompt; "" if it is valid."""
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
    """Turn any text into a name of ASCII letters, digits and single inner dashes; two texts may get the same name.

    Accents are dropped. Alone it may be a name that Windows reserves, so put a number before it.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > LONGEST_SLUG:
        words = words[: LONGEST_SLUG + 1].rpartition("-")[0] or words[:LONGEST_SLUG]
    return words.strip("-") or "object"


def cut_off(text: str, fits: Callable[[str], bool]) -> str:
    """Return the last words of a prompt, from the first one that a tokenizer of limited length does not read in full.

    Args:
        text: The prompt.
        fits: Whether a text is read as a whole; if it is true of a text, it must be true of each of its prefixes.
    """
    words = text.split()
    low, high = 0, len(words)  # the first `low` words fit, more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(" ".join(words[:middle])) else (low, middle - 1)
    return " ".join(words[low:])


def abbreviate(text: str) -> str:
    """Quote a prompt for a message, shortened to `LONGEST_SHOWN` characters."""
    return repr(text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…")


def _parse(stream: BinaryIO, name: str, note_comments: bool = True) -> list[Prompt]:
    data = stream.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise ValueError(f"{name} is larger than {MAX_LIST_BYTES:,} bytes; split the list of prompts")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{name} is in UTF-16; save the list of prompts as UTF-8")
    return [_checked(value, where) for where, value in split_entries(data, name, note_comments=note_comments)]


def _checked(text: object, where: str) -> Prompt:
    if not isinstance(text, str):
        return Prompt("", where, "is not a text; write the prompt in quotes, or as the field `prompt`")
    text = text.replace("\t", " ")
    wrong = prompt_error(text)
    return Prompt("", where, wrong) if wrong else Prompt(unicodedata.normalize("NFC", text.strip()), where)


def _is_control(letter: str) -> bool:
    """Whether it is a control character or a line end; the joiners that some scripts and emoji need are not."""
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp")
