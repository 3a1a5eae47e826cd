"""Assets of prompts, rendered from new cameras: generated, read from a folder, or reconstructed from real views."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from instant3d import scenes
from instant3d.cameras import Cameras, orbit
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.evaluation.view_cache import ViewCache, ViewRequest
from instant3d.nerf.asset import FILE, Asset
from instant3d.pipelines.results import RECORD
from instant3d.pipelines.text_to_3d import DirectTextTo3D, ViewsTo3D
from instant3d.utils import file_listing
from instant3d.utils.side_by_side import map_side_by_side

NEW_AZIMUTHS_DEG = (0.0, 90.0, 180.0, 270.0)  # half-way between the structured ones
NEW_ELEVATIONS_DEG = (5.0, 35.0)
FRONT = NEW_AZIMUTHS_DEG.index(FRONT_AZIMUTH_DEG)  # of the renders
SIZE = 128  # pixels a side of the renders


@dataclass(frozen=True)
class EvaluatedAsset:
    """The images of one requested asset, on white.

    Attributes:
        request: Prompt and seed.
        views: (V, 3, S, S), the views of stage 1, if they exist.
        renders: (8, 3, S, S), the final asset from the new cameras.
        seconds: Time of generation; None if it was not generated here.
    """

    request: ViewRequest
    views: Tensor | None
    renders: Tensor
    seconds: float | None


def new_cameras() -> Cameras:
    """Eight cameras (8,), none of which stage 1 uses."""
    pairs = [(azimuth, elevation) for elevation in NEW_ELEVATIONS_DEG for azimuth in NEW_AZIMUTHS_DEG]
    azimuths, elevations = zip(*pairs, strict=True)
    return orbit(azimuths, elevations)


def from_stage1(
    cache: ViewCache, requests: Sequence[ViewRequest], model: ViewsTo3D, size: int = SIZE
) -> Iterator[EvaluatedAsset]:
    """Generate, reconstruct and render the assets of prompts with the two-stage system.

    Args:
        cache: Views of stage 1; missing ones are generated.
        requests: Prompts and seeds.
        model: Stage 2.
        size: Pixels a side of the renders.

    Yields:
        The asset of each request, with its views and seconds.
    """

    def evaluated(request: ViewRequest) -> EvaluatedAsset:
        views = cache.views(request)
        return EvaluatedAsset(request, views.composite(1.0), _render(model(views), size), cache.seconds(request))

    cache.fill(requests)
    yield from map_side_by_side(evaluated, requests, model.device)


def from_direct(
    model: DirectTextTo3D, requests: Sequence[ViewRequest], at_once: int = 8, size: int = SIZE
) -> Iterator[EvaluatedAsset]:
    """Generate and render the assets of prompts with the direct system.

    Args:
        model: The direct system.
        requests: Prompts and seeds.
        at_once: Prompts in one pass.
        size: Pixels a side of the renders.

    Yields:
        The asset of each request, without views, with an equal share of its batch's seconds.
    """
    for k in range(0, len(requests), at_once):
        some = requests[k : k + at_once]
        start = time.perf_counter()
        assets = model.generate_many([request.prompt for request in some], [request.seed for request in some])
        seconds = (time.perf_counter() - start) / len(some)
        for request, asset in zip(some, assets, strict=True):
            yield EvaluatedAsset(request, None, _render(asset, size), seconds)


def from_folder(folder: Path, requests: Sequence[ViewRequest], size: int = SIZE) -> Iterator[EvaluatedAsset]:
    """Load and render assets written by `instant3d generate`.

    Args:
        folder: Folder above those of the assets, each with its result.json.
        requests: Prompts and seeds.
        size: Pixels a side of the renders.

    Yields:
        The asset of each request, without seconds.

    Raises:
        FileNotFoundError: If there is no asset for a prompt.
    """
    found = _by_prompt(folder)
    for request in requests:
        if not found.get(request.prompt):
            raise FileNotFoundError(
                f"{folder} holds no asset for {request.prompt!r}; generate it, or leave the prompt out of the list"
            )
        place = found[request.prompt].pop(0)
        yield EvaluatedAsset(request, _views_of(place), _render(Asset.load(place), size), None)


def from_real_views(
    folder: Path, requests: Sequence[ViewRequest], model: ViewsTo3D, size: int = SIZE
) -> Iterator[EvaluatedAsset]:
    """Reconstruct and render assets from real renders in place of stage 1's views.

    Args:
        folder: Folder above scene folders, whose captions are the prompts.
        requests: Prompts and seeds; the seed chooses among scenes of one caption.
        model: Stage 2.
        size: Pixels a side of the renders.

    Yields:
        The asset of each request, with the first four views of its scene, without seconds.

    Raises:
        FileNotFoundError: If no scene below `folder` has the caption.
    """
    captioned: dict[str, list[Path]] = {}
    for place in scenes.below(folder):
        document = json.loads((place / scenes.DOCUMENT).read_text())
        captioned.setdefault(document.get("caption", ""), []).append(place)
    for request in requests:
        if request.prompt not in captioned:
            raise FileNotFoundError(
                f"{folder} holds no scene with the caption {request.prompt!r}; make one by `instant3d data recolour`"
            )

    def evaluated(request: ViewRequest) -> EvaluatedAsset:
        places = captioned[request.prompt]
        views = scenes.read(places[request.seed % len(places)], frames=range(4), maps=()).views
        return EvaluatedAsset(request, views.composite(1.0), _render(model(views), size), None)

    yield from map_side_by_side(evaluated, requests, model.device)


def _render(asset: Asset, size: int) -> Tensor:
    return asset.render(new_cameras(), size).to("cpu").composite(1.0).clamp(0, 1)


def _by_prompt(folder: Path) -> dict[str, list[Path]]:
    """Folders of assets below `folder` by the prompt in their result.json."""
    found: dict[str, list[Path]] = {}
    for file in file_listing.visible_files(folder, f"**/{RECORD}"):
        if (file.parent / FILE).is_file():
            found.setdefault(json.loads(file.read_text()).get("prompt", ""), []).append(file.parent)
    return found


def _views_of(place: Path) -> Tensor | None:
    """The four views from which an asset was reconstructed, if they exist."""
    files = json.loads((place / RECORD).read_text()).get("files", ["views"])
    for folder in scenes.below(place) if "views" in files else ():
        return scenes.read(folder, maps=()).views.composite(1.0)
    return None
