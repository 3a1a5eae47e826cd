"""Generation of many assets on the machines of a Ray cluster, one loaded model a worker.

Batches of items are spread over the workers. If one is lost, another makes its batch again; assets of it that were
written already are left as they are. All machines need this package, the same Python and a shared disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instant3d.mesh import check_size_mm
from instant3d.nerf.asset import check_formats
from instant3d.pipelines.generate import (
    GenerationResult,
    generate_items,
    is_disk_full,
    not_begun,
)
from instant3d.pipelines.generation_plan import GenerationRequest, Item, plan
from instant3d.pipelines.generators import AssetGenerator
from instant3d.utils.errors import format_error
from instant3d.utils.prompts import Prompt
from instant3d.utils.ray_pool import LostJob, RayPool, connected, seats

Batch = Sequence[Item]


def ray_generate(
    prompts: Sequence[Prompt],
    output: Path,
    make_generator: Callable[[], AssetGenerator],
    request: GenerationRequest,
    *,
    batch: int = 4,
    address: str | None = None,
    workers: int | None = None,
    gpus_each: float = 0,
) -> Iterator[GenerationResult]:
    """Generate the assets of prompts as `generate` does, on many machines.

    Args:
        prompts: The prompts; one with an `error` is reported and left out.
        output: As of `generate`, on a disk that all machines share.
        make_generator: Called once in each worker; it is sent there, so that its paths must be absolute.
        request: The settings of all prompts.
        batch: Prompts that are sampled in one batch.
        address: "auto" or "ray://host:10001" of the cluster; None starts Ray on this machine.
        workers: Number of workers; None: as many as the cluster has processors, or GPUs.
        gpus_each: GPUs that each worker takes, such as 0.5.

    Yields:
        Errors of prompts, then the results of each batch as it comes, in any order.

    Raises:
        ValueError: A setting is out of range, Ray is not installed, or the cluster does not answer.
        ChildProcessError: A worker cannot load the weights, or its GPU lacks memory for a batch.
    """
    check_formats(request.formats)
    check_size_mm(request.size_mm)
    yield from (GenerationResult(prompt.where, error=prompt.error) for prompt in prompts if prompt.error)
    items = plan(prompts, output.absolute(), request)
    batches = [items[k : k + batch] for k in range(0, len(items), batch)]
    if not batches:
        return
    with connected(address, workers) as ray:

        def new_actor() -> Any:
            return ray.remote(num_cpus=1, num_gpus=gpus_each, max_restarts=0)(_Actor).remote(make_generator, request)

        pool = RayPool(ray, new_actor, batches, jobs_each=1)
        yield from _results(pool.answers(seats(ray, address, workers, gpus_each)), items)


def _results(answers: Iterator[list[GenerationResult] | LostJob], items: Sequence[Item]) -> Iterator[GenerationResult]:
    """Yield the results of batches; after a full disk, report the items that are left and end."""
    left = {item.folder: item for item in items}
    for answer in answers:
        if isinstance(answer, LostJob):
            answer = [GenerationResult(item.where, item.folder, error=answer.reason) for item in answer.job]
        for result in answer:
            yield result
            if result.folder is not None:
                left.pop(result.folder, None)
        if any(is_disk_full(result.error) for result in answer):
            yield from map(not_begun, left.values())
            return


class _Actor:
    """One of Ray's workers: it loads a generator once and makes batches, one per call of `answer`."""

    def __init__(self, make_generator: Callable[[], AssetGenerator], request: GenerationRequest) -> None:
        self.make_generator, self.request = make_generator, request
        self.generator: AssetGenerator | None = None
        self.batches: Iterator[Batch] = iter(())

    def begin(self, batches: Sequence[Batch]) -> None:
        self.batches = iter(batches)

    def answer(self) -> list[GenerationResult] | str | None:
        """The results of the next batch; None after the last; a message if no asset can be made."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        try:
            self.generator = self.generator or self.make_generator()
            return list(generate_items(batch, self.generator, self.request))
        except (ValueError, OSError, MemoryError) as error:
            return format_error(error)
