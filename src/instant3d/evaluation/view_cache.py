"""Cache of the four generated views of many prompts, for evaluations.

Each prompt has its own scene folder, below a folder named by a hash of weights and sampling settings, so that an
interrupted run resumes and views of different settings never mix.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from instant3d import scenes
from instant3d.modules.diffusion.lora import Lora
from instant3d.pipelines.text_to_3d import TextTo3D
from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import file_listing, prompts
from instant3d.utils.errors import print_escaped
from instant3d.views import Views


@dataclass(frozen=True)
class ViewRequest:
    """One requested asset.

    Attributes:
        prompt: Its text.
        seed: Seed of its noise.
    """

    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder: the seed, which is unique, and a part of the prompt for readability."""
        return f"{self.seed:05d}-{prompts.slug(self.prompt)}"


class ViewCache:
    """Views by request; missing ones are generated.

    Args:
        folder: Folder of all caches.
        stage1: Folder or file of the weights; other weights get another cache.
        sampling: Settings of sampling; other settings get another cache.
        load: Loads the model; called only if views are missing.
        at_once: Grids that are sampled in one batch, between two writes.
        loras: LoRA files that are fused into stage 1; others, or other weights of them, get another cache.
    """

    def __init__(
        self,
        folder: str | Path,
        stage1: str | Path,
        sampling: Sampling,
        load: Callable[[], TextTo3D],
        *,
        at_once: int = 8,
        loras: Sequence[Lora] = (),
    ) -> None:
        self.sampling, self.load, self.at_once = sampling, load, at_once
        self.folder = Path(folder) / fingerprint(stage1, sampling, loras)

    def fill(self, requests: Sequence[ViewRequest]) -> None:
        """Generate and store the missing views, with progress on standard output."""
        missing = [request for request in requests if not self._has(request)]
        done = len(requests) - len(missing)
        for k in range(0, len(missing), self.at_once):
            some = missing[k : k + self.at_once]
            self._sample(some)
            done += len(some)
            print_escaped(f"{self.folder}: {done} of {len(requests)} grids")

    def views(self, request: ViewRequest) -> Views:
        """The four views (4,) of a request after `fill`, as stored: with 8 bits."""
        return scenes.read(self.folder / request.name).views

    def seconds(self, request: ViewRequest) -> float:
        """Seconds of sampling, without loading: an equal share of its batch's time."""
        return json.loads((self.folder / request.name / scenes.DOCUMENT).read_text())["seconds"]

    def _has(self, request: ViewRequest) -> bool:
        place = self.folder / request.name
        return (place / scenes.DOCUMENT).is_file() and scenes.read(place, frames=[0]).caption == request.prompt

    def _sample(self, requests: Sequence[ViewRequest]) -> None:
        model, start = self.load(), time.perf_counter()
        texts, seeds = [request.prompt for request in requests], [request.seed for request in requests]
        sampled = model.views(texts, seeds, sampling=self.sampling)
        seconds = (time.perf_counter() - start) / len(requests)
        for request, views in zip(requests, sampled, strict=True):
            extra = {"seed": request.seed, "seconds": round(seconds, 3)}
            scenes.write(self.folder / request.name, views, caption=request.prompt, extra=extra)


def view_requests(texts: Sequence[str], seed: int = 0, each: int = 1) -> list[ViewRequest]:
    """List requests for several assets of every prompt, all with different seeds.

    Args:
        texts: The prompts.
        seed: Seed of the first request; the others count up from it.
        each: Number of assets of each prompt.

    Returns:
        The requests, prompt by prompt.
    """
    return [ViewRequest(text, seed + each * number + k) for number, text in enumerate(texts) for k in range(each)]


def read_prompt_list(path: str | Path, most: int | None = None) -> list[str]:
    """Read the prompts of a list for an evaluation, which leaves none out.

    Args:
        path: File with one prompt a line.
        most: Number of prompts to return; all if None.

    Raises:
        ValueError: If there is no prompt, or one is invalid or repeated.
    """
    found = prompts.read_prompts(path)
    if not found:
        raise ValueError(f"{path} holds no prompt; write one a line")
    for prompt in found:
        if prompt.error:
            raise ValueError(f"{prompt.where} {prompt.error}")
    texts = [prompt.text for prompt in found]
    if len(set(texts)) < len(texts):
        twice = next(text for k, text in enumerate(texts) if text in texts[:k])
        raise ValueError(f"{path} holds {twice!r} twice; remove one, since an evaluation counts each prompt once")
    return texts[:most]


def fingerprint(stage1: str | Path, sampling: Sampling, loras: Sequence[Lora] = ()) -> str:
    """Hash of the weights' files (names, sizes, dates) and of the sampling settings, 8 hexadecimal digits."""
    source = Path(stage1)
    files = [source] if source.is_file() else file_listing.visible_files(source, "**/*.safetensors")
    fused = [[lora.source, lora.weight, *_signature(lora.file())] for lora in loras]
    known = json.dumps([str(stage1), [_signature(file) for file in files], asdict(sampling), *fused])
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def _signature(file: Path) -> tuple[str, int, int]:
    return file.name, file.stat().st_size, file.stat().st_mtime_ns
