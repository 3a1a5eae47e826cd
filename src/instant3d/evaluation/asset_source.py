"""Sources of the assets that `instant3d evaluate text` measures, and the models that generate their views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from instant3d.direct.training_record import TrainingRecord
from instant3d.evaluation.evaluated_assets import EvaluatedAsset
from instant3d.evaluation.view_cache import ViewCache, ViewRequest
from instant3d.modules.diffusion.lora import Lora
from instant3d.pipelines.text_to_3d import TextTo3D, ViewsTo3D
from instant3d.pipelines.weights import find_stages
from instant3d.stage1.sampling_options import Sampling


@dataclass(frozen=True)
class AssetSource:
    """A source of one asset for each request.

    Attributes:
        assets: One of the functions `from_...` of `evaluated_assets`, with all its arguments but the requests.
        training_record: How the system that generates the assets was trained, where that is known.
    """

    assets: Callable[[Sequence[ViewRequest]], Iterator[EvaluatedAsset]]
    training_record: TrainingRecord | None = None


class TwoStageModels:
    """The two-stage system; stage 1 is loaded when the first views are to be generated.

    Args:
        stage1: Folder or Hub id; None for the bundled weights.
        stage2: Folder or Hub id; None for the bundled weights.
        device: Where both stages run.
        at_once: Grids that are denoised together.
        loras: LoRA files that are fused into stage 1.
    """

    def __init__(
        self,
        stage1: str | Path | None,
        stage2: str | Path | None,
        device: torch.device,
        at_once: int,
        loras: Sequence[Lora] = (),
    ) -> None:
        self.stage1, self.stage2 = find_stages(stage1, stage2)
        self.device, self.at_once, self.loras = device, at_once, loras
        self.views_to_3d = ViewsTo3D.from_pretrained(self.stage2, device)

    @cached_property
    def text_to_3d(self) -> TextTo3D:
        """Both stages."""
        return TextTo3D.from_pretrained(
            self.stage1, self.stage2, loras=self.loras, device=self.device, at_once=self.at_once
        )

    def view_cache(self, folder: Path, sampling: Sampling) -> ViewCache:
        """The views that stage 1 generates with `sampling`, kept below `folder`."""
        return ViewCache(folder, self.stage1, sampling, lambda: self.text_to_3d, at_once=self.at_once, loras=self.loras)
