"""An error as one sentence for the terminal. Knows no command."""

from __future__ import annotations

import pickle
import re
import struct
import traceback
import zlib
from pathlib import Path

WORKER = "Caught "  # so PyTorch begins what a process that loads data complained of

# what libraries raise over files that are broken in ways that they do not expect
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
)


def sentence(error: BaseException) -> str:
    """The error in one line; one that was not raised by this package says how to learn more."""
    if isinstance(error, MemoryError) and not _is_ours(error):
        return "there is not enough memory; choose a smaller --resolution or fewer views"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = " ".join(_own_words(error).split()) or type(error).__name__
    return text if _is_ours(error) else f"{text} (--debug shows where)"


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its name if it says nothing."""
    return next((line for line in str(error).strip().splitlines() if line), type(error).__name__)


def _own_words(error: BaseException) -> str:
    """What was said where it happened: PyTorch puts a worker's whole traceback before that."""
    text = str(error)
    return text.rpartition(f"\n{type(error).__name__}: ")[2] if text.startswith(WORKER) else text


def _is_ours(error: BaseException) -> bool:
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if str(error).startswith(WORKER):
        files = re.findall(r'^  File "(.+?)", line \d+', str(error), re.MULTILINE)
    return bool(files) and Path(files[-1]).is_relative_to(Path(__file__).parent)
