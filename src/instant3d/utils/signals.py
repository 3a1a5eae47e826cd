"""Ends of a command by SIGTERM and SIGHUP, which unwind it like an error does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

NAMES = ("SIGTERM", "SIGHUP")


class Terminated(SystemExit):
    """A signal ended the process; its exit code is 128 plus the signal's number, as a shell gives it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM and SIGHUP, so that half-written files are removed; an ignored one stays so."""
    before = {number: signal.getsignal(number) for number in _numbers()}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as `nohup` does
    for number in handled:
        signal.signal(number, _terminated)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Undo what a library does in the block to the handlers of SIGTERM and SIGHUP."""
    before = {number: signal.getsignal(number) for number in _numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:  # which a library can only do in the main thread
                signal.signal(number, handler)


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _default_in_child() -> None:
    """End forked workers at once: a signal before a worker waits for a lock would never reach a handler in Python."""
    for name in NAMES:
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is _terminated:
            signal.signal(getattr(signal, name), signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default_in_child)
