"""Settings of a run that makes demo weights, and the places of what it makes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from instant3d.utils import shipped

from ..manifests import object_manifest

HELD_OUT = "dev"
PARTS = ("stage1", "few_steps", "stage2", "direct", "judge")
FEW_STEPS = "few_steps"  # LoRA weights by which stage 1 takes four steps
TRAINERS = ("cpu", "one_gpu")
CONFIGS = shipped.configs_folder()
PROMPTS = CONFIGS / "prompts" / "held_out.txt"


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Attributes:
        objects: Folders or manifests of objects.
        out: Folder of everything that is made.
        parts: Which weights to make, among PARTS.
        trainer: The trainer's config, among TRAINERS.
        seconds: Length of the run up to the end of training.
        licences: Objects under other licences are left out; "all" takes every one.
        variants: Rotated, stretched and mirrored copies of each object, for stage 2.
        procedural: Objects from the generator, for stage 2.
        seeds: Evaluations of text alignment, each with seeds of its own.
        prompts: List for that evaluation; its pairs of colour and object are held out of training.
        size: Configs are configs/PART/SIZE.yaml, and SIZE_TRAINER.yaml where there is one.
        configs: Folder of the configs.
        workers: Processes.
    """

    objects: tuple[str, ...]
    out: Path
    parts: tuple[str, ...] = ("stage1", "stage2")
    trainer: str = "cpu"
    seconds: float = 1500.0
    licences: str = "CC0-1.0,MIT,MIT-0"
    variants: int = 3
    procedural: int = 3000
    seeds: int = 3
    prompts: Path = PROMPTS
    size: str = "demo"
    configs: Path = CONFIGS
    workers: int = os.cpu_count() or 1

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise ValueError(f"parts are among {', '.join(PARTS)}, got {', '.join(unknown) or 'none'}")
        if FEW_STEPS in self.parts and "stage1" not in self.parts:
            raise ValueError(f"{FEW_STEPS} is distilled from stage1; name that part too")
        if self.seconds <= 0 or self.workers < 1 or min(self.variants, self.procedural, self.seeds) < 0:
            raise ValueError("seconds and workers must be positive, and counts at least 0")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must stay the same when a run is resumed."""
        names = ("parts", "trainer", "seconds", "licences", "variants", "procedural", "size")
        return json.loads(json.dumps({"objects": self.objects, **{name: getattr(self, name) for name in names}}))

    @property
    def parallel(self) -> bool:
        """Whether both stages train at the same time."""
        return self.trainer != "cpu"

    @cached_property
    def held_out(self) -> list[str]:
        """The sources of objects that have a split `dev`, which is kept for validation and evaluation."""
        return [
            source
            for source in self.objects
            if any(item.facts.get("split") == HELD_OUT for item in object_manifest.find(source))
        ]

    def training_left(self, seconds: float) -> float:
        """Seconds that are left for training; half of all at least, however long the data took."""
        return max(self.seconds - seconds, self.seconds / 2)

    def scenes(self, name: str) -> str:
        """The folder of the set of scenes `name`, such as "real" or "painted"."""
        return str(self.out / "scenes" / name)

    def weights(self, part: str) -> Path:
        """The folder of a part's weights."""
        named = {"judge": "judge", FEW_STEPS: "stage1-demo-4-steps"}
        return self.out / named.get(part, f"{part}-demo")

    def config(self, part: str) -> list[str]:
        """The options that name a training's configs, the trainer's first."""
        system = system_of(part)
        names = [self.size, f"{self.size}_{self.trainer}"]
        if part == FEW_STEPS:
            names += ["progressive", f"warm_start_{self.trainer}"]
        paths = [self.configs / "trainer" / f"{self.trainer}.yaml"]
        paths += [self.configs / system / f"{name}.yaml" for name in names]
        optional = {f"{name}_{self.trainer}.yaml" for name in (self.size, "warm_start")}
        return [word for path in paths if path.is_file() or path.name not in optional for word in ("-c", str(path))]


def system_of(part: str) -> str:
    """The system that a part belongs to, as `instant3d fit` names it."""
    return "stage1" if part == FEW_STEPS else part
