"""One picture of what `instant3d generate --prompts` made: `python -m benchmarks.picture FOLDER -o docs/demo.png`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instant3d import writers
from instant3d.asset import Asset
from instant3d.cameras import turntable

SIZE = 160  # pixels of a picture
ACROSS = 4  # prompts side by side
CAMERA = 1  # of twelve once around: 15 degrees from the nearest view that was drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture of all finished assets in a folder, in order."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("folder", type=Path, help="output of `instant3d generate --prompts`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .png")
    options = parser.parse_args(arguments)
    found = sorted(path.parent for path in options.folder.glob("*/result.json"))
    if not found:
        parser.error(f"{options.folder} holds no finished assets; `instant3d generate --prompts FILE -o` makes some")
    rows = []
    for first in range(0, len(found), ACROSS):
        some = found[first : first + ACROSS]
        prompts = [json.loads((folder / "result.json").read_text())["prompt"] for folder in some]
        pictures = [picture for folder in some for picture in (drawn(folder), built(folder))]
        captions = [text for prompt in prompts for text in (prompt, "the asset")]
        rows.append(writers.Row("", torch.stack(pictures), captions))
    writers.sheet(rows, options.output)


def drawn(folder: Path) -> Tensor:
    """The grid of an asset's four views, (3, SIZE, SIZE)."""
    grid = Image.open(folder / "grid.png").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(grid.convert("RGB")).copy()).permute(2, 0, 1) / 255


def built(folder: Path) -> Tensor:
    """The asset from a camera between those of its views, (3, SIZE, SIZE)."""
    return Asset.load(folder).render(turntable(12)[CAMERA : CAMERA + 1], SIZE).on(1.0)[0]


if __name__ == "__main__":
    main()
