"""Objects unlike all others of their name, which may have two meanings: `instant3d data names SCENES`.

A torch with a flame and one with a battery share a name, not a silhouette. Better captions for what is found go into
a manifest of ids and captions, which `instant3d data caption manifest` writes into scenes.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.progress import Progress

from ..curation import scene_index
from ..curation.scene_index import Broken, SceneRef
from .recolour import noun

SIZE = 32  # pixels a side of a silhouette
THRESHOLD = 0.4


@dataclass(frozen=True)
class OddName:
    """An object and the most similar one of its name.

    Attributes:
        name: What both are called.
        id: The scene.
        nearest: The other scene.
        likeness: Intersection over union of their silhouettes, 0 to 1.
        count: Scenes of the name.
    """

    name: str
    id: str
    nearest: str
    likeness: float
    count: int

    def line(self) -> str:
        """One line for the terminal."""
        return f"{self.likeness:.2f}  {self.name} ({self.count}): {self.id}; nearest is {self.nearest}"


def likeness(silhouettes: Tensor) -> Tensor:
    """Similarity of objects: IoU over all four views, the largest over quarter turns about the vertical.

    Args:
        silhouettes: (N, 4, H, W) bool, in the order of the structured views.

    Returns:
        (N, N), 0 to 1; 0 between two empty ones.
    """
    flat = silhouettes.flatten(1).float()
    area = flat.sum(1)
    turned = (silhouettes.roll(turn, dims=1).flatten(1).float() for turn in range(4))
    shared = torch.stack([flat @ other.T for other in turned]).amax(0)
    return shared / (area[:, None] + area - shared).clamp(min=1)


def by_name(subjects: Sequence[SceneRef]) -> dict[str, list[SceneRef]]:
    """Scenes by what their captions name, without colours; painted copies of other scenes are left out."""
    named: defaultdict[str, list[SceneRef]] = defaultdict(list)
    for subject in subjects:
        document = subject.document()
        if (caption := document.text("caption")) and not document.text("painted"):
            named[noun(caption)].append(subject)
    return dict(named)


def odd_names(silhouettes: Mapping[str, Tensor], name: str, threshold: float) -> list[OddName]:
    """The objects of one name that are unlike all others of it.

    Args:
        silhouettes: (4, H, W) bool of each scene, by id.
        name: What all of them are called.
        threshold: Likeness to any other from which on an object is not odd.
    """
    ids = list(silhouettes)
    if len(ids) < 2:
        return []
    best = likeness(torch.stack(list(silhouettes.values()))).fill_diagonal_(-1).max(1)
    pairs = zip(ids, best.values.tolist(), best.indices.tolist(), strict=True)
    return [OddName(name, one, ids[other], value, len(ids)) for one, value, other in pairs if value < threshold]


def find(roots: Sequence[Path], threshold: float) -> tuple[list[OddName], int, Broken]:
    """Odd objects, the least similar first; how many scenes share a name with another; and what cannot be read."""
    subjects, broken = scene_index.find_scenes(roots)
    shared = {name: some for name, some in by_name(subjects).items() if len(some) > 1}
    found: list[OddName] = []
    with Progress.to_user().task(f"looking at {len(shared)} names") as on_step:
        for done, (name, some) in enumerate(shared.items(), start=1):
            found += odd_names(_silhouettes(some, broken), name, threshold)
            on_step(done, len(shared))
    return sorted(found, key=lambda odd: (odd.likeness, odd.id)), sum(map(len, shared.values())), broken


def _silhouettes(subjects: Sequence[SceneRef], broken: Broken) -> dict[str, Tensor]:
    found = {}
    for subject in subjects:
        try:
            found[subject.id] = subject.read(scene_index.STRUCTURED, SIZE).views.alpha[:, 0] > 0.5
        except (ValueError, OSError) as error:
            broken.append((subject.where, str(error)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all scenes were compared, 1 when some could not be read, 2 for bad input.
    """
    options = _parser().parse_args(arguments)
    try:
        found, count, broken = find(options.scenes, options.threshold)
    except (ValueError, OSError) as error:
        print_escaped(f"error: {format_error(error) if isinstance(error, OSError) else error}", sys.stderr)
        return 2
    for odd in found:
        print_escaped(odd.line())
    for where, why in broken:
        print_escaped(f"{where}: {why}", sys.stderr)
    print_escaped(
        f"{len(found)} of {count} objects that share a name are less than {options.threshold} like any other of it"
    )
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(prog="instant3d data names", description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path, help="folders of scene folders or of shards, with captions")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help=f"likeness of the silhouettes (default {THRESHOLD})"
    )
    return parser
