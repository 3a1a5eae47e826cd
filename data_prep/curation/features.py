"""CLIP features of many scenes.

Until the file of features is complete, its finished parts are beside it in NAME.parts, so that an interrupted run
resumes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.utils import file_listing
from instant3d.utils.progress import OnStep

from . import feature_store
from .feature_store import Features
from .scene_index import SceneRef

BATCH = 8  # scenes in one batch of the network
PER_PART = 1024  # scenes: what an interruption may cost

Look = Tensor | Exception  # the images of a scene, or why there are none
Failed = Callable[[SceneRef, str], None]


class ImageEncoder:
    """The image encoder of a CLIP of transformers with its processor.

    Args:
        model: A `CLIPModel`.
        preparer: Its image processor.
        name: Name of the model, as stored with the features.
        device: Where to run it.
    """

    def __init__(self, model: Any, preparer: Any, name: str, device: str | torch.device = "cpu") -> None:
        self.model, self.preparer, self.name = model.to(device).eval().requires_grad_(False), preparer, name
        self.device = torch.device(device)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str | torch.device = "cpu") -> ImageEncoder:
        """Load from a folder or a Hub id, such as openai/clip-vit-large-patch14."""
        from transformers import CLIPImageProcessor, CLIPModel

        name = str(source)
        try:
            loaded: Any = CLIPModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            preparer = CLIPImageProcessor.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name} is neither a folder with a CLIP (config.json, model.safetensors, preprocessor_config.json) "
                f"nor a Hub id that can be reached: {str(error).splitlines()[0]}"
            ) from error
        model, info = loaded
        if absent := sorted(info["missing_keys"]):  # transformers would fill them with chance
            raise ValueError(f"{name} is no whole CLIP: it lacks {absent[0]}; name another")
        return cls(model, preparer, name, device)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Unit vectors (N, D) of N images (3, H, W) in [0, 1] of any sizes."""
        levels = [(p.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy() for p in images]
        ready = self.preparer(images=levels, return_tensors="pt")["pixel_values"]
        found = self.model.get_image_features(ready.to(self.device)).pooler_output
        return F.normalize(found.float(), dim=-1).cpu()

    @property
    def fingerprint(self) -> str:
        """A hash of the weights of the last layer, which identifies the model."""
        weights = self.model.visual_projection.weight.detach().cpu().float().contiguous()
        return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16]


def extend(
    path: Path,
    subjects: Sequence[SceneRef],
    encoder: ImageEncoder,
    *,
    frames: Sequence[int],
    per_view: bool = False,
    threads: int = 4,
    on_step: OnStep = lambda *_: None,
    failed: Failed,
) -> Features:
    """Compute the features of all subjects into the file `path`, except for those that it or its parts have already.

    Args:
        path: File of the features.
        subjects: Scenes.
        encoder: CLIP's image encoder.
        frames: Indices of the views.
        per_view: Store a vector for each view, instead of their normalised mean.
        threads: Threads that read scenes.
        on_step: Called with the progress.
        failed: Called with each scene that cannot be read and the reason; it is left out.
    """
    shown = ",".join(map(str, frames))
    made_with = {"model": encoder.name, "fingerprint": encoder.fingerprint, "frames": shown, "per_view": str(per_view)}
    folder = path.with_name(f"{path.name}.parts")
    earlier = file_listing.visible_files(folder, "*.safetensors")
    parts = [_of_one_kind(file, made_with) for file in [path, *earlier] if file.is_file()]
    there = {name for part in parts for name in part.ids}
    left = [subject for subject in subjects if subject.id not in there]
    folder.mkdir(parents=True, exist_ok=True)
    seen = len(subjects) - len(left)
    for number, first in enumerate(range(0, len(left), PER_PART), start=len(earlier)):
        found: dict[str, Tensor] = {}
        for batch in _read_ahead(left[first : first + PER_PART], frames, threads):
            found |= _encoded(batch, encoder, per_view, failed)
            seen += len(batch)
            on_step(seen, len(subjects))
        if found:
            parts.append(Features(tuple(found), torch.stack(list(found.values())).half(), made_with))
            parts[-1].save(folder / f"{number:05d}.safetensors")
    if not parts:
        raise ValueError("not one scene could be read; no features were written")
    whole = feature_store.joined(parts)
    whole.save(path)
    shutil.rmtree(folder)
    return whole


def _encoded(
    batch: Sequence[tuple[SceneRef, Look]], encoder: ImageEncoder, per_view: bool, failed: Failed
) -> dict[str, Tensor]:
    """Vectors (V, D) by id of what could be read of a batch."""
    good = {}
    for subject, look in batch:
        if isinstance(look, Tensor):
            good[subject.id] = look
        else:
            failed(subject, str(look))
    if not good:
        return {}
    each = encoder([image for images in good.values() for image in images])
    groups = each.split([len(images) for images in good.values()])
    kept = groups if per_view else [F.normalize(group.mean(0, keepdim=True), dim=-1) for group in groups]
    return dict(zip(good, kept, strict=True))


def _read_ahead(
    subjects: Sequence[SceneRef], frames: Sequence[int], threads: int
) -> Iterator[list[tuple[SceneRef, Look]]]:
    """Batches of images; while one is used, the next is read."""

    def look(subject: SceneRef) -> Look:
        try:
            return subject.on_white(frames)
        except (ValueError, OSError) as error:
            return error

    batches = [subjects[first : first + BATCH] for first in range(0, len(subjects), BATCH)]
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[Look]] = []
        for batch, following in zip(batches, [*batches[1:], []], strict=True):
            jobs = ahead or [pool.submit(look, subject) for subject in batch]
            ahead = [pool.submit(look, subject) for subject in following]
            yield [(subject, job.result()) for subject, job in zip(batch, jobs, strict=True)]


def _of_one_kind(path: Path, made_with: dict[str, str]) -> Features:
    """The features of an earlier call, which must have the same settings."""
    earlier = feature_store.load(path)
    other = [key for key in ("fingerprint", "frames", "per_view") if earlier.made_with.get(key) != made_with[key]]
    if other:
        what = {"fingerprint": "weights", "frames": "frames", "per_view": "setting of --per-view"}[other[0]]
        old = earlier.made_with.get("model")
        raise ValueError(f"{path} was made with other {what} (by {old}); name another file, or delete it")
    return earlier
