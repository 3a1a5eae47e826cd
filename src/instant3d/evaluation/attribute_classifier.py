"""Tells of a picture over white which colour and which object it shows. Knows nothing of how the picture was made.

Two small networks that share nothing. The one for colour is a bag of pixels and cannot see a shape; the one for the
object is shown only the smallest and the largest channel of each pixel, so a hue tells it nothing. Hence neither can
guess the one from the other ("green, so a cactus").
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.utils import atomic, tensor_files
from instant3d.utils.tensor_dataclass import TensorDataclass

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "instant3d-judge-1"
MAX_NAMES = 100_000  # of colours or objects
SIZE = 64  # pixels a side to which every picture is brought
POOL = 4  # of those, a side of what counts as one pixel for the colour


@dataclass(frozen=True)
class Prediction(TensorDataclass):
    """Log-probabilities of the colours (..., C) and of the objects (..., O) of pictures (...)."""

    colour: Tensor
    object: Tensor

    def mean_over_views(self) -> Prediction:
        """One opinion on all pictures (..., V) of an object: the mean of their log-probabilities."""
        return Prediction(self.colour.mean(-2).log_softmax(-1), self.object.mean(-2).log_softmax(-1))


@dataclass(frozen=True)
class Target:
    """What a prompt asks for, as the judge's numbers."""

    colour: int
    object: int


class ColourNetwork(nn.Module):
    """A bag of pixels: each says what colour it is and how much that matters, wherever it lies."""

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.pixel = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.weight, self.value = nn.Linear(width, 1), nn.Linear(width, width)
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to logits (N, C)."""
        pixels = F.avg_pool2d(images, POOL).flatten(2).mT  # means say as much, with less noise and less work
        features = self.pixel(2 * pixels - 1)
        share = self.weight(features).softmax(dim=1)
        return self.last((share * self.value(features)).sum(dim=1))


class ObjectNetwork(nn.Sequential):
    """Strided convolutions and a mean over places, of pictures without hue."""

    def __init__(self, classes: int, widths: Sequence[int] = (24, 48, 96, 144)) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((2, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
        super().__init__(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to logits (N, O)."""
        return super().forward(1 - torch.stack([images.amin(1), images.amax(1)], dim=1))


class AttributeClassifier(nn.Module):
    """Both networks with the names that they know.

    accuracy   what was measured of it on pictures that it was not trained on
    """

    def __init__(self, objects: Sequence[str], colours: Sequence[str] = COLOURS) -> None:
        super().__init__()
        self.colours, self.objects = tuple(colours), tuple(objects)
        self.accuracy: dict[str, Any] = {}
        self.colour_network, self.object_network = ColourNetwork(len(self.colours)), ObjectNetwork(len(self.objects))

    def forward(self, images: Tensor) -> Prediction:
        """The opinion on pictures (..., 3, H, W) over white, in [0, 1] and of any size."""
        flat = images.reshape(-1, *images.shape[-3:])
        if flat.shape[-2:] != (SIZE, SIZE):
            flat = F.interpolate(flat, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 1)
        colour, thing = self.colour_network(flat), self.object_network(flat)
        lead = images.shape[:-3]
        return Prediction(colour.log_softmax(-1).reshape(*lead, -1), thing.log_softmax(-1).reshape(*lead, -1))

    def target(self, prompt: str) -> Target:
        """What "a red fire hydrant" asks for; a ValueError if the judge cannot tell."""
        colour, thing = parse_caption(prompt, self.colours, self.objects)
        if colour is None or thing is None:
            raise ValueError(
                f"the judge cannot tell whether a picture shows {prompt!r}; ask for 'a COLOUR OBJECT' with a colour of "
                f"{', '.join(self.colours)} and an object of {', '.join(self.objects)}"
            )
        return Target(self.colours.index(colour), self.objects.index(thing))

    def save(self, folder: str | Path) -> None:
        """Write config.json and the weights in half precision, both or neither."""
        from safetensors.torch import save

        config = {"format": FORMAT, "colours": self.colours, "objects": self.objects, "accuracy": self.accuracy}
        tensors = {name: value.detach().to("cpu", torch.float16) for name, value in _floats(self).items()}
        with atomic.merged(folder) as partial:
            (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            (partial / WEIGHTS).write_bytes(save(tensors))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AttributeClassifier:
        """Read what `save` wrote; the judge is in float32 and does not learn."""
        folder = Path(folder)
        if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
            raise FileNotFoundError(
                f"{folder} has no {CONFIG} and {WEIGHTS} of a judge; `instant3d train-judge` writes them"
            )
        try:
            config = tensor_files.load_json(folder / CONFIG)
            if config["format"] != FORMAT:
                raise ValueError(f"{CONFIG} says {config['format']!r} where {FORMAT!r} was expected")
            judge = cls(_names(config, "objects"), _names(config, "colours"))
            judge.accuracy = config["accuracy"]
            tensors = tensor_files.load_tensors(folder / WEIGHTS)
            counters = {name: value for name, value in judge.state_dict().items() if name not in _floats(judge)}
            judge.load_state_dict({n: tensor_files.to_float32(n, value) for n, value in tensors.items()} | counters)
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{folder} does not hold a whole judge ({' '.join(str(error).split())[:120]}); train or copy it again"
            ) from error
        return judge.eval().requires_grad_(False)


def _names(config: dict[str, Any], key: str) -> list[str]:
    """Names of colours or objects as a judge's settings tell them."""
    names = config[key]
    if not isinstance(names, list) or not 0 < len(names) <= MAX_NAMES or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{CONFIG} must name 1 to {MAX_NAMES} {key}")
    return names


def parse_caption(caption: str, colours: Sequence[str], objects: Sequence[str]) -> tuple[str | None, str | None]:
    """Colour and object of "a COLOUR OBJECT" or "an OBJECT"; None for what is not among the names.

    In "a dark red chair" the chair is known and the colour, which is none of the names, is not.
    """
    words = re.sub(r"^(an?|the)\s+", "", " ".join(caption.lower().split()))
    longest_first = sorted(objects, key=len, reverse=True)
    found = [thing for thing in longest_first if re.search(rf"(^|\s){re.escape(thing)}$", words)]
    if not found:
        return None, None
    before = words.removesuffix(found[0]).strip()
    return (before if before in colours else None), found[0]


def _floats(judge: nn.Module) -> dict[str, Tensor]:
    """The judge's tensors but for the counters of its batch norms, which say nothing."""
    return {name: value for name, value in judge.state_dict().items() if value.is_floating_point()}
