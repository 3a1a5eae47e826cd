"""The components of an SDXL, as diffusers and transformers build, load and save them.

A folder in diffusers' layout, as `StableDiffusionXLPipeline` reads and writes it:
model_index.json  scheduler/  text_encoder/  text_encoder_2/  tokenizer/  tokenizer_2/  unet/  vae/
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from instant3d.modules.diffusion import checkpoint_source as files
from instant3d.modules.diffusion.checkpoint_source import ALL, NETWORKS
from instant3d.modules.diffusion.compatibility import check
from instant3d.modules.diffusion.loading import kind_of, load, load_single, load_tokenizer, without_warnings
from instant3d.modules.diffusion.saving import write
from instant3d.modules.diffusion.schedulers import build_scheduler
from instant3d.modules.diffusion.sizes import check_sizes
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.utils import atomic
from instant3d.utils.caption_words import CaptionWords


@dataclass
class Components:
    """The components of an SDXL; each is None if it was not loaded.

    Attributes:
        tokenizer: CLIP tokenizer of `text_encoder`.
        tokenizer_2: CLIP tokenizer of `text_encoder_2`.
        text_encoder: `transformers.CLIPTextModel`.
        text_encoder_2: `transformers.CLIPTextModelWithProjection`.
        unet: `diffusers.UNet2DConditionModel`.
        vae: `diffusers.AutoencoderKL`.
        scheduler: A diffusers scheduler; its configuration holds the noise schedule.
        words: Words of the captions that the model was trained on, if its tokenizer comes with a list of them.
        layout: Cameras of the views in its grids, and how these are sampled.
    """

    tokenizer: Any = None
    tokenizer_2: Any = None
    text_encoder: Any = None
    text_encoder_2: Any = None
    unet: Any = None
    vae: Any = None
    scheduler: Any = None
    words: CaptionWords | None = None
    layout: ViewLayout = field(default_factory=ViewLayout)

    @classmethod
    def load(
        cls, source: str | Path, *, parts: Collection[str] = ALL, dtype: torch.dtype = torch.float32
    ) -> Components:
        """Load components from a folder in diffusers' layout, a Hub id or one .safetensors file.

        Args:
            source: Folder, Hub id or file.
            parts: Names of the components to load.
            dtype: Precision of the networks; a half one prefers files marked fp16. The VAE stays in float32 where its
                settings say that it overflows in float16 (`force_upcast`), except that the Hub's SDXL gets the one of
                `checkpoint_source.SAFE_VAE` instead.

        Raises:
            FileNotFoundError: The source or a file of it does not exist.
            ValueError: A file is damaged, of another kind, or two components do not fit together.
        """
        unknown = sorted(set(parts) - set(ALL))
        if unknown:
            raise ValueError(f"a model has no part {unknown[0]!r}; its parts are {', '.join(ALL)}")
        if Path(source).is_file():
            components = cls(**load_single(Path(source), parts, dtype))
        else:
            folders = files.folders(source, parts, dtype)
            components = cls(**{name: load(folder, name, dtype) for name, folder in folders.items()})
            components.words = CaptionWords.read(folders["tokenizer"]) if "tokenizer" in folders else None
            components.layout = ViewLayout.read(folders["unet"].parent) if "unet" in folders else ViewLayout()
        check(vars(components), str(source))
        return components

    @classmethod
    def build(cls, sizes: Mapping[str, Mapping[str, Any]], tokenizer_folder: str | Path) -> Components:
        """Build all components with random weights.

        Args:
            sizes: A configuration for each network and the scheduler; what the tokenizer decides (vocabulary, marks,
                length) may be left out.
            tokenizer_folder: Folder of a CLIP tokenizer, used for both encoders.

        Raises:
            ValueError: A size is out of range, or two components do not fit together.
        """
        tokenizer, tokenizer_2 = (load_tokenizer(Path(tokenizer_folder)) for _ in range(2))
        from_tokenizer = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        made = {
            name: build_part(name, {**from_tokenizer, **sizes[name]} if name.startswith("text") else sizes[name])
            for name in (*NETWORKS, "scheduler")
        }
        components = cls(tokenizer=tokenizer, tokenizer_2=tokenizer_2, **made)
        check(vars(components), "the given sizes")
        return components

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Save all components in the layout that `StableDiffusionXLPipeline.from_pretrained(folder)` opens.

        Args:
            folder: Where to write; other files there are kept.
            dtype: Precision of the saved networks.

        Raises:
            ValueError: A component was not loaded, or the UNet has LoRA weights that are not merged.
        """
        missing = [name for name in ALL if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"a model is saved as a whole, but its {', '.join(missing)} were not loaded; load all parts"
            )
        with atomic.merged(folder) as partial:
            self.write(partial, dtype)

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the components that are loaded into an existing folder; see `save`."""
        for name in ALL:
            if getattr(self, name) is not None:
                (folder / name).mkdir()
                write(getattr(self, name), name, folder / name, dtype)
        if self.words is not None:
            self.words.write(folder / "tokenizer")
        if self.layout != ViewLayout():
            self.layout.write(folder)
        (folder / "model_index.json").write_text(json.dumps(self._index(), indent=2) + "\n")

    def _index(self) -> dict[str, Any]:
        import diffusers

        kinds = {name: type(part) for name in sorted(ALL) if (part := getattr(self, name)) is not None}
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": diffusers.__version__,
            "force_zeros_for_empty_prompt": True,
            **{name: [kind.__module__.split(".")[0], kind.__name__] for name, kind in kinds.items()},
        }

    @property
    def parts(self) -> dict[str, Any]:
        """The components by name, as `StableDiffusionXLPipeline` takes them."""
        return {name: getattr(self, name) for name in ALL}

    def to(self, device: str | torch.device) -> Self:
        """Move the networks."""
        for name in NETWORKS:
            if getattr(self, name) is not None:
                getattr(self, name).to(device)
        return self

    @property
    def vae_factor(self) -> int:
        """Pixels a side for each latent: the VAE halves the resolution once between its levels.

        Raises:
            ValueError: The VAE was not loaded.
        """
        if self.vae is None:
            raise ValueError(
                "the number of pixels of one latent depends on the VAE, which was not loaded; load the part 'vae'"
            )
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def grid_size(self) -> int:
        """Pixels a side of the images that the UNet was built for."""
        return self.unet.config.sample_size * self.vae_factor


def build_part(name: str, config: Mapping[str, Any]) -> Any:
    """Build one network with random weights, or the scheduler, on the current default device.

    Args:
        name: Name of the component.
        config: Its configuration, as config.json or scheduler_config.json holds it.

    Raises:
        ValueError: A size is out of range.
    """
    if name == "scheduler":
        return build_scheduler(config, "euler")
    check_sizes(config, name)
    kind = kind_of(name)
    with without_warnings():
        if name.endswith(("encoder", "encoder_2")):
            from transformers import CLIPTextConfig, CLIPVisionConfig

            settings = CLIPVisionConfig if name == "vision_encoder" else CLIPTextConfig
            return kind(settings(**config)).eval()
        return kind(**config).eval()
