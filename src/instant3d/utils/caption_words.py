"""Vocabulary of the training captions, and the words of a prompt that it does not contain.

The file `caption_words.txt` lies beside a tokenizer. Each line holds a word or a name of several words, a tab, and the
number of training examples with it in their caption. A model that was trained from scratch has the file; one that was
fine-tuned from released weights, whose text encoders were trained on general text, has not.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from instant3d.utils import prompts

FILE = "caption_words.txt"
MAX_BYTES, MAX_TERMS, LONGEST_TERM = 2**25, 100_000, 50  # of the file; words and names; characters
LONGEST_NAME = 5  # words
FOLLOWED = 3  # a name of several words must follow at least so many different words, such as colours
ALIKE = 0.75  # difflib ratio from which two words count as spelt alike
LISTED = 8  # unknown words in one message
# words without visible meaning: they are neither counted nor reported
FUNCTION_WORDS = {"a", "an", "and", "are", "as", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on", "or",
                  "that", "the", "their", "this", "to", "which", "with"}  # fmt: skip
WORD = re.compile(r"[^\W_]+(?:['-]+[^\W_]+)*")
ENDING = re.compile(r"(?<=\w{3})(ies|es|s|ed|ing|en|y|e)$")


@dataclass(frozen=True)
class CaptionWords:
    """Number of training examples for each caption word and each name of several words, in decreasing order.

    Attributes:
        counts: Word or name to number of examples; only the `MAX_TERMS` most frequent are kept.
    """

    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        order = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        object.__setattr__(self, "counts", dict(order[:MAX_TERMS]))

    @classmethod
    def of(cls, captions: Mapping[str, float]) -> CaptionWords:
        """Count the words and names of captions, each caption given with its number of examples."""
        shown = defaultdict(float, _names(captions))
        for caption, times in captions.items():
            for word in set(split(caption)) - FUNCTION_WORDS:
                shown[word] += times
        return cls({term: max(1, round(times)) for term, times in shown.items() if len(term) <= LONGEST_TERM})

    @classmethod
    def read(cls, tokenizer: Path) -> CaptionWords | None:
        """Read the list beside a tokenizer; None if there is none.

        Args:
            tokenizer: The tokenizer's folder.

        Raises:
            ValueError: The file is too large or is not a list of words.
        """
        path = tokenizer / FILE
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes, too large for a list of words; copy it again")
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text; copy it again") from None
        return cls(dict(_term(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line))

    def write(self, tokenizer: Path) -> None:
        """Write the list into a tokenizer's existing folder."""
        (tokenizer / FILE).write_text("\n".join([*self.lines(), ""]), encoding="utf-8")

    def lines(self) -> list[str]:
        """Return the lines of the file: each word or name, a tab and its count, most frequent first."""
        return [f"{term}\t{count}" for term, count in self.counts.items()]

    def joined(self, other: CaptionWords) -> CaptionWords:
        """Merge two lists; a word keeps the larger of its counts, as both may have counted the same captions."""
        return CaptionWords(Counter(self.counts) | Counter(other.counts))

    def unknown(self, prompt: str) -> list[str]:
        """Return the words of a prompt that no caption had, in order; hyphenated words are looked up part by part."""
        words = [part for word in split(prompt) for part in ([word] if word in self.counts else _parts(word))]
        return [word for word in dict.fromkeys(words) if word not in self._single and word not in FUNCTION_WORDS]

    def nearest(self, word: str) -> str | None:
        """Return the known word that differs only in its ending, or ends this word, or is spelt most like it.

        None if there is no such word.
        """
        stem = ENDING.sub("", word)
        found = {known for known in self._single if ENDING.sub("", known) == stem}
        found |= {known for known in self._single if len(known) > 3 and word.endswith(known)}
        found |= set(difflib.get_close_matches(word, self._single, n=3, cutoff=ALIKE))
        closeness = {
            known: (
                ENDING.sub("", known) == stem,
                word.endswith(known),
                difflib.SequenceMatcher(None, known, word).ratio(),
            )
            for known in sorted(found)
        }
        return max(closeness, key=closeness.__getitem__, default=None)

    def unknown_words_message(self, prompt: str) -> str:
        """Return one line with the unknown words of a prompt and the nearest known ones; "" if all are known."""
        unknown = self.unknown(prompt)
        nearest = ((word, self.nearest(word)) for word in unknown[:LISTED])
        listed = [f"{word} (nearest known: {known})" if known else word for word, known in nearest]
        listed += [f"{len(unknown) - LISTED} more"] if len(unknown) > LISTED else []
        return f"has words that no training caption had: {', '.join(listed)}" if listed else ""

    @cached_property
    def _single(self) -> frozenset[str]:
        """The single words, and the parts of hyphenated ones."""
        words = [term for term in self.counts if " " not in term]
        return frozenset(words).union(*map(_parts, words))


def split(text: str) -> list[str]:
    """Split a text into lower-case words: "The king's sci-fi T-shirt" becomes the, king, sci-fi, t-shirt."""
    plain = unicodedata.normalize("NFC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return [word.removesuffix("'s") for word in WORD.findall(plain)]


def _parts(word: str) -> list[str]:
    return re.split("['-]+", word)


def _names(captions: Mapping[str, float]) -> dict[str, float]:
    """Find names of several words, such as "fire hydrant": caption endings that follow several different words."""
    shown: defaultdict[str, float] = defaultdict(float)
    before: defaultdict[str, set[str]] = defaultdict(set)
    for caption, times in captions.items():
        words = split(caption)
        for begin in range(max(0, len(words) - LONGEST_NAME), len(words) - 1):
            if words[begin] not in FUNCTION_WORDS:
                name = " ".join(words[begin:])
                shown[name] += times
                before[name].add(words[begin - 1] if begin else "")
    return {name: times for name, times in shown.items() if len(before[name]) >= FOLLOWED}


def _term(line: str, where: str) -> tuple[str, int]:
    """Parse and validate one line of the file."""
    term, _, count = line.partition("\t")
    if wrong := prompts.prompt_error(term):
        raise ValueError(f"{where} {wrong}")
    if not re.fullmatch("[1-9][0-9]{0,11}", count):
        raise ValueError(f"{where} should be a word, a tab and a whole number, got {line[:40]!r}; copy the file again")
    return term, int(count)
