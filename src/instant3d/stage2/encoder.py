"""Image encoders of the reconstructor: DINO modulated by the camera, or patches with Pluecker rays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instant3d.cameras import Cameras
from instant3d.modules.transformer import Block, Modulation, modulate
from instant3d.views import Views

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAMERA_PARAMETERS = 16

Pairs = list[tuple[Tensor, Tensor]]  # of shift and scale


def camera_vector(cameras: Cameras) -> Tensor:
    """Camera parameters as a vector (..., 16): three rows of `cam_to_world`, then fx, fy, cx, cy.

    LRM's twenty numbers (arXiv 2311.04400) without the matrix's constant last row.
    """
    return torch.cat([cameras.cam_to_world[..., :3, :].flatten(-2), cameras.intrinsics], dim=-1)


def camera_embedding(width: int) -> nn.Sequential:
    """MLP that embeds the 16 camera parameters in `width` channels."""
    return nn.Sequential(nn.Linear(CAMERA_PARAMETERS, width), nn.SiLU(), nn.Linear(width, width))


class DinoEncoder(nn.Module):
    """DINO ViT-B/16 with every layer norm scaled and shifted by the view's camera (arXiv 2311.06214, section 3.2).

    Modules and weights are timm's; the loop over blocks is ours, since timm's takes no camera. The modulation starts at
    zero, so at first the tokens are exactly timm's. Each view is encoded alone; class tokens are kept.

    Args:
        pretrained: Whether to download DINO's released weights.
        model: Name of timm's model.
        camera_width: Channels of the camera's embedding; 0 is the encoder's width, None leaves out the camera.
        positions: How the learned table of positions is resized (see `Architecture.positions`).
        background: Grey value that images are composited on.
        **vit: Settings of timm's VisionTransformer.
    """

    def __init__(
        self,
        *,
        pretrained: bool = False,
        model: str = "vit_base_patch16_224.dino",
        camera_width: int | None = 0,
        positions: Literal["antialiased", "dino"] = "antialiased",
        background: float = 1.0,
        **vit: Any,
    ) -> None:
        super().__init__()
        import timm

        self.vit = cast(
            Any, timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **vit)
        )
        self.width: int = self.vit.embed_dim
        self.patch: int = self.vit.patch_embed.patch_size[0]
        self.positions, self.background = positions, background
        self.camera = self.modulations = None
        if camera_width is not None:
            camera_width = camera_width or self.width
            self.camera = camera_embedding(camera_width)
            self.modulations = nn.ModuleList(Modulation(self.width, camera_width, parts=2) for _ in self.vit.blocks)
        self.checkpointing = False

    def forward(self, views: Views) -> Tensor:
        """Views (B, V, ...) -> tokens (B, V * (1 + H / 16 * W / 16), width), in the order of the views."""
        check_patches(views, self.patch)
        images = normalized(views.composite(self.background)).flatten(0, 1)
        tokens = self.vit.norm_pre(self._placed(self.vit.patch_embed(images)))
        for block, modulation in zip(self.vit.blocks, self._modulations(views, images.dtype), strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(self._block, block, tokens, modulation, use_reentrant=False)
            else:
                tokens = self._block(block, tokens, modulation)
        tokens, registers = self.vit.norm(tokens), self.vit.num_reg_tokens
        if registers:
            tokens = torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1)
        return tokens.unflatten(0, views.cameras.shape).flatten(1, 2)

    def _modulations(self, views: Views, dtype: torch.dtype) -> Sequence[Pairs | None]:
        """Shift and scale of the two norms of each block."""
        if self.camera is None or self.modulations is None:
            return [None] * len(self.vit.blocks)
        camera = self.camera(camera_vector(views.cameras).flatten(0, 1).to(dtype))
        return [modulation(camera) for modulation in self.modulations]

    def _placed(self, patches: Tensor) -> Tensor:
        """Patches (B, H, W, width) with position embeddings, after the class (and register) tokens."""
        table, vit = self.vit.pos_embed, self.vit
        fits = table.shape[1] - (0 if vit.no_embed_class else 1) == patches.shape[1] * patches.shape[2]
        if self.positions == "antialiased" or (fits and patches.shape[1] == patches.shape[2]):
            return vit._pos_embed(patches)
        positions = resized_positions(table[:, 1:], patches.shape[1], patches.shape[2])
        class_token = (vit.cls_token + table[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([class_token, patches.flatten(1, 2) + positions], dim=1)

    @staticmethod
    def _block(block: Any, tokens: Tensor, modulation: Pairs | None) -> Tensor:
        first, second = (None, None) if modulation is None else modulation

        def normed(norm: nn.Module, pair: tuple[Tensor, Tensor] | None) -> Tensor:
            return norm(tokens) if pair is None else modulate(norm(tokens), *pair)

        tokens = tokens + block.drop_path1(block.ls1(block.attn(normed(block.norm1, first))))
        return tokens + block.drop_path2(block.ls2(block.mlp(normed(block.norm2, second))))


def normalized(images: Tensor) -> Tensor:
    """Normalise images (..., 3, H, W) in [0, 1] by ImageNet's statistics."""
    mean, std = (images.new_tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def resized_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Resize a position table as DINO's first code does.

    It adds 0.1 to the wanted number of patches as a guard against rounding, and so samples the table a little more
    densely than at even steps; weights trained with that need it.

    Args:
        table: Square table, (1, side^2, C).
        height: Patches along the image's height.
        width: Patches along its width.

    Returns:
        (1, height * width, C).
    """
    side = math.isqrt(table.shape[1])
    square = table.unflatten(1, (side, side)).movedim(-1, 1)
    scale = ((height + 0.1) / side, (width + 0.1) / side)
    resized = F.interpolate(square.float(), scale_factor=scale, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(table.dtype)


class PluckerEncoder(nn.Module):
    """Patches of colour, alpha and Pluecker rays, a linear layer and a few joint blocks: no DINO, no position table.

    A pixel's ray (o x d, d) encodes its position, so patches of any size, number and view differ by geometry alone
    (MeshLRM, arXiv 2404.12385, section 3.1). Alpha separates a white object from the white background.

    Args:
        width: Channels of the tokens.
        depth: Transformer blocks over the tokens of all views.
        heads: Attention heads.
        patch: Side of a patch in pixels.
        xformers: Use xformers' attention on CUDA.
    """

    def __init__(
        self, width: int = 1024, depth: int = 8, heads: int = 16, patch: int = 8, *, xformers: bool = False
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.embed = nn.Linear(10 * patch * patch, width, bias=False)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, xformers=xformers) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.checkpointing = False

    def forward(self, views: Views) -> Tensor:
        """Views (B, V, ...) -> tokens (B, V * H / patch * W / patch, width), in the order of the views."""
        check_patches(views, self.patch)
        image = torch.cat(
            [2 * views.composite(1.0) - 1, 2 * views.alpha - 1, plucker(views)], dim=-3
        )  # (B, V, 10, H, W)
        patches = torch.nn.functional.pixel_unshuffle(image.flatten(0, 1), self.patch)
        tokens = self.embed_norm(self.embed(patches.flatten(2).transpose(1, 2)))
        tokens = tokens.unflatten(0, views.cameras.shape).flatten(1, 2)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.norm(tokens)


def plucker(views: Views) -> Tensor:
    """Moment o x d and direction d of each pixel's ray: (..., 6, H, W)."""
    rays = views.cameras.rays(views.height, views.width)
    moment = torch.linalg.cross(rays.origins, rays.directions)
    return torch.cat([moment, rays.directions], dim=-1).movedim(-1, -3)


def check_patches(views: Views, patch: int) -> None:
    """Check that patches divide the images.

    Raises:
        ValueError: They do not.
    """
    if views.height % patch or views.width % patch:
        raise ValueError(
            f"images of {views.height} x {views.width} pixels do not divide into {patch}-pixel patches; "
            "resize them first"
        )
