"""What a text-to-triplane network was taught with, as its folder tells it. Knows nothing of networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instant3d.utils.safetensors_folder import architecture_of
from instant3d.utils.tensor_files import load_json

KEY = "taught"  # of a folder's config.json


@dataclass(frozen=True)
class TrainingRecord:
    """The last run of training.

    batch    pictures that a step looked at, on all devices together
    prompts  that it was taught, be they many or few
    clip     the CLIP that looked at pictures too, for its loss or the severity; "" is none
    """

    steps: int
    batch: int
    prompts: int
    clip: str = ""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or self.prompts < 1:
            raise ValueError(
                "a network is taught at least one prompt by at least one picture a step, "
                f"got {self.prompts} prompts, {self.batch} pictures and {self.steps} steps"
            )

    @property
    def views_per_prompt(self) -> float:
        """Views-PP, the cost by which the paper compares (arXiv 2311.08403, eq. 13): iterations x batch / prompts."""
        return self.steps * self.batch / self.prompts

    def as_dict(self) -> dict[str, Any]:
        """As in a folder's config.json and in reports."""
        return {**asdict(self), "views_per_prompt": round(self.views_per_prompt, 3)}


def read_training_record(config: Path) -> TrainingRecord | None:
    """What a folder's config.json tells, if it tells anything."""
    told = load_json(config).get(KEY)
    if told is None:
        return None
    if not isinstance(told, dict):
        raise ValueError(f"{config} tells by {told!r} how the network was taught; copy or export it again")
    numbers = {name: value for name, value in told.items() if name != "views_per_prompt"}  # follows from the others
    try:
        return architecture_of(TrainingRecord, numbers, f"{config}, {KEY}")
    except TypeError as error:
        raise ValueError(f"{config} does not tell the whole of how the network was taught ({error})") from None
