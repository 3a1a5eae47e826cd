"""The command `instant3d evaluate consistency`: whether the four views of a grid can be those of one object.

Each grid is rebuilt and rendered again from the cameras of its own tiles; what its tiles disagree about, no single
object can show. No reference is needed, and no prompt: read it beside `evaluate text`, since blank tiles agree.
Pictures are compared inside the box around the tile's own foreground (Carve3D's multi-view reconstruction
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
LEAST = 16  # pixels a side of a box: SSIM needs 11, and fewer say little
LPIPS_SIDE = 128  # pixels to which a box is brought for LPIPS, so that small objects count as much
COLUMNS = {"psnr": "PSNR", "ssim": "SSIM", "mrc": "MRC (LPIPS VGG)", "empty": "empty tiles", "uncut": "no white border"}
COLUMNS |= {"seconds": "s a grid"}
SHOWN = 6  # grids of each setting on the sheet

Metrics = dict[str, float]


@dataclass(frozen=True)
class Box:
    """A window of a picture, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, image: Tensor) -> Tensor:
        """Its part of a picture (..., H, W)."""
        return image[..., self.top : self.bottom, self.left : self.right]


def evaluate(
    requests: Sequence[ViewRequest],
    output: Path,
    *,
    caches: Mapping[str, ViewCache],
    model: ViewsTo3D,
    perceptual: PerceptualLoss | None = None,
) -> dict[str, Any]:
    """Measure each gallery's views for all orders; writes metrics.json, table.md, figure.png and sheet.png."""
    report: dict[str, Any] = {"instant3d": __version__, "settings": {}}
    rows = []
    for name, gallery in caches.items():
        gallery.fill(requests)
        numbers, pictures = _measured(gallery, requests, model, perceptual)
        report["settings"][name] = {"sampling": asdict(gallery.sampling), **summary(numbers), "assets": numbers}
        rows += [Row(f"{name}: drawn", pictures[0]), Row(f"{name}: rebuilt", pictures[1])]
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
    """Every combination, by a name such as "blob, euler, 30 steps"."""
    combined = itertools.product(starts, samplers, sorted(set(steps)))
    return {
        f"{start}, {sampler}, {count} steps": replace(base, steps=count, start=start, sampler=sampler)
        for start, sampler, count in combined
    }


def measure(drawn: Views, again: Views, perceptual: PerceptualLoss | None = None) -> Metrics:
    """How alike tiles (4,) and what was rendered in their place are, over the tiles that show anything.

    psnr, ssim, mrc   means over those tiles, inside their boxes and over white
    empty             share of tiles without any foreground, which count nowhere else
    uncut             share of tiles whose background was not white, so that all of it counts as the object
    """
    solid = (drawn.alpha > 0.5).flatten(1)
    full = solid.any(-1)
    tiles, others, boxes = drawn.composite(1.0)[full], again.composite(1.0)[full], map(foreground, drawn.alpha[full, 0])
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
    """The box around what is opaque in (H, W) with a margin, at least LEAST wide and high, inside the picture."""
    solid = alpha > 0.5
    left, right = _span(solid.any(0))
    top, bottom = _span(solid.any(1))
    return Box(left, top, right, bottom)


def summary(numbers: Sequence[Metrics]) -> Metrics:
    """Means over assets, of those that have the number."""
    return {name: _mean([one[name] for one in numbers]) for name in COLUMNS if name in numbers[0]}


def table(report: Mapping[str, Any]) -> str:
    """One line a setting, as Markdown."""
    known = [name for name in COLUMNS if name in next(iter(report["settings"].values()))]
    text = [["setting", *(COLUMNS[name] for name in known)], ["---"] * (len(known) + 1)]
    for setting, numbers in report["settings"].items():
        text.append([setting, *(f"{numbers[name]:.{1 if name == 'seconds' else 3}f}" for name in known)])
    return "".join("| " + " | ".join(cells) + " |\n" for cells in text)


def lines(report: Mapping[str, Any]) -> Iterator[Line]:
    """PSNR by steps, a line for each way to start and sampler."""
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
    """Numbers of every order, and first tiles (N, 3, S, S) of a few as they were drawn and rebuilt."""
    numbers: list[Metrics] = []
    drawn: list[Tensor] = []
    rebuilt: list[Tensor] = []
    for order in requests:
        views = cache.views(order)
        again = model(views).render(views.cameras, views.width).to("cpu")
        numbers.append(measure(views, again, perceptual) | {"seconds": cache.seconds(order)})
        if len(drawn) < SHOWN:
            drawn.append(views.composite(1.0)[0])
            rebuilt.append(again.composite(1.0)[0].clamp(0, 1))
    return numbers, (torch.stack(drawn), torch.stack(rebuilt))


def _span(solid: Tensor) -> tuple[int, int]:
    """Where a box begins and ends along one side (N,) of a picture, some of whose pixels are solid."""
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
    """JSON knows no NaN: null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
