"""Four views for each of many prompts, drawn once and kept: what evaluations of text look at.

Each is a scene folder of its own, below a name that stands for the weights and the way of sampling, so that an
interrupted run goes on where it was and other settings never mix. Knows nothing of what is measured.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from instant3d import scenes
from instant3d.pipelines.text_to_3d import TextTo3D
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import file_listing, prompts
from instant3d.utils.errors import print_escaped
from instant3d.views import Views


@dataclass(frozen=True)
class ViewRequest:
    """One asset that is wanted."""

    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """A folder's name: the seed, which tells orders apart, and some of the prompt for people."""
        return f"{self.seed:05d}-{prompts.slug(self.prompt)}"


class ViewCache:
    """Draws what is missing in `folder`.

    stage1    where the weights come from: what is drawn by others has another place
    load      opens the model; called when something is missing, so that looking again at what is there loads nothing
    at_once   grids that are drawn between two savings
    """

    def __init__(
        self,
        folder: str | Path,
        stage1: str | Path,
        sampling: Sampling,
        load: Callable[[], TextTo3D],
        *,
        at_once: int = 8,
    ) -> None:
        self.sampling, self.load, self.at_once = sampling, load, at_once
        self.folder = Path(folder) / fingerprint(stage1, sampling)

    def fill(self, requests: Sequence[ViewRequest]) -> None:
        """Draw and keep what is missing, telling how far it is."""
        missing = [order for order in requests if not self._has(order)]
        done = len(requests) - len(missing)
        for k in range(0, len(missing), self.at_once):
            some = missing[k : k + self.at_once]
            self._draw(some)
            done += len(some)
            print_escaped(f"{self.folder}: {done} of {len(requests)} grids")

    def views(self, request: ViewRequest) -> Views:
        """The four views (4,) of an order that `fill` has drawn, as they are kept: in 8 bits."""
        return scenes.read(self.folder / request.name).views

    def seconds(self, request: ViewRequest) -> float:
        """What drawing took, without loading: an equal share of its batch's time."""
        return json.loads((self.folder / request.name / scenes.DOCUMENT).read_text())["seconds"]

    def _has(self, request: ViewRequest) -> bool:
        place = self.folder / request.name
        return (place / scenes.DOCUMENT).is_file() and scenes.read(place, frames=[0]).caption == request.prompt

    def _draw(self, requests: Sequence[ViewRequest]) -> None:
        model, start = self.load(), time.perf_counter()
        texts, seeds = [order.prompt for order in requests], [order.seed for order in requests]
        drawn = model.views(texts, seeds, sampling=self.sampling)
        seconds = (time.perf_counter() - start) / len(requests)
        for order, views in zip(requests, drawn, strict=True):
            extra = {"seed": order.seed, "seconds": round(seconds, 3)}
            scenes.write(self.folder / order.name, views, caption=order.prompt, extra=extra)


def view_requests(texts: Sequence[str], seed: int = 0, each: int = 1) -> list[ViewRequest]:
    """`each` assets for every prompt; no two orders have the same seed, which would show as the same mistakes."""
    return [ViewRequest(text, seed + each * number + k) for number, text in enumerate(texts) for k in range(each)]


def read_prompt_list(path: str | Path, most: int | None = None) -> list[str]:
    """The prompts of a list, all of which must be sound and none there twice: an evaluation leaves nothing out."""
    found = prompts.read_prompts(path)
    if not found:
        raise ValueError(f"{path} holds no prompt; write one a line")
    for prompt in found:
        if prompt.error:
            raise ValueError(f"{prompt.where} {prompt.error}")
    texts = [prompt.text for prompt in found]
    if len(set(texts)) < len(texts):
        twice = next(text for k, text in enumerate(texts) if text in texts[:k])
        raise ValueError(f"{path} holds {twice!r} twice; leave one out, for an evaluation counts each prompt once")
    return texts[:most]


def fingerprint(stage1: str | Path, sampling: Sampling) -> str:
    """Eight hexadecimal digits that change with the weights' files, by their sizes and dates, and with the sampling."""
    source = Path(stage1)
    files = [source] if source.is_file() else file_listing.visible_files(source, "**/*.safetensors")
    weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    known = json.dumps([str(stage1), weights, asdict(sampling)])
    return hashlib.sha256(known.encode()).hexdigest()[:8]
