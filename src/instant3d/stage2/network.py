"""The sparse-view large reconstruction model: posed views in, a triplane NeRF out. Knows nothing of training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from instant3d.nerf.triplane import Decoder, Triplane, TriplaneField
from instant3d.stage2.encoder import DinoEncoder, PluckerEncoder
from instant3d.stage2.lift import EXTENT_CHANNELS, Hourglass
from instant3d.transformer import Block
from instant3d.views import Views


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the network's shape; the defaults are the paper's (arXiv 2311.06214, section 3.2, app. A).

    A checkpoint folder holds it as `config.json` beside `model.safetensors`.
    """

    image_size: int = 512
    encoder: Literal["dino", "plucker"] = "dino"
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    patch: int = 16
    width: int = 1024
    depth: int = 16
    heads: int = 16
    token_side: int = 32
    plane_side: int = 64
    channels: int = 80
    decoder_width: int = 64
    decoder_layers: int = 10
    density: Literal["softplus", "exp"] = "softplus"
    lift_side: int = 0
    """Points along each axis of the carved grid that is fed in beside the views; 0, the paper's way, is none."""
    lift_width: int = 64
    xformers: bool = False

    def __post_init__(self) -> None:
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

    @classmethod
    def from_dict(cls, numbers: dict[str, Any], source: object = "the configuration") -> Architecture:
        """The inverse of `dataclasses.asdict`; names every unknown key and `source`."""
        known = {field.name: field.type for field in fields(cls)}
        unknown = sorted(set(numbers) - set(known))
        if unknown:
            raise ValueError(f"{source} describes another architecture: unknown {', '.join(unknown)}")
        for name, value in numbers.items():
            wanted = {"int": int, "bool": bool}.get(str(known[name]), str)
            if type(value) is not wanted:
                raise ValueError(f"{source}: {name} must be {wanted.__name__}, got {value!r}")
        return cls(**numbers)


class Reconstructor(nn.Module):
    """Image encoder -> triplane transformer -> upsampler -> `TriplaneField`, for any number of views."""

    def __init__(self, architecture: Architecture = Architecture(), *, pretrained_encoder: bool = False) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.encoder = make_encoder(a, pretrained_encoder)
        self.tokens = nn.Parameter(torch.randn(1, 3 * a.token_side**2, a.width) / a.width**0.5)
        self.blocks = nn.ModuleList(
            Block(a.width, a.heads, self.encoder.width, xformers=a.xformers) for _ in range(a.depth)
        )
        self.norm = nn.LayerNorm(a.width)
        factor = a.plane_side // a.token_side
        # a transposed convolution whose kernel is its stride is a linear layer and a pixel shuffle
        self.upsample = None if a.lift_side else nn.ConvTranspose2d(a.width, a.channels, factor, factor)
        self.lift = Hourglass(a.lift_width, a.lift_side, a.width, a.channels) if a.lift_side else None
        self.decoder = Decoder(a.channels, a.decoder_width, a.decoder_layers, density=a.density)
        self.checkpointing = False

    @property
    def image_size(self) -> int:
        return self.architecture.image_size

    def forward(self, views: Views) -> TriplaneField:
        """Views (B, V, ...) -> the field of B objects."""
        return TriplaneField(self.triplane(views), self.decoder)

    def triplane(self, views: Views) -> Triplane:
        """Views (B, V, ...) of any square size that the encoder's patches divide -> planes (B, 3, C, P, P)."""
        if len(views.cameras.shape) != 2:
            raise ValueError(
                f"the network takes views of shape (B, V), got {tuple(views.cameras.shape)}; "
                "add a batch dimension with [None]"
            )
        context = self.encoder(views)
        tokens = self.tokens.expand(len(context), -1, -1)
        maps: list[Tensor] = []
        if self.lift is not None:
            lifted, maps = self.lift.descend(views)
            tokens = tokens + lifted
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, context, use_reentrant=False)
            else:
                tokens = block(tokens, context)
        tokens = self.norm(tokens)
        if self.lift is not None:
            planes = self.lift.ascend(tokens, maps)
        else:
            planes = cast(nn.Module, self.upsample)(self._maps(tokens))
        return Triplane(planes.unflatten(0, (-1, 3)))

    def _maps(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 3 * side * side, width), ordered plane, row, column -> (B * 3, width, side, side)."""
        side = self.architecture.token_side
        return tokens.unflatten(1, (3, side, side)).flatten(0, 1).movedim(-1, 1).contiguous()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `config.json` and `model.safetensors`."""
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.detach().to("cpu", dtype).contiguous() for key, value in self.state_dict().items()}
        (folder / "model.safetensors").write_bytes(save(weights))  # save_file leaves a file that only its owner reads
        (folder / "config.json").write_text(
            json.dumps({"model": "stage2", **asdict(self.architecture)}, indent=2) + "\n"
        )

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Reconstructor:
        """Read a folder written by `save_pretrained`, or download it by its Hub id; weights come back in float32."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = locate(source)
        network = cls(read_architecture(folder / "config.json"))
        try:
            weights = load_file(folder / "model.safetensors")
        except SafetensorError as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is not a whole safetensors file ({error}); copy it again"
            ) from None
        expected = {key: value.shape for key, value in network.state_dict().items()}
        found = {key: value.shape for key, value in weights.items()}
        if found != expected:
            missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
            other = sorted(key for key in set(found) & set(expected) if found[key] != expected[key])
            raise ValueError(
                f"{folder} does not hold the network its config.json describes: {len(missing)} tensors missing, "
                f"{len(extra)} unexpected, {len(other)} of another shape "
                f"(such as {', '.join((missing + extra + other)[:3])})"
            )
        network.load_state_dict({key: value.float() for key, value in weights.items()})
        return network.eval()


def make_encoder(a: Architecture, pretrained: bool = False) -> DinoEncoder | PluckerEncoder:
    if a.encoder == "plucker":
        return PluckerEncoder(a.encoder_width, a.encoder_depth, a.encoder_heads, a.patch, xformers=a.xformers)
    sizes: dict[str, Any] = {
        "embed_dim": a.encoder_width,
        "depth": a.encoder_depth,
        "num_heads": a.encoder_heads,
        "patch_size": a.patch,
    }
    return DinoEncoder(pretrained=pretrained, **sizes)


def read_architecture(path: Path) -> Architecture:
    """The architecture in a checkpoint's `config.json`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; is it a checkpoint folder (config.json and model.safetensors)?"
        )
    try:
        numbers = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    kind = numbers.pop("model", None) if isinstance(numbers, dict) else None
    if kind != "stage2":
        raise ValueError(
            f"{path} describes a {kind or 'nameless'} model, not a stage2 reconstructor; give another checkpoint"
        )
    return Architecture.from_dict(numbers, path)


def locate(source: str | Path) -> Path:
    """A checkpoint folder as it is, or downloaded if `source` is no folder but looks like a Hub id (`owner/name`)."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    parts = str(source).split("/")
    if len(parts) != 2 or str(source).startswith((".", "/", "~")) or parts[0] == "checkpoints":
        raise FileNotFoundError(f"{source} is neither a checkpoint folder nor a Hub id such as owner/name")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source), allow_patterns=["config.json", "model.safetensors"]))
