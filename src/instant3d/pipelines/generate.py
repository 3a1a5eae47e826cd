"""Generation of assets from prompts, a folder of results for each: the work of `instant3d generate`.

A folder holds mesh.FORMAT, triplane.safetensors, turntable.mp4 and .webp, sheet.png, for the two-stage system also
grid.png and the scene folder views/ and, written last, result.json with the settings. An asset whose result.json has
the same settings is finished and is not generated again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instant3d.mesh import check_size_mm
from instant3d.nerf.asset import check_formats
from instant3d.pipelines import results
from instant3d.pipelines.generation_plan import GenerationRequest, Item, asset_settings, is_finished, mesh_nodes, plan
from instant3d.pipelines.generators import AssetGenerator
from instant3d.pipelines.results import RECORD
from instant3d.utils import atomic
from instant3d.utils.progress import Progress, Stopwatch
from instant3d.utils.prompts import Prompt, cut_off, slug

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # after these, nothing more can be written


@dataclass(frozen=True)
class GenerationResult:
    """The outcome of a prompt or an item: a `record`, a `note` or an `error`; none of them if it was finished before.

    Attributes:
        where: Where the prompt was given, for messages.
        folder: The folder of results, if there is one.
        record: The content of result.json, if the asset was generated now.
        note: A remark on the prompt.
        error: Why the asset was not generated.
    """

    where: str
    folder: Path | None = None
    record: dict[str, Any] | None = None
    note: str = ""
    error: str | Exception = ""


def generate(
    prompts: Sequence[Prompt],
    output: Path,
    generator: AssetGenerator,
    request: GenerationRequest = GenerationRequest(),
    *,
    progress: Progress | None = None,
) -> Iterator[GenerationResult]:
    """Generate the assets of prompts, one after another. Networks are loaded only if an asset is not finished yet.

    Args:
        prompts: The prompts; one with an `error` is reported and left out.
        output: The folder of results of a single prompt with a single seed, else the parent of their folders.
        generator: The system that generates the assets.
        request: The settings of all prompts.
        progress: Where progress is shown; None: nowhere.

    Yields:
        Errors of prompts, then finished assets, then notes on prompts, then each new asset as soon as it is written.
        After a full disk the remaining items are reported as not begun.

    Raises:
        ValueError: A setting is out of range, or the weights are invalid.
        OSError: The weights cannot be read.
        MemoryError: A batch does not fit into the GPU's memory.
    """
    check_formats(request.formats)
    check_size_mm(request.size_mm)
    yield from (GenerationResult(prompt.where, error=prompt.error) for prompt in prompts if prompt.error)
    yield from generate_items(plan(prompts, output, request), generator, request, progress=progress)


def generate_items(
    items: Sequence[Item],
    generator: AssetGenerator,
    request: GenerationRequest,
    *,
    progress: Progress | None = None,
) -> Iterator[GenerationResult]:
    """Generate planned assets; networks are loaded only if one is not finished yet.

    Args:
        items: The assets, as `plan` lists them.
        generator: The system that generates the assets.
        request: The settings of all items.
        progress: Where progress is shown; None: nowhere.

    Yields:
        Finished assets, then notes on prompts, then each new asset as soon as it is written. After a full disk the
        remaining items are reported as not begun.

    Raises:
        ValueError: The weights are invalid, or a batch cannot be sampled.
        OSError: The weights cannot be read.
        MemoryError: A batch does not fit into the GPU's memory.
    """
    watch, fresh = Stopwatch(), []
    with watch("load"):
        _ = generator.weights  # their hashes take a while
    for item in items:
        if is_finished(item, request, generator):
            yield GenerationResult(item.where, item.folder)
        else:
            fresh.append(item)
    if not fresh:
        return
    with watch("load"):
        generator.load()
    yield from _notes(generator, fresh)
    run = BatchRun(generator, request, watch.seconds["load"], progress or Progress())
    for k in range(0, len(fresh), generator.at_once):
        rest = fresh[k + generator.at_once :]
        try:
            full = yield from run.make(fresh[k : k + generator.at_once])
        except (ValueError, OSError, MemoryError):
            yield from map(not_begun, rest)
            raise
        if full:
            yield from map(not_begun, rest)
            return


def not_begun(item: Item) -> GenerationResult:
    """Report an item that is left out after an error that ends the whole run."""
    return GenerationResult(item.where, error="was not begun")


def closing_line(record: dict[str, Any], folder: Path | None) -> str:
    """Format a record as one line for the terminal; `folder` is that of the results."""
    return results.closing_line(record, folder or Path(), repr(record["prompt"]))


def is_disk_full(error: str | Exception) -> bool:
    """Whether nothing more can be written after this error."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turn a GPU's lack of memory into a `MemoryError` that names a remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError("the GPU has not enough memory; use --batch 1 and a smaller --max-memory") from error


@dataclass(frozen=True)
class BatchRun:
    """The generation of batches of items that share their settings.

    Attributes:
        generator: The system that generates the assets.
        request: The settings of all items.
        load_seconds: How long loading the networks took, for the records.
        progress: Where progress is shown.
    """

    generator: AssetGenerator
    request: GenerationRequest
    load_seconds: float = 0.0
    progress: Progress = field(default_factory=Progress)

    def make(self, items: Sequence[Item]) -> Generator[GenerationResult, None, bool]:
        """Sample the items in one batch, then write them one by one; return whether the disk is full."""
        begun = Stopwatch()
        drafts = self.sample(items, begun)
        for number, (item, draft) in enumerate(zip(items, drafts, strict=True), 1):
            watch = Stopwatch()
            watch.seconds = {"load": self.load_seconds} | begun.share(len(items))
            try:
                yield GenerationResult(item.where, item.folder, record=self.write(item, draft, watch))
            except (ValueError, OSError, MemoryError) as error:
                yield GenerationResult(item.where, item.folder, error=error)
                if is_disk_full(error):
                    yield from map(not_begun, items[number:])
                    return True
        return False

    def sample(self, items: Sequence[Item], watch: Stopwatch) -> Tensor:
        """Sample the latents (B, ...) of the items in one batch.

        Raises:
            MemoryError: The batch does not fit into the GPU's memory.
        """
        prompts, seeds = [item.prompt for item in items], [item.seed for item in items]
        name = items[0].where if len(items) == 1 else f"{items[0].where} and {len(items) - 1} more"
        with _enough_memory(), self.progress.task(f"{name}: {self.generator.task}") as on_step:
            return self.generator.sample(prompts, seeds, watch, on_step)

    @_enough_memory()
    def write(
        self, item: Item, draft: Tensor, watch: Stopwatch, on_mesh: Callable[[Sequence[Path]], object] | None = None
    ) -> dict[str, Any]:
        """Write one asset, whole or not at all.

        Args:
            item: The asset.
            draft: Its latent, one element of what `sample` returned.
            watch: Its seconds until now; gets those of the parts that follow.
            on_mesh: Called with the files of the mesh, in a hidden folder, as soon as they are whole.

        Returns:
            The record, as in result.json.

        Raises:
            ValueError: The network's output is invalid, or the mesh cannot be made.
            OSError: A file cannot be written.
            MemoryError: The GPU has not enough memory.
        """
        with atomic.merged(item.folder, seal=RECORD) as partial, self.progress.task(f"{item.where}: building"):
            made = self.generator.finish(
                draft, item.prompt, item.seed, mesh_nodes(self.request, self.generator), partial, watch
            )
            made.asset.name = slug(item.prompt)
            written = results.write(
                partial,
                made.asset,
                made.shown,
                size=made.size,
                formats=self.request.formats,
                watch=watch,
                options=self.request.options,
                size_mm=self.request.size_mm,
                on_mesh=on_mesh,
            )
            written["files"] = [*made.files, *written["files"]]
            record = (
                asset_settings(item, self.request, self.generator) | {"device": str(self.generator.device)} | written
            )
            if self.generator.words is not None and (unknown := self.generator.words.unknown(item.prompt)):
                record["unknown_words"] = unknown
            return results.write_record(partial, **record, seconds=watch.rounded())


def _notes(generator: AssetGenerator, items: Sequence[Item]) -> Iterator[GenerationResult]:
    """Report prompts with words that are not in the training captions, or that are cut off by the tokenizers."""
    for item in {item.prompt: item for item in reversed(items)}.values():
        if generator.words is not None and (remark := generator.words.unknown_words_message(item.prompt)):
            yield GenerationResult(item.where, note=remark)
        lost = cut_off(item.prompt, generator.fits)
        if lost:
            yield GenerationResult(
                item.where, note=f"is longer than what is read; its end makes no difference: {lost!r}"
            )
