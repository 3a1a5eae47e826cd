"""Errors as one-line messages, and safe printing of untrusted text on a terminal."""

from __future__ import annotations

import pickle
import re
import struct
import tokenize
import traceback
import unicodedata
import zlib
from pathlib import Path
from typing import TextIO

WORKER = "Caught "  # PyTorch's prefix of errors from dataloader workers

# what libraries raise for broken file content, documented or not; readers turn it into a ValueError
LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    zlib.error,
    tokenize.TokenError,
)

LONGEST = 600  # characters of an error in one line
BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # marks that reverse the text beside them


def escape_control(text: object) -> str:
    r"""Escape control characters, bidirectional marks and lone surrogates, for example as `\x1b`.

    Names from untrusted files can then neither move the cursor, change colours nor forge a line on a terminal.
    """
    return "".join(_escape_letter(letter) for letter in str(text))


def print_escaped(text: object, file: TextIO | None = None) -> None:
    """Print lines that may contain untrusted names; only line ends are not escaped."""
    print("\n".join(map(escape_control, str(text).split("\n"))), file=file, flush=True)


def _escape_letter(letter: str) -> str:
    code = ord(letter)
    if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and code not in BIDI_CONTROLS:
        return letter
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def format_error(error: BaseException) -> str:
    """Format an error as one line; if it was not raised by this package, the line mentions `--debug`."""
    if isinstance(error, MemoryError) and not _is_ours(error):
        return "there is not enough memory; choose a smaller --resolution or fewer views"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = " ".join(_original_message(error).split()) or type(error).__name__
    text = shorten(text)
    return escape_control(text if _is_ours(error) else f"{text} (--debug shows where)")


def shorten(text: str, longest: int = LONGEST) -> str:
    """Leave out the middle of a text that is too long, as a message may quote a file's content of any length.

    Args:
        text: The message.
        longest: Characters of the result at most.
    """
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message, or the error's class name."""
    return next((line for line in str(error).strip().splitlines() if line), type(error).__name__)


def _original_message(error: BaseException) -> str:
    """Return the message without the worker traceback that PyTorch puts before it."""
    text = str(error)
    return text.rpartition(f"\n{type(error).__name__}: ")[2] if text.startswith(WORKER) else text


def _is_ours(error: BaseException) -> bool:
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if str(error).startswith(WORKER):
        files = re.findall(r'^  File "(.+?)", line \d+', str(error), re.MULTILINE)
    return bool(files) and Path(files[-1]).is_relative_to(Path(__file__).parents[1])
