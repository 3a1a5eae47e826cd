"""Record of a text-to-triplane network's last training run in its config.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instant3d.utils.safetensors_folder import architecture_of
from instant3d.utils.tensor_files import load_json

KEY = "taught"  # in config.json


@dataclass(frozen=True)
class TrainingRecord:
    """The last training run.

    Attributes:
        steps: Optimiser steps.
        batch: Images rendered in a step, on all devices together.
        prompts: Number of training prompts.
        clip: CLIP that images were compared with, for its loss or the severity; "" is none.

    Raises:
        ValueError: A number is out of range.
    """

    steps: int
    batch: int
    prompts: int
    clip: str = ""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.prompts < 1:
            raise ValueError(
                "a training record needs at least one prompt, one image a step and 0 steps, "
                f"got {self.prompts} prompts, {self.batch} images and {self.steps} steps"
            )

    @property
    def views_per_prompt(self) -> float:
        """Views-PP, the cost by which the paper compares (arXiv 2311.08403, eq. 13): iterations x batch / prompts."""
        return self.steps * self.batch / self.prompts

    def as_dict(self) -> dict[str, Any]:
        """Record as it is written to config.json and reports."""
        return {**asdict(self), "views_per_prompt": round(self.views_per_prompt, 3)}


def read_training_record(config: Path) -> TrainingRecord | None:
    """Read the record in a folder's config.json; None if there is none.

    Raises:
        ValueError: It is incomplete or damaged.
    """
    record = load_json(config).get(KEY)
    if record is None:
        return None
    if not isinstance(record, dict):
        raise ValueError(
            f"{KEY} in {config} must be an object, the training record, got {record!r}; copy or export it again"
        )
    numbers = {name: value for name, value in record.items() if name != "views_per_prompt"}  # computed from the others
    try:
        return architecture_of(TrainingRecord, numbers, f"{config}, {KEY}")
    except TypeError as error:
        raise ValueError(
            f"{KEY} in {config}, the training record, is incomplete ({error}); copy or export it again"
        ) from None
