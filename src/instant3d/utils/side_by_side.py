"""Evaluation of independent items at the same time, one thread of Python for each core of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MOST = 8  # items at the same time, since each takes memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device
) -> Iterator[Result]:
    """Apply a function to all items; on a CPU, several at once share PyTorch's threads.

    Many small operations gain nothing from several threads each, but work on several items does.

    Args:
        function: It spends most of its time in PyTorch, which releases Python's lock.
        items: Its arguments.
        device: Where it computes; on a GPU items come one after the other.

    Yields:
        The results in the order of the items.
    """
    threads = torch.get_num_threads()
    workers = min(threads, MOST) if device.type == "cpu" else 1
    if workers == 1:
        yield from map(function, items)
        return
    try:
        with ThreadPoolExecutor(workers, "item", torch.set_num_threads, (threads // workers,)) as pool:
            yield from pool.map(function, items)
    finally:
        torch.set_num_threads(threads)
