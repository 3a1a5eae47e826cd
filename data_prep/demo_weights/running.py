"""Running the steps of a recipe, in parallel where possible, with resumption after an interruption.

Each step is one of the project's commands in a process of its own; OUT/logs has what it printed, OUT/run.json what is
finished. Processes are forked from one that has imported the libraries already.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped

from ..execution import process_limits

PACKAGE = __package__.rpartition(".")[0]  # the name that this folder is imported by
RECORD, LOGS = "run.json", "logs"
PRELOADED = [
    "instant3d.training.fit",
    "instant3d.evaluation.reconstruction",
    "instant3d.evaluation.text_alignment",
    "instant3d.stage1.train_tiny_sdxl",
    f"{PACKAGE}.rendering.render",
    f"{PACKAGE}.captions.captions",
    f"{PACKAGE}.captions.recolour",
    f"{PACKAGE}.procedural.generate",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
]
REPORT_SECONDS = 60.0
LINE = 96  # characters of a log's last line that a report shows
TAIL_BYTES = 4096

Command = Callable[[float], list[str]]  # arguments, from the seconds that are left for training


@dataclass(frozen=True)
class Step:
    """One command of a recipe.

    Attributes:
        name: Unique in a recipe; the log is OUT/logs/NAME.log.
        module: Whose `main(arguments) -> int` is called.
        command: The arguments, given the seconds that are left for training.
        after: Names of the steps that must be finished before.
        lane: Steps of one lane run one after the other, in order.
        checkpoints: Folder of a training's checkpoints; a later call goes on from the last one.
        accepted: Exit codes that count as finished; 1 is that of commands which went on after single failures.
    """

    name: str
    module: str
    command: Command
    after: Sequence[str] = ()
    lane: str = "data"
    checkpoints: Path | None = None
    accepted: tuple[int, ...] = (0,)


@dataclass
class Record:
    """The record of a run, kept between calls.

    Attributes:
        folder: Where run.json is.
        settings: What decides the result; another call must have the same.
        seconds: How long the run has taken, over all calls.
        steps: By name the arguments, the seconds, and whether the step is finished.
    """

    folder: Path
    settings: dict[str, Any]
    seconds: float = 0.0
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any], resume: bool) -> Record:
        """Open the record of an earlier call with the same settings, or start one in a folder without any.

        Args:
            folder: Folder of the run.
            settings: What decides the result, by name.
            resume: Whether to continue an earlier call.

        Raises:
            ValueError: The folder holds a run, and `resume` is false or the settings are not those of that run.
        """
        file = folder / RECORD
        if not file.is_file():
            return cls(folder, settings)
        if not resume:
            raise ValueError(f"{folder} holds a run already; give --resume to continue it, or another folder")
        known = json.loads(file.read_text())
        changed = [name for name, value in settings.items() if known["settings"].get(name) != value]
        if changed:
            name = changed[0]
            raise ValueError(
                f"the run in {folder} has {name} {known['settings'].get(name)!r}, not {settings[name]!r}; "
                "resume it with the same settings, or name another folder"
            )
        return cls(folder, settings, known["seconds"], known["steps"])

    def finished(self, name: str) -> bool:
        """Whether a step is finished."""
        return bool(self.steps.get(name, {}).get("finished"))

    def save(self) -> None:
        """Write run.json, whole or not at all."""
        content = {"settings": self.settings, "seconds": round(self.seconds, 1), "steps": self.steps}
        atomic.write_text(self.folder / RECORD, json.dumps(content, indent=2) + "\n")


class Run:
    """Runs steps until all are finished.

    Args:
        steps: In an order in which they could run one after the other.
        record: What earlier calls finished.
        training_left: The seconds that are left for training, given the seconds that the run has taken.
        print_line: Called with lines of progress.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        record: Record,
        training_left: Callable[[float], float],
        print_line: Callable[[str], None] = print,
    ) -> None:
        self.steps, self.record, self.training_left, self.print_line = list(steps), record, training_left, print_line
        self.logs = record.folder / LOGS
        self._before, self._begin = record.seconds, time.monotonic()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    @property
    def seconds(self) -> float:
        """Duration of the run, over all calls."""
        return self._before + time.monotonic() - self._begin

    def __call__(self) -> None:
        """Run what is not finished.

        Raises:
            ChildProcessError: A step failed; the others were stopped, and a later call goes on.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        running: dict[str, tuple[Any, float]] = {}
        with _ended(running):
            while any(not self.record.finished(step.name) for step in self.steps):
                for step in self._ready(running):
                    running[step.name] = (self._start(step), time.monotonic())
                wait([process.sentinel for process, _ in running.values()], REPORT_SECONDS)
                over = [name for name, (process, _) in running.items() if not process.is_alive()]
                for name in over:
                    self._finish(name, *running.pop(name))
                if not over:
                    self.print_line(self._report(running))
                self._save()

    def _ready(self, running: dict[str, Any]) -> Iterator[Step]:
        """Steps that may begin now: the first unfinished one of each lane, if all that it needs is finished."""
        busy = {step.lane for step in self.steps if step.name in running}
        for step in self.steps:
            if step.lane in busy or self.record.finished(step.name):
                continue
            busy.add(step.lane)
            if all(self.record.finished(name) for name in step.after):
                yield step

    def _start(self, step: Step) -> Any:
        known = self.record.steps.get(step.name)
        arguments = known["arguments"] if known else step.command(self.training_left(self.seconds))
        self.record.steps[step.name] = {**(known or {}), "arguments": arguments, "finished": False}
        self._save()
        if step.checkpoints is not None and any(step.checkpoints.glob("**/last*.ckpt")):
            arguments = [*arguments, "--ckpt_path=last"]
        process = self._context.Process(
            target=_work, args=(step.module, arguments, str(self._log(step.name)), sys.path), name=step.name
        )
        process.start()
        self.print_line(f"{_clock(self.seconds)} {step.name} begins")
        return process

    def _finish(self, name: str, process: Any, begun: float) -> None:
        process.join()
        known, step = self.record.steps[name], next(step for step in self.steps if step.name == name)
        known["seconds"] = round(known.get("seconds", 0.0) + time.monotonic() - begun, 1)
        if process.exitcode not in step.accepted:
            raise ChildProcessError(
                f"{name} ended with {process.exitcode}: {last_line(self._log(name))} (all of it: {self._log(name)}); "
                "mend the cause and go on by --resume"
            )
        known["finished"] = True
        self.print_line(f"{_clock(self.seconds)} {name} took {known['seconds']:.0f} s: {last_line(self._log(name))}")

    def _report(self, running: dict[str, Any]) -> str:
        finished = sum(self.record.finished(step.name) for step in self.steps)
        far = f"{finished} of {len(self.steps)} steps, {_clock(self.training_left(self.seconds)).strip()} left to train"
        parts = [f"{step.name}: {self._state(step)}" for step in self.steps if step.name in running]
        return f"{_clock(self.seconds)} {far} | {' | '.join(parts)}"

    def _state(self, step: Step) -> str:
        """The last line of a step's log; of a training the last two, for its progress bar may take two."""
        return last_line(self._log(step.name), 1 if step.checkpoints is None else 2)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _save(self) -> None:
        self.record.seconds = self.seconds
        self.record.save()


def last_line(log: Path, count: int = 1) -> str:
    """The last line that a command printed, or the last state of its progress bar; or the last `count` as one."""
    if not log.is_file():
        return "starting"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return "".join(c for c in " ".join(lines[-count:]) if c.isprintable())[:LINE] if lines else "starting"


@contextmanager
def _ended(running: dict[str, tuple[Any, float]]) -> Iterator[None]:
    """End what still runs, with its own children, however the block ends."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process_limits.end(process.pid)
            process.join()


def _work(module: str, arguments: list[str], log: str, path: list[str]) -> None:
    """Body of a step's process: run a command, with all that it prints in a log."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    multiprocessing.set_start_method("fork", force=True)  # for processes that read data: they need not import again
    sys.path[:] = path
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    os.close(output)
    print_escaped(f"$ python -m {module} {shlex.join(arguments)}")
    sys.argv = [module]
    sys.exit(importlib.import_module(module).main(arguments))


def _die_with_parent() -> None:
    """End this process and its children as soon as the run's own process is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    for member in reversed(process_limits.family(os.getpid())):  # itself last
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
