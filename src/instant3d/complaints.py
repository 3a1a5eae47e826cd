"""An error as one sentence for the terminal. Knows no command."""

from __future__ import annotations

import traceback
from pathlib import Path


def sentence(error: BaseException) -> str:
    """The error in one line; one that was not raised by this package says how to learn more."""
    if isinstance(error, MemoryError) and not _is_ours(error):
        return "there is not enough memory; choose a smaller --resolution or fewer views"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text if _is_ours(error) else f"{text} (--debug shows where)"


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
