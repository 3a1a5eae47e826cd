"""Sparse-view large reconstruction model: posed views to a triplane NeRF (arXiv 2311.06214, section 3.2)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from instant3d.modules.transformer import Block
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.nerf.view_maps import ViewMaps
from instant3d.stage2.architecture import Architecture, read_architecture
from instant3d.stage2.encoder import DinoEncoder, PluckerEncoder, camera_embedding, camera_vector
from instant3d.stage2.local_attention import projection_mask
from instant3d.stage2.plane_unet import PlaneUNet
from instant3d.stage2.view_features import ViewFeatures
from instant3d.stage2.visual_hull_input import carve_views
from instant3d.utils import safetensors_folder
from instant3d.views import Views

LICENCE_FILE = "LICENSE-WEIGHTS.md"


class ResidualProjection(nn.Module):
    """Projections into and out of a transformer with a residual connection around it (LDM's SpatialTransformer).

    Args:
        width: Channels of the tokens, a multiple of 32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.inward = nn.Linear(width, width)
        self.outward = nn.Linear(width, width)

    def project_in(self, tokens: Tensor) -> Tensor:
        """Normalise tokens (B, N, width) over all positions and the channels of a group, and project them."""
        return self.inward(self.norm(tokens.transpose(1, 2)).transpose(1, 2))

    def project_out(self, tokens: Tensor, start: Tensor) -> Tensor:
        """Project the transformer's output (B, N, width) and add its input."""
        return self.outward(tokens) + start


class Reconstructor(nn.Module):
    """Reconstructor for any number of views: image encoder, triplane transformer, upsampler, `TriplaneField`.

    Args:
        architecture: Sizes and variants.
        pretrained_encoder: Whether the image encoder begins with DINO's released weights (downloaded).

    Attributes:
        precise: Whether the weights were stored in float32, so that inference should be in float32 too.
        licence: Licence text of the weights, if they have one; it is saved with them.
    """

    def __init__(self, architecture: Architecture = Architecture(), *, pretrained_encoder: bool = False) -> None:  # noqa: B008
        super().__init__()
        self.architecture = a = architecture
        self.encoder = make_encoder(a, pretrained_encoder)
        self.camera = camera_embedding(a.camera_width or a.width) if a.camera == "decoder" else None
        self.tokens = nn.Parameter(_initial_tokens(3 * a.token_side**2, a.width))
        self.blocks = nn.ModuleList(make_block(a, self.encoder.width) for _ in range(a.depth))
        self.bypass = ResidualProjection(a.width) if a.bypass else None
        self.norm = nn.Identity() if a.bypass else nn.LayerNorm(a.width, a.last_epsilon)
        factor = a.plane_side // a.token_side
        # a transposed convolution whose kernel is its stride is a linear layer and a pixel shuffle
        self.upsample = None if a.lift_side else nn.ConvTranspose2d(a.width, a.channels, factor, factor)
        self.lift = make_plane_unet(a) if a.lift_side else None
        self.pixels = ViewFeatures(a.pixel_features) if a.pixel_features else None
        self.decoder = Decoder(DecoderConfig.from_architecture(a))
        self.checkpointing = False
        self.precise = False
        self.licence: str | None = None

    @property
    def image_size(self) -> int:
        """Side in pixels of the training images; 0 if any size is taken."""
        return self.architecture.image_size

    def forward(self, views: Views) -> TriplaneField:
        """Fields of B objects from views (B, V)."""
        return TriplaneField(self.triplane(views), self.decoder)

    def triplane(self, views: Views) -> Triplane:
        """Planes of B objects.

        Args:
            views: (B, V), of any square size that the encoder's patches divide.

        Returns:
            Planes (B, 3, C, P, P), and the maps of the views if the decoder reads those.

        Raises:
            ValueError: The views have another shape or number.
        """
        if len(views.cameras.shape) != 2:
            raise ValueError(
                f"the network takes views of shape (B, V), got {tuple(views.cameras.shape)}; "
                "add a batch dimension with [None]"
            )
        if self.architecture.assumed_camera is not None and views.cameras.shape[1] != 1:
            raise ValueError(
                f"this checkpoint reconstructs from one image, got {views.cameras.shape[1]}; choose one of them"
            )
        context = self.encoder(views)
        condition = None
        if self.camera is not None:
            condition = self.camera(camera_vector(views.cameras)[:, 0].to(context.dtype))
        tokens, mask = self.tokens.expand(len(context), -1, -1), self._context_mask(views, context)
        if self.lift is None:
            tokens = self._transformed(tokens, context, condition, mask)
            planes = cast(nn.Module, self.upsample)(self._maps(tokens))
            return Triplane(self._ordered(planes.unflatten(0, (-1, 3))))
        grid = carve_views(views, self.architecture.lift_side, everywhere=self._needs_all_weights(views))
        lifted, maps = self.lift.encode(views, grid)
        planes = self.lift.decode(self._transformed(tokens + lifted, context, condition, mask), maps)
        return Triplane(self._ordered(planes.unflatten(0, (-1, 3))), self.view_maps(views, grid.weight_volume))

    def _needs_all_weights(self, views: Views) -> bool:
        """Whether to weight the views in empty cells too: their weights are read, or choosing cells takes longer."""
        a = self.architecture
        return bool(a.pixel_features or a.surface_features or views.rgb.is_cuda or torch.is_grad_enabled())

    def view_maps(self, views: Views, weight: Tensor) -> ViewMaps | None:
        """Colours and features of views, which the decoder reads beside the planes; None if it does not.

        Args:
            views: (B, V).
            weight: Share of each view in the cells of the hull's grid, by angle and occlusion, (B, V, z, y, x).
        """
        if self.pixels is None:
            return None
        maps = torch.cat([views.rgb * views.alpha, self.pixels(views).to(views.rgb.dtype)], dim=-3)
        return ViewMaps(maps, weight, views.cameras)

    def _context_mask(self, views: Views, context: Tensor) -> Tensor | None:
        """Context tokens that each plane token attends to; None are all."""
        if not self.architecture.local_attention:
            return None
        rows, wide = views.height // self.encoder.patch, views.width // self.encoder.patch
        extra = context.shape[1] // views.cameras.shape[1] - rows * wide
        return projection_mask(views.cameras, self.architecture.token_side, rows, wide, extra)

    def _transformed(self, tokens: Tensor, context: Tensor, condition: Tensor | None, mask: Tensor | None) -> Tensor:
        start = tokens
        if self.bypass is not None:
            tokens = self.bypass.project_in(tokens)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(
                    block, tokens, context, condition, context_mask=mask, use_reentrant=False
                )
            else:
                tokens = block(tokens, context, condition, context_mask=mask)
        if self.bypass is not None:
            return self.bypass.project_out(tokens, start)
        return self.norm(tokens)

    def _maps(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 3 * side * side, width), ordered plane, row, column -> (B * 3, width, side, side)."""
        side = self.architecture.token_side
        return tokens.unflatten(1, (3, side, side)).flatten(0, 1).movedim(-1, 1).contiguous()

    def _ordered(self, planes: Tensor) -> Tensor:
        """Reorder planes (B, 3, C, P, P) from the tokens' order to xy, xz, yz."""
        if self.architecture.plane_order == "xy xz yz":
            return planes
        return torch.cat([planes[:, :2], planes[:, 2:].mT], dim=1)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write `config.json` and `model.safetensors`, and the weights' licence if there is one.

        Args:
            folder: Where to write.
            dtype: Precision of the saved weights.
        """
        safetensors_folder.write(Path(folder), "stage2", self.architecture, self, dtype)
        if self.licence is not None:
            (Path(folder) / LICENCE_FILE).write_text(self.licence, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Reconstructor:
        """Load a folder written by `save_pretrained`, or download it by its Hub id.

        Returns:
            The network in float32 and evaluation mode.

        Raises:
            FileNotFoundError: There is no such folder or Hub id.
            ValueError: config.json or the weights are damaged or of another model.
        """
        folder = resolve(source)
        with torch.device("meta"):  # the weights are loaded below, so that initial values are not needed
            network = cls(read_architecture(folder / safetensors_folder.CONFIG))
        network.precise = safetensors_folder.load_into(network, folder)
        network.licence = _licence(folder)
        return network.eval()


def _initial_tokens(count: int, width: int) -> Tensor:
    tokens = torch.empty(1, count, width)
    # on the meta device, random numbers import PyTorch's compiler, which takes a second
    return tokens if tokens.is_meta else tokens.normal_().div_(width**0.5)


def _licence(folder: Path) -> str | None:
    file = folder / LICENCE_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else None


def make_encoder(a: Architecture, pretrained: bool = False) -> DinoEncoder | PluckerEncoder:
    """Build the image encoder of an architecture; `pretrained` downloads DINO's weights."""
    if a.encoder == "plucker":
        return PluckerEncoder(a.encoder_width, a.encoder_depth, a.encoder_heads, a.patch, xformers=a.xformers)
    sizes: dict[str, Any] = {
        "embed_dim": a.encoder_width,
        "depth": a.encoder_depth,
        "num_heads": a.encoder_heads,
        "patch_size": a.patch,
        "norm_layer": partial(nn.LayerNorm, eps=a.encoder_epsilon),
    }
    if a.encoder_feed:
        sizes["mlp_ratio"] = (a.encoder_feed + 0.5) / a.encoder_width  # timm rounds the product down
    if a.position_side:
        sizes["img_size"] = a.position_side * a.patch
    if a.registers:
        sizes |= {"reg_tokens": a.registers, "no_embed_class": True}  # register tokens have no position
    return DinoEncoder(
        pretrained=pretrained,
        camera_width=a.camera_width if a.camera == "encoder" else None,
        positions=a.positions,
        background=a.background,
        **sizes,
    )


def make_plane_unet(a: Architecture) -> PlaneUNet:
    """Build the U-Net over planes of an architecture with a visual hull."""
    return PlaneUNet(
        a.lift_width,
        a.lift_side,
        a.width,
        a.channels,
        factor=a.plane_side // a.lift_side,
        lifted=a.lift_features,
        surface=a.surface_features,
    )


def make_block(a: Architecture, context_width: int) -> Block:
    """Build a triplane transformer block whose context has `context_width` channels."""
    return Block(
        a.width,
        a.heads,
        context_width,
        self_first=a.self_first,
        gated=a.gated,
        feed_width=a.feed,
        out_bias=a.out_bias,
        epsilon=a.epsilon,
        condition_width=(a.camera_width or a.width) if a.camera == "decoder" else 0,
        xformers=a.xformers,
    )


def resolve(source: str | Path) -> Path:
    """Path of a checkpoint folder, or of the download of a Hub id, with the licence if there is one."""
    return safetensors_folder.resolve(source, [LICENCE_FILE])
