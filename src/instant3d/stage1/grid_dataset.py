"""Training grids from scene folders and shards: the structured views over white, and a caption."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.scenes.dataset import SceneSources
from instant3d.scenes.shard_cache import ShardCache
from instant3d.stage1.grid import SIDE, pack
from instant3d.utils import shipped
from instant3d.utils.progress import Progress

STRUCTURED = range(SIDE**2)  # a rendering plan's first frames are the structured views


@dataclass(frozen=True)
class Grid:
    """A training grid.

    Attributes:
        image: (3, size, size) in [0, 1], four views as 2 x 2 tiles.
        caption: Text of the object.
        id: Id of the scene.
        credit: Author, licence and source of the object, where the scene names them.
    """

    image: Tensor
    caption: str
    id: str
    credit: Mapping[str, str] = field(default_factory=dict)


class GridScenes(Dataset[Grid]):
    """Scenes, each read as a grid.

    Args:
        roots: Folders of scene folders or of shards, single ones of either, or URLs of shards.
        size: Pixels a side of a grid, even.
        keep: Ids of the scenes to take; all by default. With it, the document of every scene is read at once.
        shard_cache: Where shards from behind a URL are kept.

    Raises:
        FileNotFoundError: There is no such scene.
        ValueError: `size` is odd.
    """

    def __init__(
        self,
        roots: Sequence[str | Path],
        size: int,
        keep: Collection[str] | None = None,
        shard_cache: ShardCache | None = None,
    ) -> None:
        if size < SIDE or size % SIDE:
            raise ValueError(f"a grid of 2 x 2 views has an even side, got {size}")
        self.size, self.scenes = size, SceneSources.find(roots, shard_cache)
        if keep is not None:
            self.scenes = self.scenes.only([k for k in range(len(self.scenes)) if self.scenes.identity(k) in keep])
        if not len(self.scenes):
            wanted = "" if keep is None else f" whose id is among the {len(keep)} to keep"
            raise FileNotFoundError(f"there is no scene{wanted} in {', '.join(map(str, roots)) or 'an empty list'}")

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        """Location of the grid's scene; unlike its id, no two scenes share it."""
        return self.scenes.where(index)

    def __getitem__(self, index: int) -> Grid:
        return as_grid(self.scenes.read(index, frames=STRUCTURED, size=self.size // SIDE, maps=()))


def as_grid(scene: scenes.Scene) -> Grid:
    """Make a grid of a scene's first four frames.

    Raises:
        ValueError: The scene has no caption, or these frames are not the structured views.
    """
    if not scene.caption:
        raise ValueError(f"{scene.path} has no caption, which stage 1 needs as its prompt; give it one")
    expected, got = structured_cameras().cam_to_world, scene.views.cameras.cam_to_world
    if got.shape != expected.shape or not torch.allclose(got, expected, atol=1e-2):
        raise ValueError(
            f"the first four frames of {scene.path} are not the structured views (elevation 20, azimuths 45, 135, 225, "
            "315, radius 2.7); render it with `instant3d data render`"
        )
    return Grid(pack(scene.views.composite(1.0)), scene.caption, scene.id, scene.credit)


class StructuredViews(Dataset[tuple[Tensor, str]]):
    """The structured views of scene folders over white, (4, 3, size, size) uint8, each with its scene's caption.

    Args:
        folders: Scene folders.
        size: Pixels a side of a view.
    """

    def __init__(self, folders: Sequence[Path], size: int) -> None:
        self.folders, self.size = folders, size

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        folder = self.folders[index]
        scene = scenes.read(folder, frames=STRUCTURED, size=self.size, maps=())
        if not scene.caption:
            raise ValueError(f"{folder} has no caption, but text encoders are trained on captions; leave it out")
        return (scene.views.composite(1.0) * 255).round().to(torch.uint8), scene.caption


def read_views(
    folders: Sequence[Path], size: int, workers: int = 0, progress: Progress | None = None
) -> tuple[Tensor, list[str]]:
    """The structured views of many scenes, all in memory at once.

    Args:
        folders: Scene folders (N); each has a caption.
        size: Pixels a side of a view.
        workers: Processes that read; 0 reads in this one.
        progress: Where to report how many scenes are read; silent by default.

    Returns:
        Views (N, 4, 3, size, size) over white, uint8, and the N captions, in the order of the folders.

    Raises:
        ValueError: A scene has no caption, or cannot be decoded.
    """
    views = torch.empty(len(folders), SIDE**2, 3, size, size, dtype=torch.uint8)
    captions: list[str] = []
    with (progress or Progress()).task("reading scenes") as on_step:
        for image, caption in read_ahead(StructuredViews(folders, size), range(len(folders)), workers):
            views[len(captions)] = image
            captions.append(caption)
            on_step(len(captions), len(folders))
    return views, captions


def read_ahead(dataset: Dataset[Any], numbers: Sequence[int], workers: int) -> Iterator[Any]:
    """Iterate over items of a dataset, read in advance by worker processes.

    Args:
        dataset: The dataset.
        numbers: Indices of the items, in this order.
        workers: Processes that read; 0 reads in this one.
    """
    return iter(DataLoader(dataset, batch_size=None, sampler=numbers, num_workers=min(workers, len(numbers))))


def read_keep(path: str | Path) -> set[str]:
    """Read the ids in a text file, one on each line; empty lines and those that begin with # do not count.

    Raises:
        FileNotFoundError: There is no such file, nor a shipped one of that name.
    """

    file = shipped.look_up(path, ["prompts"], ".txt")
    if file is None or not file.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a text file with an id on each line")
    lines = (line.strip() for line in file.read_text().splitlines())
    return {line for line in lines if line and not line.startswith("#")}


@dataclass(frozen=True)
class ImageBatch:
    """Grids that are not encoded yet.

    Attributes:
        grids: (B, 3, H, W) in [0, 1].
        prompts: B texts.
        example_index: (B,), index of each example in the run.
    """

    grids: Tensor
    prompts: tuple[str, ...]
    example_index: Tensor

    def to(self, *args: Any, **kwargs: Any) -> ImageBatch:
        """Move the grids."""
        return ImageBatch(self.grids.to(*args, **kwargs), self.prompts, self.example_index)


class SceneGrids:
    """Scenes as a source of training examples that are not encoded.

    Args:
        root: Folder of scene folders or shards, or URL of shards.
        size: Pixels a side of a grid.
        keep: Ids of the scenes to take; all if None.
        shard_cache: Where shards from behind a URL are kept.
    """

    def __init__(
        self, root: str | Path, size: int, keep: set[str] | None, shard_cache: ShardCache | None = None
    ) -> None:
        self.scenes = GridScenes([root], size, keep, shard_cache)

    def __len__(self) -> int:
        return len(self.scenes)

    def item(self, index: int, example_index: int) -> ImageBatch:
        """Grid number `index` as a batch of one, with the index of the example in the run."""
        grid = self.scenes[index]
        return ImageBatch(grid.image[None], (grid.caption,), torch.tensor([example_index]))
