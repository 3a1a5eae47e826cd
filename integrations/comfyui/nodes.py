"""Nodes of ComfyUI: a prompt to four views, four views to an asset, an asset to a .glb in ComfyUI's output folder."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from instant3d.nerf.asset import Asset
from instant3d.pipelines.text_to_3d import TextTo3D, ViewsTo3D
from instant3d.stage1.grid import pack, to_views
from instant3d.stage1.recommended_sampling import recommended_sampling
from instant3d.utils import bundled
from instant3d.utils.devices import find_device
from instant3d.utils.mesh_options import DEFAULT, MAX_FACES, TEXTURE_SIDES, MeshOptions

ASSET = "INSTANT3D_ASSET"
CATEGORY = "instant3d"
LARGEST_SEED = 2**32 - 1
BUNDLED = "bundled"  # in place of a folder or Hub id
BEST = recommended_sampling(bundled.STAGE1)


class TextToViews:
    """A prompt to four views of one object, as a batch of images (4, S, S, 3) in [0, 1]."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE",), ("views",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs as ComfyUI expects them."""
        return {
            "required": {
                "prompt": ("STRING", {"multiline": True, "default": "a red fire hydrant"}),
                "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED}),
                "steps": ("INT", {"default": BEST.steps, "min": 1, "max": 200}),
                "guidance": ("FLOAT", {"default": BEST.guidance, "min": 0.0, "max": 30.0, "step": 0.5}),
            },
            "optional": {
                "negative": ("STRING", {"multiline": True, "default": ""}),
                "stage1": ("STRING", {"default": BUNDLED, "tooltip": "folder in diffusers' layout, or Hub id"}),
            },
        }

    def run(
        self, prompt: str, seed: int, steps: int, guidance: float, negative: str = "", stage1: str = BUNDLED
    ) -> tuple[Tensor]:
        """Generate the views."""
        bar = comfy.utils.ProgressBar(steps)
        model = _text_to_3d(stage1)
        (views,) = model.views(
            [prompt],
            [seed],
            sampling=replace(model.sampling, steps=steps, guidance=guidance),
            negative=negative or None,
            on_step=lambda done, total: bar.update_absolute(done, total),
        )
        return (views.composite(1.0).permute(0, 2, 3, 1).cpu(),)


class ViewsToAsset:
    """Four views, at the azimuths 45, 135, 225 and 315 degrees and an elevation of 20, to an asset."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ASSET,), ("asset",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs as ComfyUI expects them."""
        return {
            "required": {
                "views": ("IMAGE", {"tooltip": "four square images over white"}),
                "resolution": ("INT", {"default": 256, "min": 32, "max": 512}),
            },
            "optional": {"stage2": ("STRING", {"default": BUNDLED, "tooltip": "checkpoint folder, or Hub id"})},
        }

    def run(self, views: Tensor, resolution: int, stage2: str = BUNDLED) -> tuple[Asset]:
        """Reconstruct the asset.

        Raises:
            ValueError: There are not four square views.
        """
        if views.dim() != 4 or len(views) != 4:
            raise ValueError(f"an asset is made of four views (4, S, S, 3), got {tuple(views.shape)}")
        grid = pack(views[..., :3].permute(0, 3, 1, 2).float())
        return (_views_to_3d(stage2)(to_views(grid), resolution=resolution),)


class SaveGLB:
    """An asset to a .glb in ComfyUI's output folder, for its 3D preview."""

    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING",), ("model_file",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Declare the inputs as ComfyUI expects them."""
        low, high = TEXTURE_SIDES
        return {
            "required": {
                "asset": (ASSET,),
                "filename_prefix": ("STRING", {"default": "instant3d/asset"}),
                "faces": ("INT", {"default": DEFAULT.faces, "min": 4, "max": MAX_FACES}),
                "texture": ("INT", {"default": DEFAULT.texture, "min": low, "max": high, "step": 16}),
            }
        }

    def run(self, asset: Asset, filename_prefix: str, faces: int, texture: int) -> dict[str, Any]:
        """Write the mesh; its name is the one that ComfyUI's 3D preview takes."""
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        file = f"{name}_{counter:05}_.glb"
        asset.build_mesh(MeshOptions(faces, texture)).mesh.save(Path(folder) / file)
        shown = {"filename": file, "subfolder": subfolder, "type": "output"}
        return {"ui": {"3d": [shown]}, "result": (str(Path(subfolder) / file),)}


@lru_cache(maxsize=1)
def _text_to_3d(stage1: str) -> TextTo3D:
    return TextTo3D.from_pretrained(None if stage1 == BUNDLED else stage1, device=find_device("auto"))


@lru_cache(maxsize=1)
def _views_to_3d(stage2: str) -> ViewsTo3D:
    source = bundled.weights_folder(bundled.STAGE2) if stage2 == BUNDLED else stage2
    return ViewsTo3D.from_pretrained(source, torch.device(find_device("auto")))


NODE_CLASS_MAPPINGS = {
    "Instant3DTextToViews": TextToViews,
    "Instant3DViewsTo3D": ViewsToAsset,
    "Instant3DSaveGLB": SaveGLB,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "Instant3DTextToViews": "Text to views",
    "Instant3DViewsTo3D": "Views to 3D",
    "Instant3DSaveGLB": "Save GLB",
}
