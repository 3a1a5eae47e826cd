"""Prompts to sample by `instant3d predict stage1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instant3d import scenes
from instant3d.utils import prompts


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to sample.

    Attributes:
        prompts: B texts.
        seeds: B random seeds.
        names: B folder names.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    names: tuple[str, ...]

    def to(self, *args: Any, **kwargs: Any) -> PromptBatch:
        """Return the batch itself, which holds no tensors; Lightning calls this."""
        return self


def read_prompt_batch(path: str | Path, seed: int = 0) -> tuple[list[PromptBatch], list[str]]:
    """Read a prompt list.

    Args:
        path: Text file with one prompt a line, or the name of a shipped one.
        seed: Prompt number k of the list gets the random seed `seed` + k.

    Returns:
        One batch of size 1 for each valid prompt, with a name of its own, and an error message for each of the others.
    """
    found, faults = [], []
    for number, prompt in enumerate(prompts.read_prompts(path)):
        if prompt.error:
            faults.append(f"{prompt.where} {prompt.error}")
        else:
            found.append(PromptBatch((prompt.text,), (seed + number,), (f"{number:05d}-{prompts.slug(prompt.text)}",)))
    return found, faults


def collate_prompts(items: Sequence[PromptBatch]) -> PromptBatch:
    """Concatenate batches of size 1."""
    texts, seeds, names = zip(*((item.prompts[0], item.seeds[0], item.names[0]) for item in items), strict=True)
    return PromptBatch(texts, seeds, names)


def unfinished(batches: Sequence[PromptBatch], output: str | Path) -> list[PromptBatch]:
    """Leave out the prompts whose scene is in the folder `output` already."""
    return [batch for batch in batches if not _is_done(Path(output) / batch.names[0], batch.prompts[0])]


def _is_done(folder: Path, prompt: str) -> bool:
    return (folder / scenes.DOCUMENT).is_file() and scenes.document(folder).text("caption") == prompt
