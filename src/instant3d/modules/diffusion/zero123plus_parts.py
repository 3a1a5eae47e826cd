"""The components of a Zero123++ (arXiv 2310.15110): a folder in diffusers' layout, loaded and saved.

model_index.json  views.json  scheduler/  unet/  vae/  text_encoder/  vision_encoder/  feature_extractor_{clip,vae}/
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instant3d.modules.diffusion.checkpoint_source import read_json
from instant3d.modules.diffusion.loading import load
from instant3d.modules.diffusion.saving import write
from instant3d.modules.diffusion.view_layout import ViewLayout

KIND = "Zero123PlusPipeline"
NETWORKS = ("unet", "vae", "text_encoder", "vision_encoder")
EXTRACTORS = ("feature_extractor_vae", "feature_extractor_clip")
RAMP = "ramping_coefficients"


@dataclass
class Zero123PlusParts:
    """The components of a Zero123++.

    Attributes:
        networks: `unet`, `vae`, `text_encoder` and `vision_encoder`.
        scheduler: Configuration of the noise schedule.
        extractors: Settings of the two image preprocessors, by their folders' names.
        ramp: Weight of the image's embedding at each token of the empty prompt.
        layout: Cameras of the views.
        view_size: Pixels a side of a view.
        background: Grey level, of 255, of the image and the views.
    """

    networks: dict[str, Any]
    scheduler: dict[str, Any]
    extractors: dict[str, dict[str, Any]]
    ramp: tuple[float, ...]
    layout: ViewLayout
    view_size: int = 320
    background: int = 127

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Zero123PlusParts:
        """Load a folder that `instant3d convert zero123plus` wrote.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: It is another model, or a file is damaged.
        """
        root = Path(folder)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder with a Zero123++; `instant3d convert zero123plus SOURCE -o DIR` writes one"
            )
        index = check_index(read_json(root / "model_index.json"), root)
        return cls(
            {name: load(root / name, name, dtype) for name in NETWORKS},
            read_json(root / "scheduler" / "scheduler_config.json"),
            {name: read_json(root / name / "preprocessor_config.json") for name in EXTRACTORS},
            tuple(index[RAMP]),
            ViewLayout.read(root),
            index.get("view_size", cls.view_size),
            index.get("background", cls.background),
        ).checked(root)

    def checked(self, where: object) -> Zero123PlusParts:
        """Check that the components fit together.

        Raises:
            ValueError: They do not.
        """
        length = self.networks["text_encoder"].config.max_position_embeddings
        if len(self.ramp) != length:
            raise ValueError(
                f"{where} has {len(self.ramp)} {RAMP} for {length} tokens, so it is another model; give a Zero123++"
            )
        kind = self.scheduler.get("prediction_type")
        if kind != "v_prediction":
            raise ValueError(f"{where} predicts {kind!r}, but a Zero123++ predicts 'v_prediction'; give another")
        return self

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write all components into an existing folder, the networks in `dtype`."""
        for name in NETWORKS:
            (folder / name).mkdir()
            write(self.networks[name], name, folder / name, dtype)
        _write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        for name, settings in self.extractors.items():
            _write_json(folder / name / "preprocessor_config.json", settings)
        self.layout.write(folder)
        _write_json(folder / "model_index.json", self._index())

    def _index(self) -> dict[str, Any]:
        parts = {name: type(network) for name, network in self.networks.items()}
        return {
            "_class_name": KIND,
            **{name: [kind.__module__.split(".")[0], kind.__name__] for name, kind in parts.items()},
            "scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"],
            **{name: ["transformers", "CLIPImageProcessor"] for name in EXTRACTORS},
            RAMP: list(self.ramp),
            "view_size": self.view_size,
            "background": self.background,
        }

    @property
    def rows_and_columns(self) -> tuple[int, int]:
        """Arrangement of the views: two in each row."""
        return len(self.layout.azimuths_deg) // 2, 2


def check_index(index: Mapping[str, Any], where: object) -> Mapping[str, Any]:
    """Check that a model_index.json describes a Zero123++.

    Raises:
        ValueError: It describes another model.
    """
    ramp = index.get(RAMP)
    if not isinstance(ramp, list) or not all(isinstance(value, int | float) for value in ramp):
        raise ValueError(
            f"{where} has no {RAMP} in its model_index.json (it is a {index.get('_class_name', 'model of no name')}), "
            "so it is no Zero123++; give another"
        )
    for name, (low, high) in {"view_size": (8, 4096), "background": (0, 255)}.items():
        value = index.get(name, low)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{where}: {name} must be a whole number from {low} to {high}, got {value!r}")
    return index


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
