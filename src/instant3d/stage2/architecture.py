"""The numbers that fix a reconstructor, and the file they are kept in. Knows nothing of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instant3d.utils.safetensors_folder import architecture_of, check_ranges, check_size, read_config

BYPASS_GROUPS = 32  # of channels that the bypass normalises
EXTENT_CHANNELS = 11  # that the carved grid writes into the planes

Span = tuple[float, float]

COUNT, WIDTH, SIDE, LAYERS, HEADS = (0, 65536), (1, 16384), (1, 1024), (0, 256), (1, 256)
RANGES: dict[str, Span] = {
    "image_size": (0, 8192),
    "encoder_width": WIDTH,
    "encoder_depth": LAYERS,
    "encoder_heads": HEADS,
    "patch": (1, 256),
    "width": WIDTH,
    "depth": LAYERS,
    "heads": HEADS,
    "token_side": (1, 256),
    "plane_side": SIDE,
    "channels": (1, 4096),
    "decoder_width": (1, 4096),
    "decoder_layers": (2, 64),
    "lift_side": (0, 1024),
    "lift_width": (1, 4096),
    "encoder_feed": COUNT,
    "encoder_epsilon": (0, 1),
    "registers": (0, 1024),
    "position_side": (0, 1024),
    "background": (0, 1),
    "camera_width": (0, 16384),
    "feed": COUNT,
    "epsilon": (0, 1),
    "last_epsilon": (0, 1),
    "rgb_margin": (0, 1),
    "foreground": (0, 1),
    "assumed_camera": (-360, 360),
    "known_elevations_deg": (-90, 90),
    "known_radii": (0, 1000),
    "known_fovs_deg": (0, 180),
}


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the network's shape; the defaults are the paper's (arXiv 2311.06214, section 3.2, app. A).

    A checkpoint folder holds it as `config.json` beside `model.safetensors`. What is 0 or None where that makes no
    sense as a number says "as usual", which is told beside it.
    """

    image_size: int = 512
    """Side in pixels of the images it is trained on; 0 takes images as they are."""
    encoder: Literal["dino", "plucker"] = "dino"
    """Image encoder: a DINO ViT, or patches of pixels and Pluecker rays."""
    encoder_width: int = 768
    """Width of the image encoder."""
    encoder_depth: int = 12
    """Blocks of the image encoder."""
    encoder_heads: int = 12
    """Attention heads of the image encoder."""
    patch: int = 16
    """Side in pixels of the image encoder's patches."""
    width: int = 1024
    """Width of the triplane transformer."""
    depth: int = 16
    """Blocks of the triplane transformer."""
    heads: int = 16
    """Attention heads of the triplane transformer."""
    token_side: int = 32
    """Tokens along each side of a plane."""
    plane_side: int = 64
    """Texels along each side of a plane, a multiple of `token_side`."""
    channels: int = 80
    """Channels of a plane."""
    decoder_width: int = 64
    """Width of the MLP that decodes density and colour."""
    decoder_layers: int = 10
    """Linear layers of that MLP."""
    density: Literal["softplus", "exp"] = "softplus"
    """Activation of the density."""
    lift_side: int = 0
    """Points along each axis of the carved grid that is fed in beside the views; 0, the paper's way, is none."""
    lift_width: int = 64
    """Channels of the network over the carved grid."""
    xformers: bool = False
    """Whether attention runs by the xformers package, on CUDA."""

    # a DINO encoder's variants
    encoder_feed: int = 0
    """Width inside its feed-forward layers; 0 is four times its own."""
    encoder_epsilon: float = 1e-6
    """Epsilon of the encoder's layer norms."""
    registers: int = 0
    """Tokens without a place, which take part and are not handed on (arXiv 2309.16588)."""
    position_side: int = 0
    """Positions along each side of its learned table; 0 is as many as 224 pixels have patches."""
    positions: Literal["antialiased", "dino"] = "antialiased"
    """How the table is resized: as timm and DINOv2 do, or as DINO's first code, with its 0.1 added to the scale."""
    background: float = 1.0
    """Grey value that images are composited on."""

    # a triplane transformer's variants
    camera: Literal["encoder", "decoder", "none"] = "encoder"
    """Which norms the camera modulates: DINO's, the triplane transformer's, or none (Pluecker patches need none)."""
    camera_width: int = 0
    """Width of the camera's embedding; 0 is the width of what it modulates."""
    feed: int = 0
    """Width inside the feed-forward layers; 0 is four times the width."""
    gated: bool = False
    """Whether the feed-forward layers are GEGLU in place of GELU."""
    self_first: bool = False
    """Whether self-attention comes before cross-attention in a block."""
    out_bias: bool = False
    """Whether the last layers of attention have a bias."""
    epsilon: float = 1e-5
    """Epsilon of the layer norms in the blocks."""
    last_epsilon: float = 1e-5
    """Epsilon of the layer norm after the last block."""
    bypass: bool = False
    """Tokens pass by the transformer too: group norm and a linear layer lead in, a linear layer and a sum lead out."""
    plane_order: Literal["xy xz yz", "xy xz zy"] = "xy xz yz"
    """Along which axes the tokens' columns and rows run; planes themselves are always xy, xz, yz."""
    decoder_activation: Literal["relu", "silu"] = "relu"
    """Activation inside the MLP."""
    rgb_margin: float = 0.001
    """How far the sigmoid of colours reaches beyond 0 and 1."""

    # what it was taught with, for those who prepare its pictures
    resize: Literal["bilinear", "bicubic", "bicubic_corners"] = "bilinear"
    """How images are resized to `image_size`."""
    foreground: float = 0.0
    """Share of the image's side that the object fills; 0 takes images as they are."""
    assumed_camera: tuple[float, float, float, float] | None = None
    """Azimuth, elevation (degrees), radius and field of view (degrees) of the one image that it takes."""
    known_elevations_deg: Span | None = None
    """Range of the elevations (degrees) it was trained on, for a warning; null checks nothing."""
    known_radii: Span | None = None
    """Range of the camera distances it was trained on, for a warning; null checks nothing."""
    known_fovs_deg: Span | None = None
    """Range of the fields of view (degrees) it was trained on, for a warning; null checks nothing."""

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        self._check_heads()
        check_size(self._parameters())
        if self.plane_side % self.token_side:
            raise ValueError(
                f"planes of side {self.plane_side} cannot be made of {self.token_side} tokens a side; choose a multiple"
            )
        if self.lift_side and (self.lift_side, self.plane_side) != (4 * self.token_side, 4 * self.token_side):
            raise ValueError(
                f"lifting needs lift_side = plane_side = 4 x token_side, got {self.lift_side}, {self.plane_side} "
                f"and {self.token_side}"
            )
        if self.lift_side and self.channels < EXTENT_CHANNELS:
            raise ValueError(f"lifting needs planes of at least {EXTENT_CHANNELS} channels, got {self.channels}")

        if self.foreground and not 0.1 <= self.foreground <= 1:
            raise ValueError(
                f"an object fills a tenth to all of its picture's side, or 0 for as it comes; got {self.foreground}"
            )
        if self.registers and self.positions == "dino":
            raise ValueError("DINO's first code knows no registers; resize positions the antialiased way")

    def _check_heads(self) -> None:
        for prefix in ("encoder_", ""):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if width % heads:
                raise ValueError(f"a {prefix}width of {width} cannot be shared by {heads} heads; choose a divisor")
        if self.bypass and self.width % BYPASS_GROUPS:
            raise ValueError(f"with a bypass, width must be a multiple of {BYPASS_GROUPS}, got {self.width}")

    def _parameters(self) -> int:
        """Roughly: those of the matrices."""
        feeds = (self.encoder_feed or 4 * self.encoder_width, self.feed or 4 * self.width)
        encoder = self.encoder_depth * self.encoder_width * (4 * self.encoder_width + 2 * feeds[0])
        blocks = self.depth * self.width * (8 * self.width + 2 * feeds[1])
        tables = 3 * self.token_side**2 * self.width + self.position_side**2 * self.encoder_width
        lift = 3 * self.lift_side * self.lift_width * 5 + 100 * self.lift_width**2 * bool(self.lift_side)
        decoder = self.decoder_layers * self.decoder_width**2
        upsample = self.width * self.channels * max(1, self.plane_side // self.token_side) ** 2
        return encoder + blocks + tables + lift + decoder + upsample

    @classmethod
    def from_dict(cls, numbers: dict[str, Any], source: object = "the configuration") -> Architecture:
        """The inverse of `dataclasses.asdict`; names every unknown key and `source`."""
        return architecture_of(cls, numbers, source)


def read_architecture(path: Path) -> Architecture:
    """The architecture in a checkpoint's `config.json`."""
    hint = " (a peer's weights are brought over by `instant3d convert`)"
    return Architecture.from_dict(read_config(path, "stage2", "stage2 reconstructor", hint), path)
