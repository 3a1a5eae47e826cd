"""The command `instant3d evaluate consistency`: whether the four views of a grid agree on one object.

Each grid is reconstructed and rendered from the cameras of its own tiles; where the tiles are inconsistent, the renders
differ from them. Neither references nor prompts are needed; use it together with `evaluate text`, since blank tiles are
consistent. Images are compared inside the box around the tile's own foreground (Carve3D's multi-view reconstruction
consistency, MRC, is the mean LPIPS there).
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d import __version__
from instant3d.evaluation.view_cache import ViewCache, ViewRequest
from instant3d.modules import metrics
from instant3d.modules.losses import PerceptualLoss
from instant3d.pipelines.text_to_3d import ViewsTo3D
from instant3d.stage1.sampling_options import Sampler, Sampling, Start
from instant3d.utils import atomic, visualization
from instant3d.utils.errors import print_escaped
from instant3d.utils.line_chart import Line, line_chart
from instant3d.utils.visualization import Row
from instant3d.views import Views

MARGIN = 2  # pixels around the foreground
LEAST = 16  # pixels a side of a box: SSIM needs 11, and fewer mean little
LPIPS_SIDE = 128  # pixels to which a box is resized for LPIPS, so that small objects count as much
COLUMNS = {"psnr": "PSNR", "ssim": "SSIM", "mrc": "MRC (LPIPS VGG)", "empty": "empty tiles", "uncut": "no white border"}
COLUMNS |= {"seconds": "s a grid"}
SHOWN = 6  # grids of each setting on the sheet

Metrics = dict[str, float]


@dataclass(frozen=True)
class Box:
    """A window of an image, in whole pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, image: Tensor) -> Tensor:
        """Crop an image (..., H, W)."""
        return image[..., self.top : self.bottom, self.left : self.right]


def evaluate(
    requests: Sequence[ViewRequest],
    output: Path,
    *,
    caches: Mapping[str, ViewCache],
    model: ViewsTo3D,
    perceptual: PerceptualLoss | None = None,
) -> dict[str, Any]:
    """Measure the views of each cache; write metrics.json, table.md, figure.png and sheet.png.

    Args:
        requests: Prompts and seeds.
        output: Folder for the files.
        caches: Views by name of the sampling settings.
        model: Reconstructor of the views.
        perceptual: LPIPS for MRC; left out if None.

    Returns:
        The report, as in metrics.json.
    """
    report: dict[str, Any] = {"instant3d": __version__, "settings": {}}
    rows = []
    for name, cache in caches.items():
        cache.fill(requests)
        numbers, images = _measured(cache, requests, model, perceptual)
        report["settings"][name] = {"sampling": asdict(cache.sampling), **summary(numbers), "assets": numbers}
        rows += [Row(f"{name}: generated", images[0]), Row(f"{name}: reconstructed", images[1])]
        print_escaped(f"{name}: {report['settings'][name]['psnr']:.2f} dB")
    with atomic.merged(output) as partial:
        (partial / "metrics.json").write_text(json.dumps(_plain(report), indent=2, allow_nan=False) + "\n")
        (partial / "table.md").write_text(table(report))
        line_chart(list(lines(report)), partial / "figure.png", across="steps", up="PSNR inside the box, dB")
        visualization.write_contact_sheet(rows, partial / "sheet.png")
    print_escaped(table(report).rstrip("\n"))
    return report


def settings(
    steps: Sequence[int], starts: Sequence[Start], samplers: Sequence[Sampler], base: Sampling
) -> dict[str, Sampling]:
    """Combine sampling settings in every way.

    Args:
        steps: Numbers of denoising steps; repeated ones count once.
        starts: Initial images under the noise.
        samplers: Samplers.
        base: All other settings.

    Returns:
        Settings by a name such as "blob, euler, 30 steps".
    """
    combined = itertools.product(starts, samplers, sorted(set(steps)))
    return {
        f"{start}, {sampler}, {count} steps": replace(base, steps=count, start=start, sampler=sampler)
        for start, sampler, count in combined
    }


def measure(views: Views, again: Views, perceptual: PerceptualLoss | None = None) -> Metrics:
    """Compare tiles (4,) with renders from their cameras.

    Args:
        views: The tiles.
        again: The renders (4,).
        perceptual: LPIPS for MRC; left out if None.

    Returns:
        psnr, ssim, mrc: Means over the tiles with foreground, inside their boxes and on white.
        empty: Share of tiles without foreground, which count nowhere else.
        uncut: Share of tiles whose background was not white, so that the whole tile counts as the object.
    """
    solid = (views.alpha > 0.5).flatten(1)
    full = solid.any(-1)
    tiles, others, boxes = views.composite(1.0)[full], again.composite(1.0)[full], map(foreground, views.alpha[full, 0])
    each: list[Metrics] = []
    for tile, other, box in zip(tiles, others, boxes, strict=True):
        a, b = box.of(tile)[None], box.of(other)[None]
        each.append({"psnr": metrics.psnr(a, b).item(), "ssim": metrics.ssim(a, b).item()})
        if perceptual is not None:
            each[-1]["mrc"] = perceptual(_enlarged(a), _enlarged(b)).item()
    names = ("psnr", "ssim", "mrc") if perceptual is not None else ("psnr", "ssim")
    means = {name: _mean([one[name] for one in each]) for name in names}
    return means | {"empty": 1 - full.double().mean().item(), "uncut": solid.all(-1).double().mean().item()}


def foreground(alpha: Tensor) -> Box:
    """The box around the opaque part of alpha (H, W) with a margin, at least LEAST pixels a side, inside the image."""
    solid = alpha > 0.5
    left, right = _span(solid.any(0))
    top, bottom = _span(solid.any(1))
    return Box(left, top, right, bottom)


def summary(numbers: Sequence[Metrics]) -> Metrics:
    """Mean of each metric over the assets for which it is a number."""
    return {name: _mean([one[name] for one in numbers]) for name in COLUMNS if name in numbers[0]}


def table(report: Mapping[str, Any]) -> str:
    """The report as a Markdown table with a row for each setting."""
    known = [name for name in COLUMNS if name in next(iter(report["settings"].values()))]
    text = [["setting", *(COLUMNS[name] for name in known)], ["---"] * (len(known) + 1)]
    for setting, numbers in report["settings"].items():
        text.append([setting, *(f"{numbers[name]:.{1 if name == 'seconds' else 3}f}" for name in known)])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in text)


def lines(report: Mapping[str, Any]) -> Iterator[Line]:
    """Lines of PSNR by steps, one for each start and sampler."""
    grouped: dict[str, list[tuple[float, float]]] = {}
    for numbers in report["settings"].values():
        sampling = numbers["sampling"]
        grouped.setdefault(f"{sampling['start']}, {sampling['sampler']}", []).append(
            (sampling["steps"], numbers["psnr"])
        )
    for name, points in grouped.items():
        yield Line(name, points)


def _measured(
    cache: ViewCache, requests: Sequence[ViewRequest], model: ViewsTo3D, perceptual: PerceptualLoss | None
) -> tuple[list[Metrics], tuple[Tensor, Tensor]]:
    """Metrics of every request, and the first tiles (N, 3, S, S) of a few, generated and reconstructed."""
    numbers: list[Metrics] = []
    sampled: list[Tensor] = []
    rebuilt: list[Tensor] = []
    for request in requests:
        views = cache.views(request)
        again = model(views).render(views.cameras, views.width).to("cpu")
        numbers.append(measure(views, again, perceptual) | {"seconds": cache.seconds(request)})
        if len(sampled) < SHOWN:
            sampled.append(views.composite(1.0)[0])
            rebuilt.append(again.composite(1.0)[0].clamp(0, 1))
    return numbers, (torch.stack(sampled), torch.stack(rebuilt))


def _span(solid: Tensor) -> tuple[int, int]:
    """Start and end of a box along one side (N,) of an image, some of whose pixels are opaque."""
    where = solid.nonzero()
    first, last = int(where.min()) - MARGIN, int(where.max()) + MARGIN
    side = min(max(last + 1 - first, LEAST), len(solid))
    begin = min(max((first + last + 1 - side) // 2, 0), len(solid) - side)
    return begin, begin + side


def _enlarged(image: Tensor) -> Tensor:
    return F.interpolate(image, (LPIPS_SIDE, LPIPS_SIDE), mode="bilinear", antialias=True).clamp(0, 1)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _plain(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
