"""SDXL's parts, as diffusers and transformers make, load and save them: the one door to both. Knows nothing of views.

A folder in diffusers' layout, as `StableDiffusionXLPipeline` reads and writes it:
model_index.json  scheduler/  text_encoder/  text_encoder_2/  tokenizer/  tokenizer_2/  unet/  vae/
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from instant3d import atomic

ALL = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler")
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")


@dataclass
class Components:
    """The parts; each is None when it was not asked for."""

    tokenizer: Any = None
    tokenizer_2: Any = None
    text_encoder: Any = None
    text_encoder_2: Any = None
    unet: Any = None
    vae: Any = None
    scheduler: Any = None

    @classmethod
    def load(
        cls, source: str | Path, *, parts: Collection[str] = ALL, dtype: torch.dtype = torch.float32
    ) -> Components:
        """Read `parts` from a folder in diffusers' layout, a Hub id or one .safetensors file, networks in `dtype`."""
        folder = Path(source)
        return cls(**{name: _load(folder, name, dtype) for name in parts})

    @classmethod
    def build(cls, sizes: Mapping[str, Mapping[str, Any]], tokenizer_folder: str | Path) -> Components:
        """Random weights by the real constructors: `sizes` holds the configuration of each network and the scheduler."""
        tokenizer, tokenizer_2 = (_class("tokenizer").from_pretrained(tokenizer_folder) for _ in range(2))
        made = {name: _make(name, sizes[name], tokenizer) for name in (*NETWORKS, "scheduler")}
        return cls(tokenizer=tokenizer, tokenizer_2=tokenizer_2, **made)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write all parts, networks in `dtype`, so that `StableDiffusionXLPipeline.from_pretrained(folder)` opens it."""
        with atomic.merged(folder) as partial:
            for name in ALL:
                _save(getattr(self, name), partial / name, dtype)
            (partial / "model_index.json").write_text(json.dumps(self._index(), indent=2) + "\n")

    def _index(self) -> dict[str, Any]:
        import diffusers

        kinds = {name: type(getattr(self, name)) for name in ALL}
        parts = {name: [kind.__module__.split(".")[0], kind.__name__] for name, kind in kinds.items()}
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "_diffusers_version": diffusers.__version__,
            "force_zeros_for_empty_prompt": True,
            **dict(sorted(parts.items())),
        }

    def to(self, device: str | torch.device) -> Self:
        """Move the networks."""
        for name in NETWORKS:
            if getattr(self, name) is not None:
                getattr(self, name).to(device)
        return self

    @property
    def vae_factor(self) -> int:
        """Pixels a side for each latent: the VAE halves once between levels."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def grid_size(self) -> int:
        """Pixels a side of the pictures that the UNet was made for."""
        return self.unet.config.sample_size * self.vae_factor


def _class(name: str) -> Any:
    """The class of a part."""
    import diffusers
    import transformers

    return {
        "tokenizer": transformers.CLIPTokenizer,
        "tokenizer_2": transformers.CLIPTokenizer,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
    }[name]


def _make(name: str, config: Mapping[str, Any], tokenizer: Any) -> Any:
    if name == "scheduler":
        return schedule(config, "ddim")
    if name.startswith("text_encoder"):
        marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        from transformers import CLIPTextConfig

        return _class(name)(CLIPTextConfig(**{**sizes, **marks, "pad_token_id": tokenizer.pad_token_id, **config}))
    return _class(name)(**config)


def _load(folder: Path, name: str, dtype: torch.dtype) -> Any:
    if name == "scheduler":
        import diffusers

        config = json.loads((folder / name / "scheduler_config.json").read_text())
        return getattr(diffusers, config["_class_name"]).from_config(config)
    if name.startswith("tokenizer"):
        return _class(name).from_pretrained(folder / name)
    kind = "dtype" if name.startswith("text") else "torch_dtype"
    return _class(name).from_pretrained(folder / name, use_safetensors=True, **{kind: dtype}).eval()


def _save(part: Any, folder: Path, dtype: torch.dtype) -> None:
    import copy

    if isinstance(part, torch.nn.Module):
        part = copy.deepcopy(part).to(dtype)
    part.save_pretrained(folder)


def schedule(config: Mapping[str, Any], name: str) -> Any:
    """The named sampler over the noise schedule of a scheduler's `config`."""
    import diffusers

    kinds = {"ddim": diffusers.DDIMScheduler, "euler": diffusers.EulerDiscreteScheduler}
    return kinds[name].from_config(dict(config))


def with_lora(unet: Any, rank: int, alpha: float) -> Any:
    """The UNet, frozen but for low-rank additions to the projections of its attention."""
    from peft import LoraConfig

    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=["to_q", "to_k", "to_v", "to_out.0"])  # type: ignore[arg-type]
    )
    return unet


def merge_lora(unet: Any) -> Any:
    """The UNet with the additions of `with_lora` folded into its weights."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet
