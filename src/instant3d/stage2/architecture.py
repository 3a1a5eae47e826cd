"""Sizes and variants of the reconstructor's network, and the config.json that stores them. It does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from instant3d.utils.safetensors_folder import architecture_of, check_ranges, check_size, read_config

BYPASS_GROUPS = 32  # channel groups of the residual projection's norm
LIFT_GROUPS = 16  # divides the channels over the visual hull: norms of 8 groups take 1, 3/2 and 2 times as many
EXTENT_CHANNELS = 11  # plane channels that the visual hull's extents take

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
    "lift_features": (0, 256),
    "surface_features": (0, 256),
    "pixel_features": (0, 256),
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
    """Sizes and variants of the network; the defaults are the paper's (arXiv 2311.06214, section 3.2, appendix A).

    A checkpoint folder holds it as `config.json` beside `model.safetensors`. A 0 or None that makes no sense as a size
    stands for a default, which the attribute's description names.
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
    """Texels along each side of a plane, a multiple of `token_side`; with lifting, 1, 2 or 4 times `lift_side`, by a
    pixel shuffle after the last convolution (ESPCN, arXiv 1609.05158)."""
    channels: int = 80
    """Channels of a plane."""
    decoder_width: int = 64
    """Width of the MLP that decodes density and colour."""
    decoder_layers: int = 10
    """Linear layers of that MLP."""
    density: Literal["softplus", "exp", "laplace"] = "softplus"
    """Activation of the density; "laplace" is that of a signed distance, with a trained sharpness (VolSDF, arXiv
    2106.12052)."""
    lift_side: int = 0
    """Points along each axis of the visual hull that is an additional input; 0, as in the paper, is no such input."""
    lift_width: int = 64
    """Channels of the convolutions over the visual hull."""
    lift_features: int = 0
    """Channels of convolutional image features that are lifted to the grid beside the colours, as their mean and
    variance over the views, weighted by visibility (MVSNet, arXiv 1804.02505; IBRNet, 2102.13090); 0 is none."""
    surface_features: int = 0
    """Channels of convolutional image features that are sampled, at the images' resolution, where each plane's columns
    enter and leave the visual hull: pixel-aligned features (pixelNeRF, arXiv 2012.02190), once an object; 0 is none."""
    pixel_features: int = 0
    """Channels of convolutional image features that the decoder reads beside the planes at every point, with the
    colours, as their mean and variance over the views, weighted by angle and by occlusion by the hull (pixelNeRF,
    arXiv 2012.02190; IBRNet, 2102.13090; LaRa, 2407.04699); 0 is none."""
    local_attention: bool = False
    """Whether each token of the planes attends to those patches of the views alone that its column projects to."""
    xformers: bool = False
    """Whether attention runs by the xformers package, on CUDA and where it has a kernel for the installed torch."""

    # a DINO encoder's variants
    encoder_feed: int = 0
    """Width inside its feed-forward layers; 0 is four times its own."""
    encoder_epsilon: float = 1e-6
    """Epsilon of the encoder's layer norms."""
    registers: int = 0
    """Register tokens, which attention uses and the output leaves out (arXiv 2309.16588)."""
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
    """Whether the transformer has a residual connection around it, group norm and linear layers at its ends (LDM)."""
    plane_order: Literal["xy xz yz", "xy xz zy"] = "xy xz yz"
    """Axes along which the tokens' columns and rows run; the planes themselves are always xy, xz, yz."""
    decoder_activation: Literal["relu", "silu"] = "relu"
    """Activation inside the MLP."""
    rgb_margin: float = 0.001
    """How far the sigmoid of colours reaches beyond 0 and 1."""

    # how its training images and cameras were prepared
    resize: Literal["bilinear", "bicubic", "bicubic_corners"] = "bilinear"
    """How images are resized to `image_size`."""
    foreground: float = 0.0
    """Share of the image's side that the object fills; 0 takes images as they are."""
    assumed_camera: tuple[float, float, float, float] | None = None
    """Azimuth, elevation (degrees), radius and field of view (degrees) of a single-image network's input."""
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
        self._check_lifting()
        if self.local_attention and self.plane_order != "xy xz yz":
            raise ValueError(f"local_attention needs planes in the order 'xy xz yz', got {self.plane_order!r}")
        if self.foreground and not 0.1 <= self.foreground <= 1:
            raise ValueError(
                f"foreground is a share of the image's side from 0.1 to 1, or 0 for no resizing, got {self.foreground}"
            )
        if self.registers and self.positions == "dino":
            raise ValueError("positions 'dino' cannot be used with registers; set positions to 'antialiased'")

    def _check_lifting(self) -> None:
        if not self.lift_side:
            if self.lift_features or self.surface_features or self.pixel_features:
                raise ValueError(
                    "lift_features, surface_features and pixel_features need a visual hull; set lift_side, or them to 0"
                )
            return
        factors = tuple(factor * self.lift_side for factor in (1, 2, 4))
        if self.lift_side != 4 * self.token_side or self.plane_side not in factors:
            raise ValueError(
                "lifting needs lift_side = 4 x token_side and plane_side = 1, 2 or 4 x lift_side, "
                f"got {self.lift_side}, {self.token_side} and {self.plane_side}"
            )
        if self.lift_width % LIFT_GROUPS:
            raise ValueError(f"lift_width must be a multiple of {LIFT_GROUPS}, got {self.lift_width}")
        if self.channels < EXTENT_CHANNELS:
            raise ValueError(f"lifting needs planes of at least {EXTENT_CHANNELS} channels, got {self.channels}")

    def _check_heads(self) -> None:
        for prefix in ("encoder_", ""):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if width % heads:
                raise ValueError(f"a {prefix}width of {width} cannot be shared by {heads} heads; choose a divisor")
        if self.bypass and self.width % BYPASS_GROUPS:
            raise ValueError(f"with a bypass, width must be a multiple of {BYPASS_GROUPS}, got {self.width}")

    def _parameters(self) -> int:
        """Approximate number of parameters: those of the matrices."""
        feeds = (self.encoder_feed or 4 * self.encoder_width, self.feed or 4 * self.width)
        encoder = self.encoder_depth * self.encoder_width * (4 * self.encoder_width + 2 * feeds[0])
        blocks = self.depth * self.width * (8 * self.width + 2 * feeds[1])
        tables = 3 * self.token_side**2 * self.width + self.position_side**2 * self.encoder_width
        lift = 3 * self.lift_side * self.lift_width * 5 + 100 * self.lift_width**2 * bool(self.lift_side)
        decoder = self.decoder_layers * self.decoder_width**2
        upsample = self.width * self.channels * max(1, self.plane_side // self.token_side) ** 2
        return encoder + blocks + tables + lift + decoder + upsample

    @property
    def view_channels(self) -> int:
        """Channels of the views' maps that the decoder reads: colours and features, or none."""
        return 3 + self.pixel_features if self.pixel_features else 0

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
    hint = " (a peer's weights are brought over by `instant3d convert`)"
    return Architecture.from_dict(read_config(path, "stage2", "stage2 reconstructor", hint), path)
