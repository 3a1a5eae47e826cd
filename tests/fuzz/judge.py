"""Whether what a reader did with a broken input is as it should be: read it, or refuse it in one clear sentence."""

from __future__ import annotations

import opcode
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from instant3d.utils.errors import format_error

ROOT = Path(__file__).parents[2]
PLANTED = ROOT / "tests" / "fixtures" / "planted_faults.py"  # counts as ours in the tests of the fuzzer
OURS = (str(ROOT / "src"), str(ROOT / "data_prep"), str(PLANTED))
RAISE = opcode.opmap["RAISE_VARARGS"]
LONGEST = 1000  # characters of a sentence
NO_MEMORY = ("allocate memory", "Cannot allocate", "can't allocate")


def complaint(error: BaseException, ours: tuple[str, ...] = OURS) -> str | None:
    """What is wrong with how an input was refused, the same words for the same fault; None if nothing is."""
    if any(_is_about_memory(part) for part in _chain(error)):
        return f"memory: more than allowed was asked for, at {_place(error, ours)}"
    if not isinstance(error, ValueError | OSError):
        return f"traceback: {type(error).__name__} at {_place(error, ours)}"
    if not _is_raised_in(error, ours):
        return f"foreign: {type(error).__name__} at {_place(error, ours)}"
    if " " not in str(error).strip() or len(format_error(error)) > LONGEST:
        return f"unclear: {str(error)[:40]!r} is no sentence, at {_place(error, ours)}"
    return None


def _is_about_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(word in str(error)[:500] for word in NO_MEMORY)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _frames(error: BaseException) -> Iterator[TracebackType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_raised_in(error: BaseException, ours: tuple[str, ...]) -> bool:
    """Whether a `raise` of our code raised it, and not a library or an operation that failed."""
    *_, last = _frames(error)
    code = last.tb_frame.f_code
    return code.co_filename.startswith(ours) and code.co_code[last.tb_lasti] == RAISE


def _place(error: BaseException, ours: tuple[str, ...]) -> str:
    """The innermost function of ours on the way, and where the error was raised."""
    codes = [trace.tb_frame.f_code for trace in _frames(error)]
    own = [code for code in codes if code.co_filename.startswith(ours)]
    names = [f"{Path(code.co_filename).name}:{code.co_qualname}" for code in dict.fromkeys([*own[-1:], codes[-1]])]
    return " < ".join(names)
