"""A worker process: loads the networks once, then generates batches of assets: `python -m instant3d.serve.worker`.

It reads JSON lines from standard input, first its options, then batches `{"jobs": [...]}` and `{"cancel": ID}`, and
writes events as JSON lines to standard output. When its input ends, as it does with its server, so does the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from instant3d.modules.diffusion.lora import Lora
from instant3d.pipelines.direct_generator import DirectGenerator
from instant3d.pipelines.generate import BatchRun
from instant3d.pipelines.generation_plan import GenerationRequest, Item, is_finished
from instant3d.pipelines.generators import AssetGenerator
from instant3d.pipelines.results import RECORD
from instant3d.pipelines.two_stage_generator import TwoStageGenerator
from instant3d.serve.schemas import ImageOptions, Options
from instant3d.serve.uploads import IMAGES
from instant3d.utils import atomic, bundled, visualization
from instant3d.utils.errors import format_error
from instant3d.utils.progress import OnStep, Progress, Stopwatch

Emit = Callable[..., None]


class StepProgress(Progress):
    """Progress that hands the steps of every task to a function.

    Args:
        on_step: Called with the number of steps done and their total.
    """

    def __init__(self, on_step: OnStep) -> None:
        super().__init__()
        self.on_step = on_step

    @contextlib.contextmanager
    def task(self, name: str) -> Iterator[OnStep]:
        """Yield the function."""
        yield self.on_step


class Cancelled(Exception):
    """All jobs of a batch were cancelled."""


@dataclass(frozen=True)
class WorkerJob:
    """A job as a worker reads it.

    Attributes:
        id: Its id.
        prompt: The prompt; None: reconstruct `source`.
        options: Of the asset.
        folder: Where the results go.
        source: Scene folder or image of the views.
    """

    id: str
    prompt: str | None
    options: dict[str, Any]
    folder: Path
    source: Path | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> WorkerJob:
        """Read a job from JSON."""
        source = fields.get("source")
        return cls(
            fields["id"], fields["prompt"], fields["options"], Path(fields["folder"]), Path(source) if source else None
        )


class Worker:
    """Generates batches of jobs, and reports each step.

    Args:
        generator: The system, whose networks are loaded.
        stage2: Weights that reconstruct from images.
        emit: Called with the name of an event and its fields.
        cancelled: Ids of jobs that are to stop; other threads add to it.
    """

    def __init__(self, generator: AssetGenerator, stage2: str | Path, emit: Emit, cancelled: set[str]) -> None:
        self.generator, self.stage2, self.emit, self.cancelled = generator, stage2, emit, cancelled

    def run(self, jobs: Sequence[WorkerJob]) -> None:
        """Make the assets of a batch whose options are equal except for the seed; failures are reported as events."""
        try:
            if jobs[0].prompt is None:
                self._reconstruct(jobs[0])
            else:
                self._generate(jobs)
        except Cancelled:
            pass
        except (ValueError, OSError, MemoryError) as error:
            for job in jobs:
                self.emit("failed", id=job.id, error=format_error(error))
        self.emit("idle")

    def _generate(self, jobs: Sequence[WorkerJob]) -> None:
        options = Options(**jobs[0].options)
        generator = self.generator
        if isinstance(generator, TwoStageGenerator):
            generator = generator.with_sampling(options.sampling(generator.sampling), options.negative_prompt or None)
        request = GenerationRequest(
            resolution=options.resolution, formats=options.formats, options=options.mesh_options()
        )
        items = {job.id: Item(job.prompt or "", job.id, Options(**job.options).seed, job.folder) for job in jobs}
        fresh = {name: item for name, item in items.items() if not is_finished(item, request, generator)}
        for name in items.keys() - fresh.keys():
            self.emit("done", id=name, result=json.loads((items[name].folder / RECORD).read_text(encoding="utf-8")))
        if fresh:
            progress = StepProgress(lambda done, total: self._report(fresh, "denoise", done, total))
            self._make(BatchRun(generator, request, progress=progress), fresh)

    def _make(self, run: BatchRun, items: dict[str, Item]) -> None:
        sampling = Stopwatch(lambda part: self._report(items, part, 0, 0))
        drafts = run.sample(list(items.values()), sampling)
        for (name, item), draft in zip(items.items(), drafts, strict=True):
            if name not in self.cancelled:
                _publish_views(draft, item.folder)
                self.emit("progress", id=name, part="reconstruct", done=0, total=0)
        for (name, item), draft in zip(items.items(), drafts, strict=True):
            watch = Stopwatch(lambda part, name=name: self._report([name], part, 0, 0))  # type: ignore[misc]
            watch.seconds = sampling.share(len(items))
            with contextlib.suppress(Cancelled):
                self._finish(run, name, item, draft, watch)

    def _finish(self, run: BatchRun, name: str, item: Item, draft: Tensor, watch: Stopwatch) -> None:
        try:
            with _threads_restored():
                record = run.write(item, draft, watch, lambda files: _publish(files, item.folder))
            self.emit("done", id=name, result=record)
        except (ValueError, OSError, MemoryError) as error:
            self.emit("failed", id=name, error=format_error(error))

    def _reconstruct(self, job: WorkerJob) -> None:
        from instant3d.pipelines.reconstruct import reconstruct  # half a second, which the first prompt need not wait

        options = ImageOptions(**job.options)
        self._report([job.id], "reconstruct", 0, 0)
        source = job.source or Path()
        photos = sorted(source.iterdir()) if source.name == IMAGES else source
        with _threads_restored():
            result = reconstruct(
                photos,
                job.folder,
                weights=self.stage2,
                resolution=options.resolution,
                formats=options.formats,
                options=options.mesh_options(),
                device=str(self.generator.device),
                on_mesh=lambda files: _publish(files, job.folder),
            )
        self.emit("done", id=job.id, result=result)

    def _report(self, names: Sequence[str] | dict[str, Item], part: str, done: int, total: int) -> None:
        """Report a part of the work; stop it if all its jobs were cancelled."""
        if all(name in self.cancelled for name in names):
            raise Cancelled
        for name in names:
            self.emit("progress", id=name, part=part, done=done, total=total)


def _publish_views(draft: Tensor, folder: Path) -> None:
    """Write the grid of views (3, H, W) of the two-stage system before the asset is built."""
    if draft.dim() == 3 and len(draft) == 3:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic.partial_file(folder / "grid.png") as partial:
            visualization.write_image(draft, partial)


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _publish(files: Sequence[Path], folder: Path) -> None:
    """Copy files of a mesh to where clients find them; leave them half of the cores while its turntable is rendered."""
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        with atomic.partial_file(folder / file.name) as partial:
            shutil.copyfile(file, partial)


def make_generator(options: dict[str, Any]) -> AssetGenerator:
    """Return the system that a worker's options name; its networks are not loaded yet."""
    machine = {"device": options.get("device") or "auto", "at_once": options["batch"]}
    if options.get("system") == "direct":
        return DirectGenerator(options.get("direct"), **machine)
    loras = [Lora.parse(text) for text in options.get("lora") or ()]
    return TwoStageGenerator(options.get("stage1"), options.get("stage2"), loras=loras, **machine)


def describe(generator: AssetGenerator) -> dict[str, Any]:
    """Names of a generator's `weights`, and the `steps` and `guidance` that they are sampled with, if any."""
    weights = {name: source["name"] for name, source in generator.weights.items()}
    if not isinstance(generator, TwoStageGenerator):
        return {"weights": weights}
    return {"weights": weights, "steps": generator.sampling.steps, "guidance": generator.sampling.guidance}


def main(stdin: TextIO = sys.stdin, stdout: TextIO | None = None) -> int:
    """Serve batches until the input ends."""
    stdout = stdout or os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the events
    warnings.simplefilter("ignore")
    emit = _emitter(stdout)
    options = json.loads(stdin.readline())
    try:
        generator = make_generator(options)
        generator.load()
        _ = generator.weights  # hashed once
    except (ValueError, OSError, MemoryError) as error:
        emit("broken", error=format_error(error))
        return 2
    cancelled: set[str] = set()
    stage2 = options.get("stage2") or bundled.weights_folder(bundled.STAGE2)
    worker = Worker(generator, stage2, emit, cancelled)
    emit("ready", loaded=describe(generator))
    for jobs in iter(_batches(stdin, cancelled).get, None):
        worker.run(jobs)
        cancelled.difference_update(job.id for job in jobs)
    return 0


def _batches(stdin: TextIO, cancelled: set[str]) -> queue.Queue[list[WorkerJob] | None]:
    """Start a thread that reads batches and cancellations, and ends the process with its server."""
    batches: queue.Queue[list[WorkerJob] | None] = queue.Queue()

    def read() -> None:
        for line in stdin:
            message = json.loads(line)
            if "cancel" in message:
                cancelled.add(message["cancel"])
            else:
                batches.put([WorkerJob.from_dict(job) for job in message["jobs"]])
        os._exit(0)  # what is half-written is in a hidden folder, which the next run removes

    threading.Thread(target=read, daemon=True).start()
    return batches


def _emitter(stream: TextIO) -> Emit:
    lock = threading.Lock()

    def emit(event: str, **fields: Any) -> None:
        with lock:
            stream.write(json.dumps({"event": event, **fields}) + "\n")
            stream.flush()

    return emit


if __name__ == "__main__":
    sys.exit(main())
