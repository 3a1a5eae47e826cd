"""Sizes and variants of the text-to-triplane network, and the config.json that stores them; no import of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instant3d.direct.training_record import KEY
from instant3d.utils.safetensors_folder import architecture_of, check_ranges, check_size, read_config

WIDTH = (1, 16384)
RANGES: dict[str, tuple[float, float]] = {
    "text_width": WIDTH,
    "text_length": (1, 4096),
    "token_width": WIDTH,
    "token_heads": (1, 256),
    "style_text_width": WIDTH,
    "noise_width": WIDTH,
    "style_width": WIDTH,
    "base_side": (1, 256),
    "base_channels": WIDTH,
    "widths": WIDTH,
    "groups": WIDTH,
    "layers": (1, 256),
    "head_width": WIDTH,
    "last_groups": WIDTH,
    "channels": (1, 4096),
    "decoder_width": (1, 4096),
    "decoder_layers": (2, 64),
    "density_bias": (-1000, 1000),
    "blob": (-1e6, 1e6),
    "blob_radius": (1e-6, 1e6),
}
MAX_STAGES = 8  # each doubles the side of planes


@dataclass(frozen=True)
class Architecture:
    """Sizes and variants of the network; the defaults are the paper's (arXiv 2311.08403, appendix A).

    What the paper leaves open is as in the authors' released code, whose own shape is `configs/direct/release.yaml`. A
    checkpoint folder holds it as `config.json` beside `model.safetensors`.
    """

    # the text
    text_width: int = 1024
    """Width of a token from the text encoder."""
    text_length: int = 77
    """Tokens of a prompt, padding included."""
    mask_padding: bool = True
    """Whether padding is masked; the authors' code attends to it like words."""

    # conditioning on text and noise
    cross_attention: bool = True
    """Whether the stages attend to the text's tokens."""
    style_text: bool = True
    """Whether the style vector is computed from the text."""
    style_noise: bool = True
    """Whether the style vector is computed from noise too."""
    token_to_plane: bool = True
    """Whether the first map is computed from the text; otherwise it is a parameter, the same for all prompts."""
    token_width: int = 192
    """Width of the two small transformers from text to the first map and to the style."""
    token_heads: int = 8
    """Attention heads of those transformers."""
    style_text_width: int = 768
    """Width of the pooled text in the style's input."""
    noise_width: int = 768
    """Width of the noise in the style's input."""
    style_width: int = 320
    """Width of the style."""

    # maps, from the first to the planes
    base_side: int = 8
    """Texels along each side of the first map."""
    base_channels: int = 128
    """Channels of the first map: as many numbers in 8 x 8 texels as the released 512 in 4 x 4."""
    widths: tuple[int, ...] = (320, 320, 160, 80, 80)
    """Channels of each stage, which ends at twice the side that it begins at."""
    groups: tuple[int, ...] = (8, 8, 8, 8, 4)
    """Groups of channels that are normalised together in each stage."""
    attention: tuple[bool, ...] = (True, True, True, False, False)
    """Whether each convolution of a stage is followed by attention."""
    layers: int = 10
    """Residual layers of each stage."""
    head_width: int = 16
    """Width of an attention head in the stages."""
    norm: Literal["instance", "group"] = "instance"
    """What the style scales and shifts: channels normalised one by one (AdaIN), or in groups."""
    last_groups: int = 4
    """Groups of the norm before the planes."""
    channels: int = 32
    """Channels of a plane."""

    # from the planes to density and colour
    aggregate: Literal["concat", "mean"] = "concat"
    """How the features of three planes are joined."""
    decoder_width: int = 64
    """Width of the MLP that decodes density and colour."""
    decoder_layers: int = 2
    """Linear layers of that MLP."""
    decoder_activation: Literal["relu", "silu", "softplus"] = "softplus"
    """Activation inside the MLP."""
    density: Literal["softplus", "exp"] = "softplus"
    """Activation of the density."""
    density_bias: float = -1.0
    """Bias of the density before its activation."""
    blob: float = 17.5
    """Peak of the density's initial blob: 10 in the paper's world, whose box is 1.75 times ours."""
    blob_radius: float = 0.343
    """Radius of that blob in world units: 0.6 in the paper's world."""
    rgb: Literal["scaled", "sigmoid"] = "scaled"
    """Activation of colours; "scaled" is a sigmoid whose slope is annealed during training."""

    def __post_init__(self) -> None:
        if not self.widths or not len(self.widths) == len(self.groups) == len(self.attention):
            raise ValueError(
                "each stage needs a width, a number of groups and whether it attends; "
                f"got {len(self.widths)}, {len(self.groups)} and {len(self.attention)} of them; give equally many"
            )
        if len(self.widths) > MAX_STAGES:
            raise ValueError(f"planes are made in at most {MAX_STAGES} stages, got {len(self.widths)} widths")
        check_ranges(self, RANGES)
        check_size(self._parameters())
        if self.token_width % self.token_heads:
            raise ValueError(
                f"a token_width of {self.token_width} cannot be shared by {self.token_heads} heads; choose a divisor"
            )
        for width, groups in zip((*self.widths, self.widths[-1]), (*self.groups, self.last_groups), strict=True):
            if width % groups:
                raise ValueError(f"{width} channels cannot be split into {groups} groups; choose a divisor")
        for width, attends in zip((self.widths[0], *self.widths), (True, *self.attention), strict=True):
            if attends and width % self.head_width:
                raise ValueError(f"{width} channels cannot be split into heads of {self.head_width}; choose a divisor")

    def _parameters(self) -> int:
        """Approximate number of parameters: those of the matrices and convolutions."""
        numbers = self.base_side**2 * self.base_channels * self.token_to_plane + self.style_text_width
        text = self.text_length * self.token_width * numbers + 2 * self.text_width * self.token_width
        style = (self.style_text_width + self.noise_width + self.style_width) * self.style_width
        layer = (18 * width**2 + 4 * width * self.style_width + 12 * width**2 for width in self.widths)
        return text + style + self.layers * sum(layer) + self.decoder_layers * self.decoder_width**2

    @property
    def plane_side(self) -> int:
        """Texels along each side of a plane."""
        return self.base_side * 2 ** len(self.widths)

    @classmethod
    def from_dict(cls, numbers: dict[str, Any], source: object = "the configuration") -> Architecture:
        """Inverse of `dataclasses.asdict`.

        Args:
            numbers: Settings by name.
            source: Where they come from, for the message.

        Raises:
            ValueError: A key is unknown or a value is out of range.
        """
        return architecture_of(cls, numbers, source)


def read_architecture(path: Path) -> Architecture:
    """Read the architecture in a checkpoint's `config.json`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It describes another model, or a value is out of range.
    """
    numbers = read_config(path, "direct", "direct text-to-triplane network")
    numbers.pop(KEY, None)
    return Architecture.from_dict(numbers, path)
