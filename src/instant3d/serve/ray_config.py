"""The YAML of `instant3d serve --ray`: replicas, their share of a GPU, batching and the bounds of autoscaling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from instant3d.utils import shipped
from instant3d.utils.errors import shorten

FOLDER = "serve"
DEFAULT = "ray"


@dataclass(frozen=True)
class RayConfig:
    """Where the replicas run, and how many.

    Attributes:
        deployment: Options of a Ray Serve deployment.
        batch: Prompts that a replica denoises together at most.
        address: "auto" or "host:6379" of the cluster; None starts Ray on this machine.
    """

    deployment: dict[str, Any]
    batch: int = 4
    address: str | None = None

    @classmethod
    def read(cls, name: str | Path, address: str | None = None) -> RayConfig:
        """Read a YAML file, or a shipped one by its name.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no YAML, or has other keys than `batch` and `deployment`; or Ray's client is asked for.
        """
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"a server cannot use {shorten(address)}: Ray's client does not carry the replies of Ray Serve; "
                "start the server on a machine of the cluster with --address auto"
            )
        path = shipped.find(name, [FOLDER])
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(fields, dict) or not fields.keys() <= {"batch", "deployment"}:
            raise ValueError(f"{path} must have the keys `batch` and `deployment` and no others")
        deployment, batch = fields.get("deployment") or {}, fields.get("batch", cls.batch)
        if not isinstance(deployment, dict) or type(batch) is not int or batch < 1:
            raise ValueError(f"{path}: `deployment` must be a mapping, `batch` a whole number above 0")
        return cls(deployment, batch, address)

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be."""
        scaling = self.deployment.get("autoscaling_config") or {}
        return int(scaling.get("max_replicas") or self.deployment.get("num_replicas") or 1)

    @property
    def gpus_each(self) -> float:
        """The share of a GPU that a replica takes."""
        return float((self.deployment.get("ray_actor_options") or {}).get("num_gpus") or 0)
