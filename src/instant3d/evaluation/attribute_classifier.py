"""Classifier of the colour and the object in an image on white (the "judge").

It consists of two separate small networks. The one for colour is a bag of pixels and cannot use shape; the one for the
object gets only the smallest and the largest channel of each pixel, so it cannot use hue. Hence neither can infer one
attribute from the other ("green, so a cactus").
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
SIZE = 64  # pixels a side to which every image is resized
POOL = 4  # side of the blocks of pixels that are averaged for the colour


@dataclass(frozen=True)
class Prediction(TensorDataclass):
    """Log-probabilities of colours and objects for images (...).

    Attributes:
        colour: (..., C).
        object: (..., O).
    """

    colour: Tensor
    object: Tensor

    def mean_over_views(self) -> Prediction:
        """Combine the images (..., V) of an object: normalised mean of their log-probabilities, (...)."""
        return Prediction(self.colour.mean(-2).log_softmax(-1), self.object.mean(-2).log_softmax(-1))


@dataclass(frozen=True)
class Target:
    """The attributes in a prompt, as class indices.

    Attributes:
        colour: Index into the classifier's colours.
        object: Index into the classifier's objects.
    """

    colour: int
    object: int


class ColourNetwork(nn.Module):
    """Bag of pixels: a weighted mean of pixel features, independent of position.

    Args:
        classes: C, number of colours.
        width: Width of the hidden layers.
    """

    def __init__(self, classes: int, width: int = 48) -> None:
        super().__init__()
        self.pixel = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.weight, self.value = nn.Linear(width, 1), nn.Linear(width, width)
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(width, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [0, 1] to logits (N, C)."""
        pixels = F.avg_pool2d(images, POOL).flatten(2).mT  # block means: as informative, with less noise and less work
        features = self.pixel(2 * pixels - 1)
        share = self.weight(features).softmax(dim=1)
        return self.last((share * self.value(features)).sum(dim=1))


class ObjectNetwork(nn.Sequential):
    """Strided convolutions and a global mean, on images without hue.

    Args:
        classes: O, number of objects.
        widths: Channels of the strided convolutions.
    """

    def __init__(self, classes: int, widths: Sequence[int] = (24, 48, 96, 144)) -> None:
        layers: list[nn.Module] = []
        for before, after in zip((2, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
        super().__init__(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [0, 1] to logits (N, O)."""
        return super().forward(1 - torch.stack([images.amin(1), images.amax(1)], dim=1))


class AttributeClassifier(nn.Module):
    """Both networks with the names of their classes.

    Args:
        objects: Names of the objects.
        colours: Names of the colours.

    Attributes:
        accuracy: Accuracy on held-out images, as measured by training.
    """

    def __init__(self, objects: Sequence[str], colours: Sequence[str] = COLOURS) -> None:
        super().__init__()
        self.colours, self.objects = tuple(colours), tuple(objects)
        self.accuracy: dict[str, Any] = {}
        self.colour_network, self.object_network = ColourNetwork(len(self.colours)), ObjectNetwork(len(self.objects))

    def forward(self, images: Tensor) -> Prediction:
        """Classify images (..., 3, H, W) on white, in [0, 1], of any size."""
        flat = images.reshape(-1, *images.shape[-3:])
        if flat.shape[-2:] != (SIZE, SIZE):
            flat = F.interpolate(flat, (SIZE, SIZE), mode="bilinear", antialias=True).clamp(0, 1)
        colour, thing = self.colour_network(flat), self.object_network(flat)
        lead = images.shape[:-3]
        return Prediction(colour.log_softmax(-1).reshape(*lead, -1), thing.log_softmax(-1).reshape(*lead, -1))

    def target(self, prompt: str) -> Target:
        """The attributes in a prompt such as "a red fire hydrant".

        Raises:
            ValueError: If colour or object are not among the classes.
        """
        colour, thing = parse_caption(prompt, self.colours, self.objects)
        if colour is None or thing is None:
            raise ValueError(
                f"the attribute classifier has no classes for {prompt!r}; write 'a COLOUR OBJECT' with a colour of "
                f"{', '.join(self.colours)} and an object of {', '.join(self.objects)}"
            )
        return Target(self.colours.index(colour), self.objects.index(thing))

    def save(self, folder: str | Path) -> None:
        """Write config.json and the weights in half precision into `folder`, both or neither."""
        from safetensors.torch import save

        config = {"format": FORMAT, "colours": self.colours, "objects": self.objects, "accuracy": self.accuracy}
        tensors = {name: value.detach().to("cpu", torch.float16) for name, value in _floats(self).items()}
        with atomic.merged(folder) as partial:
            (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            (partial / WEIGHTS).write_bytes(save(tensors))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> AttributeClassifier:
        """Read the folder written by `save`, as float32 and without gradients.

        Raises:
            FileNotFoundError: If one of the files is missing.
            ValueError: If a file is damaged or of another format.
        """
        folder = Path(folder)
        if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
            raise FileNotFoundError(
                f"{folder} has no {CONFIG} and {WEIGHTS} of a judge (attribute classifier); "
                "`instant3d train-judge` writes them"
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
                f"{folder} holds no complete attribute classifier ({' '.join(str(error).split())[:120]}); "
                "train or copy it again"
            ) from error
        return judge.eval().requires_grad_(False)


def _names(config: dict[str, Any], key: str) -> list[str]:
    """Names of colours or objects in a configuration."""
    names = config[key]
    if not isinstance(names, list) or not 0 < len(names) <= MAX_NAMES or not all(isinstance(n, str) for n in names):
        raise ValueError(f"{CONFIG} must name 1 to {MAX_NAMES} {key}")
    return names


def parse_caption(caption: str, colours: Sequence[str], objects: Sequence[str]) -> tuple[str | None, str | None]:
    """Colour and object in "a COLOUR OBJECT" or "an OBJECT", None where it is not among the names.

    In "a dark red chair" the object is a chair and the colour None, since "dark red" is not a name.

    Args:
        caption: Text; case and spaces do not matter.
        colours: Names of colours.
        objects: Names of objects, of one or several words; the longest match counts.

    Returns:
        The colour and the object.
    """
    words = re.sub(r"^(an?|the)\s+", "", " ".join(caption.lower().split()))
    longest_first = sorted(objects, key=len, reverse=True)
    found = [thing for thing in longest_first if re.search(rf"(^|\s){re.escape(thing)}$", words)]
    if not found:
        return None, None
    before = words.removesuffix(found[0]).strip()
    return (before if before in colours else None), found[0]


def _floats(judge: nn.Module) -> dict[str, Tensor]:
    """The classifier's tensors without the counters of its batch norms, which are not needed."""
    return {name: value for name, value in judge.state_dict().items() if value.is_floating_point()}
