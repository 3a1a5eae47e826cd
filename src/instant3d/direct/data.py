"""What the direct system is taught with: prompts and the cameras by which what was made of them is looked at.

There are no pictures: a guide says how they should be. Every example is a function of the seed and its number alone, so
an interrupted run goes on with the same data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from instant3d.cameras import Cameras, orbit
from instant3d.direct import prompt_sets
from instant3d.direct.distillation import DistillationBatch
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.utils import prompts as lists
from instant3d.utils.data_order import ResumableBatchSampler, WeightedMixture, generator_from_key

UNIT = 1.75  # of the paper's world lengths, whose box has sides of 3.5, to one of ours
SIDES_DEG = (0.0, -90.0, 90.0, 180.0)  # middles of the quadrants from the front

Span = tuple[float, float]


@dataclass(frozen=True)
class TrainingBatch(DistillationBatch):
    """Prompts, the cameras that look at what is made of them, and the examples' numbers: all chance is theirs."""

    example_index: Tensor  # (B,) long


@dataclass(frozen=True)
class OrbitCameras:
    """How cameras are drawn: evenly in every range; the defaults are the paper's, for our cube.

    Attributes:
        elevation_deg: Range of elevations in degrees; polar angles of 25 to 110 degrees.
        radius: Range of distances in world units; 3.0 to 3.6 where the box has sides of 3.5.
        fov_deg: Range of fields of view in degrees.
        quadrants: Shares of the front, both sides and the back, as 0.4, 0.2, 0.2, 0.2 in the released code; null is
            evenly all around, the paper's way.
    """

    elevation_deg: Span = (-20.0, 65.0)
    radius: Span = (3.0 / UNIT, 3.6 / UNIT)
    fov_deg: Span = (70.0, 80.0)
    quadrants: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("elevation_deg", "radius", "fov_deg"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"cameras are drawn between a lower and a higher {name}, got {low} and {high}")
        if self.quadrants is not None and (min(self.quadrants) < 0 or not sum(self.quadrants)):
            raise ValueError(f"quadrants are four shares, none below 0 and not all 0; got {self.quadrants}")

    def sample(self, generator: torch.Generator) -> Cameras:
        """One camera, of shape ()."""
        around, *rest = torch.rand(4, generator=generator)
        if self.quadrants is None:
            azimuth = 360 * around
        else:
            side = int(torch.multinomial(torch.tensor(self.quadrants), 1, generator=generator))
            azimuth = FRONT_AZIMUTH_DEG + SIDES_DEG[side] + 90 * (around - 0.5)
        spans = (self.elevation_deg, self.radius, self.fov_deg)
        return orbit(azimuth % 360, *(low + (high - low) * u for (low, high), u in zip(spans, rest, strict=True)))


class PromptDataset(Dataset[TrainingBatch]):
    """Example `number`: which prompt, in an order that is new in every epoch, and a camera of its own."""

    def __init__(self, prompts: int, cameras: OrbitCameras | Cameras, views: int = 1, seed: int = 0) -> None:
        self.mixture, self.cameras, self.views, self.seed = WeightedMixture([prompts], seed=seed), cameras, views, seed

    def __getitem__(self, number: int) -> TrainingBatch:
        generator = generator_from_key(self.seed, number, 4)
        if isinstance(self.cameras, OrbitCameras):
            camera = self.cameras.sample(generator)
        else:
            camera = self.cameras[int(torch.randint(len(self.cameras.intrinsics), (), generator=generator))]
        return TrainingBatch(torch.tensor(self.mixture(number // self.views)[1]), camera, torch.tensor(number))


@dataclass(frozen=True)
class NamedPrompts:
    """Prompts to make something of, and the names of what comes of them; both of length B."""

    prompts: tuple[str, ...]
    names: tuple[str, ...]

    def to(self, *args: Any, **kwargs: Any) -> NamedPrompts:
        return self


def named_prompts(texts: Sequence[str]) -> list[NamedPrompts]:
    """One request for each prompt of a list, named by its place and its words."""
    return [NamedPrompts((text,), (f"{number:05d}-{lists.slug(text)}",)) for number, text in enumerate(texts)]


def collate_prompts(items: Sequence[NamedPrompts]) -> NamedPrompts:
    """One batch of several."""
    names = tuple(name for item in items for name in item.names)
    return NamedPrompts(tuple(prompt for item in items for prompt in item.prompts), names)


class PromptDataModule(L.LightningDataModule):
    """Prompts and cameras for training, prompts for images in between, and prompts for `predict`.

    Args:
        prompts: `animals`, `portraits`, `daily_life`, a text file with one prompt a line, or a list of prompts; for
            `predict`, what triplanes are made of. Null is animals.
        coloured: {objects: FILE, without: FILE}: every object in every colour, in place of `prompts`.
        share: Share of the prompts to train on; the others are for validation and test (0.6 in the paper).
        split_seed: Seed that chooses those prompts.
        val: Prompts to validate on, in place of those that training leaves out.
        test: Prompts to test on, in place of those that training leaves out.
        val_prompts: Validation shows the first so many.
        cameras: How cameras are drawn; a guidance with fixed cameras overrides it.
        views: Views of each prompt in a batch; the paper has one.
        batch_size: Views per step and process, a multiple of `views`.
        seed: Of the order of the prompts and of the cameras.
        output: For `predict`: folder of the triplanes, set by `--triplanes.output`; finished prompts are left out.
    """

    def __init__(
        self,
        prompts: str | list[str] | None = None,
        coloured: prompt_sets.Coloured | None = None,
        share: float = 1.0,
        split_seed: int = 0,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        val_prompts: int = 8,
        cameras: OrbitCameras = OrbitCameras(),
        views: int = 1,
        batch_size: int = 12,
        seed: int = 0,
        output: str = "out/predictions",
    ) -> None:
        super().__init__()
        if batch_size % views:
            raise ValueError(f"a batch of {batch_size} cannot show {views} views of every prompt; choose a multiple")
        self.prompts, self.coloured, self.share, self.split_seed = prompts, coloured, share, split_seed
        self.val, self.test = val, test
        self.val_prompts, self.cameras, self.views, self.batch_size = val_prompts, cameras, views, batch_size
        self.seed, self.output = seed, output
        self.texts: list[str] = []
        self.held: list[str] = []
        self.faults: list[str] = []

    def setup(self, stage: str) -> None:
        """`texts` are the prompts to train with, `held` those that training leaves out."""
        if stage != "predict" and not self.texts:
            if self.prompts is not None and self.coloured is not None:
                raise ValueError("data.prompts and data.coloured both name prompts to train with; set one to null")
            source = self.coloured or self.prompts or "animals"
            self.texts, self.held = prompt_sets.split_prompts(
                prompt_sets.read_prompt_set(source), self.share, self.split_seed
            )

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        start, rank, world, known = 0, 0, 1, None
        if self.trainer is not None:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches
            rank, world = self.trainer.global_rank, self.trainer.world_size
            known = cast(Any, self.trainer.lightning_module).guide_cameras
        examples = PromptDataset(len(self.texts), self.cameras if known is None else known, self.views, self.seed)
        batches = ResumableBatchSampler(self.batch_size, start, rank, world)
        return DataLoader(examples, batch_sampler=batches, collate_fn=TrainingBatch.stack)

    def val_dataloader(self) -> DataLoader[NamedPrompts] | list[Any]:
        texts = self.held if self.val is None else prompt_sets.read_prompt_set(self.val)
        return self._shown(texts[: self.val_prompts])

    def test_dataloader(self) -> DataLoader[NamedPrompts]:
        texts = self.held if self.test is None else prompt_sets.read_prompt_set(self.test)
        if not texts:
            raise ValueError("there is nothing to test with; set data.test to prompts, or data.share below 1")
        return self._shown(texts)

    def predict_dataloader(self) -> DataLoader[NamedPrompts]:
        """This process's share of the prompts whose triplane is not there yet; bad ones are told and left out."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        wanted = named_prompts(self._good())
        if rank == 0 and self.faults:
            print("\n".join(self.faults), file=sys.stderr, flush=True)
        left = [one for one in wanted if not (Path(self.output) / f"{one.names[0]}.safetensors").is_file()]
        return DataLoader(cast(Any, left[rank::world]), batch_size=self.batch_size, collate_fn=collate_prompts)

    def _good(self) -> list[str]:
        self.faults = []
        wanted = self.prompts or "animals"
        if not isinstance(wanted, str) or wanted in prompt_sets.GRAMMARS:
            return prompt_sets.read_prompt_set(wanted)
        found = lists.read_prompts(wanted)
        self.faults = [f"{prompt.where} {prompt.error}" for prompt in found if prompt.error]
        return [prompt.text for prompt in found if not prompt.error]

    def _shown(self, texts: Sequence[str]) -> DataLoader[NamedPrompts] | Any:
        if not texts:
            return []  # to learn without looking is allowed
        return DataLoader(cast(Any, named_prompts(texts)), batch_size=self.batch_size, collate_fn=collate_prompts)
