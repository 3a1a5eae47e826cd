"""Copies of scenes in one of ten named colours, which their captions then contain: `instant3d data recolour`.

In flat light an image has the object's own colours, so recolouring the images recolours the object. Lightness
differences are kept, hues are replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instant3d import scenes
from instant3d.scenes.transforms import Document
from instant3d.utils import atomic
from instant3d.utils.errors import print_escaped
from instant3d.views import Views

from ..execution import process_pool
from ..execution.process_limits import JobLimits
from ..manifests.object_manifest import PASSED_ON
from ..procedural.colours import NAMED_COLOURS, Colour, nearest_name
from ..procedural.portable_rng import PortableRandom

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey")
CONTRAST = 0.6  # of the light and dark parts: 1 keeps their ratios, 0 paints everything alike
DARKEST, LIGHTEST = 0.4, 1.7  # factors on the new colour
LUMA = (0.2126, 0.7152, 0.0722)


def painted(views: Views, colour: Colour) -> Views:
    """Recolour views (V,) in shades of one sRGB colour in 0 ... 255; medium lightness becomes exactly that colour."""
    luma = torch.einsum("vchw,c->vhw", views.rgb, torch.tensor(LUMA))[:, None]
    middle = luma[views.alpha > 0.5].median() if (views.alpha > 0.5).any() else torch.tensor(0.5)
    shade = ((luma + 0.05) / (middle + 0.05)).pow(CONTRAST).clamp(DARKEST, LIGHTEST)
    target = torch.tensor(colour, dtype=torch.float32)[:, None, None] / 255
    darker, lighter = target * shade, 1 - (1 - target) * (2 - shade).clamp(min=0.5)
    return replace(views, rgb=torch.where(shade < 1, darker, lighter).clamp(0, 1))


def random_colour(name: str, scene_id: str) -> Colour:
    """A random colour of that name, always the same for one object."""
    seed = int.from_bytes(hashlib.sha256(f"{name}/{scene_id}".encode()).digest()[:4], "big")
    dice, base = PortableRandom(seed), np.array(NAMED_COLOURS[name], dtype=np.float64)
    for _ in range(20):
        shifted = np.clip(base * dice.uniform(0.88, 1.1) + dice.uniforms(3, -8, 8), 0, 255).astype(int)
        if nearest_name(shifted) == name:
            return int(shifted[0]), int(shifted[1]), int(shifted[2])
    return NAMED_COLOURS[name]


def noun(caption: str) -> str:
    """The noun of a caption, without article and leading colours: "a dark red can" becomes "can"."""
    words = re.sub(r"^(an?|the)\s+", "", " ".join(caption.split()))
    colours = sorted(NAMED_COLOURS, key=len, reverse=True)
    return re.sub(rf"^({'|'.join(colours)})\s+(?=\w)", "", words)


def worded(name: str) -> str:
    """A name with its indefinite article, unless it begins with a number or an article."""
    if re.match(r"(an?|the|two|three|some)\s|\d", name):
        return name
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def shows(prompt: str, name: str, colour: str) -> bool:
    """Whether a prompt ("a red chair") describes an object with this name ("office chair") in this colour ("red")."""
    asked = noun(prompt)
    return f" {colour} " in f" {prompt} " and re.search(rf"\b{re.escape(asked)}\b", name) is not None


@dataclass(frozen=True)
class Job:
    """One scene to recolour; without a colour it is copied with its caption in the same form."""

    source: Path
    out: Path
    colour: str | None
    caption: str
    frames: int | None


def paint(job: Job) -> int:
    """Write one recoloured scene; returns the number of its views."""
    count = len(scenes.names(job.source))
    scene = scenes.read(job.source, frames=range(min(count, job.frames or count)))
    views = painted(scene.views, random_colour(job.colour, scene.id)) if job.colour else scene.views
    facts = kept(scenes.document(job.source), job.colour)
    scenes.write(job.out, views, caption=job.caption, object_id=job.out.name, extra=facts | {"painted": job.colour})
    return len(scene.names)


def kept(document: Document, colour: str | None) -> dict[str, Any]:
    """Fields that a recoloured scene keeps: licence, author and the like, but not its former colours."""
    names = [name for name in (*PASSED_ON, "lighting", "renderer") if name != "colors" or colour is None]
    return {name: document.content[name] for name in names if name in document.content} | document.credit


def jobs(
    folders: Sequence[Path],
    out: Path,
    *,
    without: Sequence[str],
    only: Sequence[str],
    frames: int | None,
    colours: int = len(COLOURS),
) -> Iterator[Job]:
    """Jobs for each scene: one without a colour, and one for each colour.

    Args:
        folders: Folders of scenes.
        out: Folder for the copies.
        without: Prompts whose pairs of colour and object are left out, also in the original colours.
        only: If not empty, only objects with these names.
        frames: Number of frames to copy; all if None.
        colours: Number of colours for each scene, out of ten, chosen by its id.
    """
    for folder in folders:
        caption = scenes.document(folder).text("caption")
        if not caption:
            raise ValueError(f"{folder} has no caption for the colour; caption it first")
        name = noun(caption)
        if only and name not in only:
            continue
        held = {colour for colour in COLOURS if any(shows(prompt, name, colour) for prompt in without)}
        if held.isdisjoint(caption.split()):
            yield Job(folder, out / folder.name, None, worded(caption), frames)
        for colour in _random_names(folder.name, colours):
            if colour not in held:
                yield Job(folder, out / f"{folder.name}-{colour}", colour, worded(f"{colour} {name}"), frames)


def _random_names(scene_id: str, count: int) -> list[str]:
    """A choice of `count` colours that depends on the scene's id, in their usual order."""
    order = sorted(COLOURS, key=lambda name: hashlib.sha256(f"{scene_id}/{name}".encode()).digest())
    return sorted(order[:count], key=COLOURS.index)


def one_thread() -> None:
    """Limit this process to one thread: there are as many processes as cores."""
    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when every scene was written, 1 when some failed, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        atomic.prepare_output(options.out)
        folders = [folder for source in options.scenes for folder in scenes.below(source)]
        if not folders:
            raise ValueError(f"there are no scene folders in {', '.join(map(str, options.scenes))}")
        chosen = list(
            jobs(
                folders,
                options.out,
                without=_lines(options.without),
                only=_lines(options.only),
                frames=options.frames,
                colours=options.colours,
            )
        )
    except (ValueError, OSError) as error:
        print_escaped(f"error: {error}", sys.stderr)
        return 2
    missing = [job for job in chosen if not (job.out / "transforms.json").is_file()]
    options.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    for outcome in process_pool.run(
        paint, missing, workers=options.workers, limits=JobLimits(timeout_s=60.0), prepare=one_thread
    ):
        if outcome.failure is not None:
            failures += 1
            print_escaped(f"{outcome.job.source}: {outcome.failure}", sys.stderr)
    print_escaped(f"{options.out}: {len(chosen)} scenes of {len(folders)} objects, {failures} failed")
    return 1 if failures else 0


def _lines(path: Path | None) -> list[str]:
    """The lines of a text file that are neither empty nor a comment."""
    lines = path.read_text().splitlines() if path else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data recolour", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of scene folders, with captions")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the recoloured scenes")
    parser.add_argument("--frames", type=int, help="number of views, the first ones (a grid has 4)")
    parser.add_argument(
        "--colours", type=int, default=len(COLOURS), help="number of colours for each scene (default: all ten)"
    )
    parser.add_argument("--without", type=Path, help='file of prompts such as "a red chair", one a line, to hold out')
    parser.add_argument("--only", type=Path, help="names of objects, one a line; others are left out")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    return parser
