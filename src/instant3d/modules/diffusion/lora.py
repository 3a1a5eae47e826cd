"""LoRA files of an SDXL, such as LCM-LoRA, SDXL-Lightning or Hyper-SD, fused into its weights.

W becomes W + weight (alpha / rank) up down (Hu et al. 2021, section 4.1), of linear layers and of convolutions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from instant3d.modules.diffusion.components import Components
from instant3d.modules.diffusion.lora_names import Layer, layers_by_name
from instant3d.utils import bundled
from instant3d.utils.hub import snapshot
from instant3d.utils.tensor_files import open_safetensors, to_float32

FILE = "pytorch_lora_weights.safetensors"  # diffusers' name of a LoRA file
SUFFIX = ".safetensors"
ENDS = {  # of names: peft's, those of diffusers' UNet and text encoders, kohya's
    **dict.fromkeys((".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"), "down"),
    **dict.fromkeys((".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"), "up"),
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
PRESENT = (".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".alpha")  # peft, kohya
METADATA = "lora_adapter_metadata"  # where diffusers stores peft's settings
UNSUPPORTED = ("use_dora", "use_rslora", "alpha_pattern")  # settings that change the formula
LISTED = 4  # names in an error message

Update = dict[str, str]  # names of the tensors of one layer: "down", "up" and perhaps "alpha"


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how strongly it is applied.

    Attributes:
        source: A .safetensors file, a folder with `pytorch_lora_weights.safetensors`, a Hub id `owner/name` of such a
            folder, or `owner/name/FILE.safetensors` on the Hub.
        weight: Factor of its update; 1 as it was trained.
    """

    source: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Lora:
        """Read "SOURCE" or "SOURCE:WEIGHT".

        Raises:
            ValueError: The weight is not finite.
        """
        source, _, number = text.rpartition(":")
        try:
            weight = float(number)
        except ValueError:
            return cls(text)
        if not source:
            return cls(text)
        if not math.isfinite(weight):
            raise ValueError(f"the weight of a LoRA must be a finite number, got {number!r} in {text!r}")
        return cls(source, weight)

    @property
    def folder(self) -> Path | None:
        """The folder that the source is, on this machine or among the bundled weights; None if it is none."""
        return bundled.look_up(self.source)

    def absolute(self) -> Lora:
        """The same with an absolute path, if it lies on this machine."""
        path = self.folder or Path(self.source)
        return Lora(str(path.absolute()), self.weight) if path.exists() else self

    def file(self) -> Path:
        """Find the file, or download it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a .safetensors file.
        """
        path, parts = self.folder or Path(self.source), self.source.split("/")
        on_hub = len(parts) > 1 and parts[0] not in ("", ".", "..", "~") and (len(parts) > 2 or path.suffix != SUFFIX)
        if path.is_dir():
            path = path / FILE
        elif on_hub and not path.exists():
            name = "/".join(parts[2:]) or FILE
            path = snapshot("/".join(parts[:2]), [name]) / name
        if path.suffix != SUFFIX:
            raise ValueError(f"{path} is not a {SUFFIX} file; other kinds can run code and are never opened")
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no LoRA file {path}; give a {SUFFIX} file, or owner/name/FILE{SUFFIX} on the Hub"
            )
        return path


def fuse(components: Components, lora: Lora) -> None:
    """Add the update of a LoRA file to the weights of UNet and text encoders.

    Args:
        components: Changed in place; the sum is computed in float32 and stored in the precision of the weights.
        lora: The file, which is read one layer at a time, and its weight.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of another kind, or has names or shapes that the components do not have.
    """
    path = lora.file()
    with open_safetensors(path) as file:
        updates = group_by_layer(path, list(file.keys()))
        settings = _read_settings(path, file.metadata() or {})
        layers = layers_by_name(components)
        _refuse_names(path, [name for name in updates if name not in layers], "no layer of this model has")
        for name, update in updates.items():
            down, up = (file.get_slice(update[kind]).get_shape() for kind in ("down", "up"))
            _check_shapes(f"{path}: {name}", down, up, layers[name].weight.shape)
            if "alpha" in update and math.prod(file.get_slice(update["alpha"]).get_shape()) != 1:
                raise ValueError(f"{path}: {update['alpha']} is not one number; copy or download it again")
        for name, update in updates.items():
            down, up = (to_float32(update[kind], file.get_tensor(update[kind])) for kind in ("down", "up"))
            alpha = file.get_tensor(update["alpha"]) if "alpha" in update else _alpha(settings, name, len(down))
            _add(f"{path}: {name}", layers[name], up, down, lora.weight * float(alpha) / len(down))


def group_by_layer(path: Path, keys: Sequence[str]) -> dict[str, Update]:
    """Group the names of the tensors in a LoRA file by the layer that they change.

    Args:
        path: The file, for messages.
        keys: Names of its tensors.

    Raises:
        ValueError: A name is not one of a LoRA, or a layer lacks one of its two matrices.
    """
    updates: dict[str, Update] = {}
    unknown = []
    for name, key in _in_peft_naming(keys).items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        if end is None:
            unknown.append(key)
        else:
            updates.setdefault(name.removesuffix(end), {})[ENDS[end]] = key
    _refuse_names(path, unknown, "are not those of a plain LoRA")
    lacking = [name for name, update in updates.items() if not {"down", "up"} <= update.keys()]
    if lacking or not updates:
        names = f" for {', '.join(lacking[:LISTED])}" if lacking else ""
        raise ValueError(f"{path} does not hold both matrices of a LoRA{names}; copy or download it again")
    return updates


def _in_peft_naming(keys: Sequence[str]) -> dict[str, str]:
    """The names of tensors, by their names in peft's or kohya's convention; older ones of diffusers are translated."""
    if all(key.endswith(PRESENT) for key in keys):
        return {key: key for key in keys}  # diffusers takes a second to import
    from diffusers.utils import convert_unet_state_dict_to_peft

    return convert_unet_state_dict_to_peft({key: key for key in keys})


def _refuse_names(path: Path, names: Sequence[str], reason: str) -> None:
    if names:
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        raise ValueError(
            f"{path} has names that {reason}: {', '.join(names[:LISTED])}{more}; give a LoRA that was made for this "
            "stage 1"
        )


def _check_shapes(where: str, down: Sequence[int], up: Sequence[int], weight: Sequence[int]) -> None:
    """Check (rank, inputs...) and (outputs, rank, ...) against a weight (outputs, inputs...)."""
    fits = len(down) >= 2 and len(up) >= 2 and down[0] == math.prod(up[1:]) >= 1
    if not fits or up[0] != weight[0] or math.prod(down[1:]) != math.prod(weight[1:]):
        raise ValueError(
            f"{where} has matrices of {tuple(up)} and {tuple(down)}, whose product does not fit the weight "
            f"{tuple(weight)}; give a LoRA that was made for this stage 1"
        )


def _read_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read peft's settings that diffusers stores in the file; empty if there are none."""
    try:
        settings = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} has settings ({METADATA}) that are not valid JSON; copy or download it again")
    for key, value in settings.items():
        if value and key.split(".")[-1] in UNSUPPORTED:
            raise ValueError(f"{path} is a LoRA with {key}, which cannot be fused; give one without")
    return settings


def _alpha(settings: Mapping[str, Any], name: str, rank: int) -> float:
    """Alpha of a layer from peft's settings, which diffusers prefixes by the component; by default its rank."""
    part = name.split(".")[0]
    alpha = settings.get(f"{part}.lora_alpha", settings.get("lora_alpha"))
    return float(alpha) if isinstance(alpha, int | float) else float(rank)


def _add(where: str, layer: Layer, up: Tensor, down: Tensor, scale: float) -> None:
    """Add scale up down to a layer's weight."""
    weight = layer.weight.data
    update = scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    changed = (weight.float() + update.to(weight.device)).to(weight.dtype)
    if not changed.isfinite().all():
        raise ValueError(f"{where} has values that are not finite; give another LoRA or a smaller weight")
    layer.weight.data = changed
