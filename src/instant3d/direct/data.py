"""Data of the direct system: training prompts and cameras, prompts to validate, test and predict.

There are no training images: the guidance model takes their place. Every example is a function of the seed and its
index alone, so an interrupted run continues with the same data.
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
from instant3d.direct.guidance.configs import GuidanceConfig
from instant3d.direct.view_prompts import FRONT_AZIMUTH_DEG
from instant3d.utils import prompts as lists
from instant3d.utils.data_order import ResumableBatchSampler, WeightedMixture, generator_from_key
from instant3d.utils.errors import print_escaped

UNIT = 1.75  # lengths of the paper's world, whose box has sides of 3.5, for one of ours
SIDES_DEG = (0.0, -90.0, 90.0, 180.0)  # middles of the quadrants from the front

Span = tuple[float, float]


@dataclass(frozen=True)
class TrainingBatch(DistillationBatch):
    """Prompts and cameras of a training batch.

    Attributes:
        example_index: (B,) long, index of each example in the run, of which its random draws are a function.
    """

    example_index: Tensor


@dataclass(frozen=True)
class OrbitCameras:
    """Distribution of training cameras, uniform in every range; the defaults are the paper's, for our cube.

    Attributes:
        elevation_deg: Range of elevations in degrees; polar angles of 25 to 110 degrees.
        radius: Range of distances in world units; 3.0 to 3.6 where the box has sides of 3.5.
        fov_deg: Range of fields of view in degrees.
        quadrants: Shares of the front, both sides and the back, as 0.4, 0.2, 0.2, 0.2 in the released code; null is
            evenly all around, the paper's way.

    Raises:
        ValueError: A range is reversed or the shares are negative or all 0.
    """

    elevation_deg: Span = (-20.0, 65.0)
    radius: Span = (3.0 / UNIT, 3.6 / UNIT)
    fov_deg: Span = (70.0, 80.0)
    quadrants: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("elevation_deg", "radius", "fov_deg"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} of cameras is a range from low to high, got {low} and {high}; swap them")
        if self.quadrants is not None and (min(self.quadrants) < 0 or not sum(self.quadrants)):
            raise ValueError(f"quadrants are four shares, none below 0 and not all 0; got {self.quadrants}")

    def sample(self, generator: torch.Generator) -> Cameras:
        """Draw one camera, of shape ()."""
        around, *rest = torch.rand(4, generator=generator)
        if self.quadrants is None:
            azimuth = 360 * around
        else:
            side = int(torch.multinomial(torch.tensor(self.quadrants), 1, generator=generator))
            azimuth = FRONT_AZIMUTH_DEG + SIDES_DEG[side] + 90 * (around - 0.5)
        spans = (self.elevation_deg, self.radius, self.fov_deg)
        return orbit(azimuth % 360, *(low + (high - low) * u for (low, high), u in zip(spans, rest, strict=True)))


class PromptDataset(Dataset[TrainingBatch]):
    """Training examples: prompts, in an order that is new in every epoch, each with a random camera.

    Args:
        prompts: Number of prompts.
        cameras: How cameras are drawn, or a set of cameras to draw from.
        views: Examples in a row that share a prompt.
        seed: Random seed.
    """

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
    """Prompts to generate objects of.

    Attributes:
        prompts: B texts.
        names: B names of the results.
    """

    prompts: tuple[str, ...]
    names: tuple[str, ...]

    def to(self, *args: Any, **kwargs: Any) -> NamedPrompts:
        """Return the batch itself, which holds no tensors; Lightning calls this."""
        return self


def named_prompts(texts: Sequence[str]) -> list[NamedPrompts]:
    """Make a batch of size 1 of each prompt, named by its index and words."""
    return [NamedPrompts((text,), (f"{number:05d}-{lists.slug(text)}",)) for number, text in enumerate(texts)]


def collate_prompts(items: Sequence[NamedPrompts]) -> NamedPrompts:
    """Concatenate batches."""
    names = tuple(name for item in items for name in item.names)
    return NamedPrompts(tuple(prompt for item in items for prompt in item.prompts), names)


class PromptDataModule(L.LightningDataModule):
    """Prompts and cameras for training, prompts for validation and test, and prompts for `predict`.

    Args:
        prompts: `animals`, `portraits`, `daily_life`, a text file with one prompt a line, or a list of prompts; for
            `predict`, the prompts of the triplanes. Null is animals.
        coloured: {objects: FILE, without: FILE}: every object in every colour, in place of `prompts`.
        share: Share of the prompts to train on; the others are for validation and test (0.6 in the paper).
        split_seed: Seed that chooses those prompts.
        val: Prompts to validate on, in place of those that training leaves out.
        test: Prompts to test on, in place of those that training leaves out.
        val_prompts: Validation takes the first so many.
        cameras: How cameras are drawn; a guidance with fixed cameras overrides it.
        views: Views of each prompt in a batch; the paper has one.
        batch_size: Views per step and process, a multiple of `views`.
        seed: Random seed of the order of the prompts and of the cameras.
        output: For `predict`: folder of the triplanes, set by `--triplanes.output`; finished prompts are left out.
        guidance: The model's, set by it; its fixed cameras, if it has such, take the place of `cameras`.
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
        guidance: GuidanceConfig | None = None,
    ) -> None:
        super().__init__()
        if batch_size % views:
            raise ValueError(f"batch_size must be a multiple of views, got {batch_size} and {views}; choose a multiple")
        self.prompts, self.coloured, self.share, self.split_seed = prompts, coloured, share, split_seed
        self.val, self.test = val, test
        self.val_prompts, self.cameras, self.views, self.batch_size = val_prompts, cameras, views, batch_size
        self.seed, self.output, self.guidance = seed, output, guidance
        self.texts: list[str] = []
        self.held: list[str] = []
        self.faults: list[str] = []

    def setup(self, stage: str) -> None:
        """Read `texts`, the training prompts, and `held`, those that training leaves out.

        Raises:
            ValueError: `prompts` and `coloured` are both set, or a prompt list is invalid.
        """
        if stage != "predict" and not self.texts:
            if self.prompts is not None and self.coloured is not None:
                raise ValueError("data.prompts and data.coloured both name prompts to train with; set one to null")
            source = self.coloured or self.prompts or "animals"
            self.texts, self.held = prompt_sets.split_prompts(
                prompt_sets.read_prompt_set(source), self.share, self.split_seed
            )

    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        """Endless batches of prompts and cameras from the step at which training continues."""
        fixed = None if self.guidance is None else self.guidance.cameras()
        examples = PromptDataset(len(self.texts), self.cameras if fixed is None else fixed, self.views, self.seed)
        batches = ResumableBatchSampler.at(self.trainer, self.batch_size)
        return DataLoader(examples, batch_sampler=batches, collate_fn=TrainingBatch.stack)

    def val_dataloader(self) -> DataLoader[NamedPrompts] | list[Any]:
        """The first `val_prompts` prompts of `val` or, without it, of the held-out prompts."""
        texts = self.held if self.val is None else prompt_sets.read_prompt_set(self.val)
        return self._prompt_loader(texts[: self.val_prompts])

    def test_dataloader(self) -> DataLoader[NamedPrompts]:
        """The prompts of `test` or, without it, the held-out prompts.

        Raises:
            ValueError: There are none.
        """
        texts = self.held if self.test is None else prompt_sets.read_prompt_set(self.test)
        if not texts:
            raise ValueError("there are no prompts to test with; set data.test to prompts, or data.share below 1")
        return self._prompt_loader(texts)

    def predict_dataloader(self) -> DataLoader[NamedPrompts]:
        """This process's share of the prompts without a triplane yet; invalid ones are reported and left out."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        batches = named_prompts(self._valid_prompts())
        if rank == 0 and self.faults:
            print_escaped("\n".join(self.faults), sys.stderr)
        left = [batch for batch in batches if not (Path(self.output) / f"{batch.names[0]}.safetensors").is_file()]
        return DataLoader(cast(Any, left[rank::world]), batch_size=self.batch_size, collate_fn=collate_prompts)

    def _valid_prompts(self) -> list[str]:
        self.faults = []
        source = self.prompts or "animals"
        if not isinstance(source, str) or source in prompt_sets.GRAMMARS:
            return prompt_sets.read_prompt_set(source)
        found = lists.read_prompts(source)
        self.faults = [f"{prompt.where} {prompt.error}" for prompt in found if prompt.error]
        return [prompt.text for prompt in found if not prompt.error]

    def _prompt_loader(self, texts: Sequence[str]) -> DataLoader[NamedPrompts] | Any:
        if not texts:
            return []  # training without validation is allowed
        return DataLoader(cast(Any, named_prompts(texts)), batch_size=self.batch_size, collate_fn=collate_prompts)
