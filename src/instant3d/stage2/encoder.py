"""From posed pictures to tokens that know their camera. Knows nothing of triplanes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from instant3d.cameras import Cameras
from instant3d.transformer import Block, Modulation, modulate
from instant3d.views import Views

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAMERA_NUMBERS = 16


def camera_vector(cameras: Cameras) -> Tensor:
    """Sixteen numbers of each camera: three rows of `cam_to_world`, then fx, fy, cx, cy: (..., 16).

    LRM's twenty without the matrix's constant last row.
    """
    return torch.cat([cameras.cam_to_world[..., :3, :].flatten(-2), cameras.intrinsics], dim=-1)


class DinoEncoder(nn.Module):
    """DINO ViT-B/16 whose every layer norm is scaled and shifted by the view's camera (arXiv 2311.06214, section 3.2).

    Modules and weights are timm's; the loop over blocks is ours, for timm's has no place for a camera. The modulation
    starts at zero, so at first the tokens are exactly timm's. Each view is encoded alone; class tokens stay in.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, pretrained: bool = False, model: str = "vit_base_patch16_224.dino", **vit: Any) -> None:
        super().__init__()
        import timm

        self.vit = cast(
            Any, timm.create_model(model, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **vit)
        )
        self.width: int = self.vit.embed_dim
        self.patch: int = self.vit.patch_embed.patch_size[0]
        self.camera = nn.Sequential(nn.Linear(CAMERA_NUMBERS, self.width), nn.SiLU(), nn.Linear(self.width, self.width))
        self.modulations = nn.ModuleList(Modulation(self.width, self.width, parts=2) for _ in self.vit.blocks)
        self.checkpointing = False
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, views: Views) -> Tensor:
        """Views (B, V, ...) -> tokens (B, V * (1 + H / 16 * W / 16), width), in the order of the views."""
        check_patches(views, self.patch)
        images = ((views.on(1.0) - self.mean) / self.std).flatten(0, 1)
        camera = self.camera(camera_vector(views.cameras).flatten(0, 1).to(images.dtype))
        tokens = self.vit.norm_pre(self.vit._pos_embed(self.vit.patch_embed(images)))
        for block, modulation in zip(self.vit.blocks, self.modulations, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                tokens = torch.utils.checkpoint.checkpoint(
                    self._block, block, modulation, tokens, camera, use_reentrant=False
                )
            else:
                tokens = self._block(block, modulation, tokens, camera)
        return self.vit.norm(tokens).unflatten(0, views.cameras.shape).flatten(1, 2)

    @staticmethod
    def _block(block: Any, modulation: nn.Module, tokens: Tensor, camera: Tensor) -> Tensor:
        (shift1, scale1), (shift2, scale2) = modulation(camera)
        tokens = tokens + block.drop_path1(block.ls1(block.attn(modulate(block.norm1(tokens), shift1, scale1))))
        return tokens + block.drop_path2(block.ls2(block.mlp(modulate(block.norm2(tokens), shift2, scale2))))


class PluckerEncoder(nn.Module):
    """Patches of colour and Pluecker rays, a linear layer and a few joint blocks: no DINO, no position table.

    A pixel's ray (o x d, d) says where it looks, so patches of any size, number and view are told apart by geometry
    alone (MeshLRM, arXiv 2404.12385, section 3.1). Alpha rides along: on white, it tells a white object from none.
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
        image = torch.cat([2 * views.on(1.0) - 1, 2 * views.alpha - 1, plucker(views)], dim=-3)  # (B, V, 10, H, W)
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
    if views.height % patch or views.width % patch:
        raise ValueError(
            f"pictures of {views.height} x {views.width} pixels do not divide into {patch}-pixel patches; "
            "resize them first"
        )
