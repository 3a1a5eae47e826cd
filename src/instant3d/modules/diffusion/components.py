"""The components of an SDXL, as diffusers and transformers build, load and save them.

A folder in diffusers' layout, as `StableDiffusionXLPipeline` reads and writes it:
model_index.json  scheduler/  text_encoder/  text_encoder_2/  tokenizer/  tokenizer_2/  unet/  vae/
"""

from __future__ import annotations

import copy
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
from instant3d.modules.diffusion.sizes import check_sizes
from instant3d.modules.diffusion.view_layout import ViewLayout
from instant3d.modules.xformers_attention import NOT_USABLE, silenced
from instant3d.utils import atomic
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.errors import first_line

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "dpm++": "DPMSolverMultistepScheduler",  # second order, multistep (Lu et al. 2022, DPM-Solver++ 2M)
    "lcm": "LCMScheduler",  # for weights distilled to few steps (Luo et al. 2023); adds new noise at every step
}
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


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


def build_scheduler(config: Mapping[str, Any], name: str, spacing: str | None = None) -> Any:
    """Build a sampler, one of SAMPLERS, over the noise schedule in a scheduler's configuration.

    Args:
        config: Configuration of any diffusers scheduler.
        name: Key of SAMPLERS.
        spacing: Which of the T = 1000 training timesteps n steps visit: "leading" multiples of T // n (so that
            sampling begins below T: at 958 of 999 for 30 steps of SDXL), "trailing" those that end at T - 1,
            "linspace" both ends; by default that of `config`. Lin et al. 2023 (table 2) find trailing best for few
            steps. DDIM, which diffusers lets step by T // n whatever is visited, takes trailing in linspace's place.

    Raises:
        ValueError: There is no such sampler.
    """
    import diffusers

    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}; choose among {', '.join(SAMPLERS)}")
    # latents are not images, so their values must not be clipped to [-1, 1]
    settings = {**config, "clip_sample": False, "thresholding": False}
    # else what was left to the defaults of another class would change when the scheduler is saved and loaded
    settings.pop("_use_default_values", None)
    if spacing is not None:
        settings["timestep_spacing"] = spacing
    if name == "ddim" and settings.get("timestep_spacing") == "linspace":
        settings["timestep_spacing"] = "trailing"
    with without_warnings():
        return getattr(diffusers, SAMPLERS[name]).from_config(settings)


def with_lora(unet: Any, rank: int, alpha: float) -> Any:
    """Freeze a UNet and add trainable LoRA weights (alpha / rank) B A to the projections of all its attention layers.

    Args:
        unet: Changed in place and returned.
        rank: Rank of the update, at least 1.
        alpha: Its scale; only alpha / rank matters (Hu et al. 2021, section 4.1).

    Raises:
        ValueError: `rank` is below 1.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, got {rank}; give a positive lora_rank")
    # peft declares `lora_alpha` as an int but only divides it by the rank
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS))  # type: ignore[arg-type]
    return unet


def merge_lora(unet: Any) -> Any:
    """Fold the LoRA weights of `with_lora` into the UNet's own, and make all of it trainable again."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet.requires_grad_(True)


def save_lora(unet: Any, folder: str | Path) -> None:
    """Write the LoRA weights of `with_lora` alone, as `pytorch_lora_weights.safetensors` in diffusers' naming."""
    from diffusers import StableDiffusionXLPipeline
    from peft import get_peft_model_state_dict

    layers = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(unet).items()}
    settings = unet.peft_config["default"].to_dict()
    StableDiffusionXLPipeline.save_lora_weights(folder, unet_lora_layers=layers, unet_lora_adapter_metadata=settings)


def with_xformers(unet: Any) -> Any:
    """Replace a UNet's attention by xformers' memory-efficient attention; CUDA only.

    Raises:
        ValueError: The UNet is not on a CUDA device, or xformers is not installed or has no kernel for the installed
            torch.
    """
    if unet.device.type != "cuda":
        raise ValueError(f"xformers works on CUDA only, but the UNet is on {unet.device}; leave PyTorch's attention")
    try:
        with silenced():
            unet.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError:
        raise ValueError("xformers is not installed; `pip install 'instant3d[xformers]'`") from None
    except NOT_USABLE as error:
        raise ValueError(
            f"the installed xformers has no kernel for torch {torch.__version__} here ({first_line(error)}); leave "
            "PyTorch's attention"
        ) from None
    return unet


def write(part: Any, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write a component into an existing folder, in diffusers' layout.

    Args:
        part: A network, tokenizer, scheduler or other component; it is unchanged.
        name: Its name, such as "unet".
        folder: The component's own folder.
        dtype: Precision in which a network is stored.

    Raises:
        ValueError: The network has LoRA weights that are not merged.
    """
    if name in (*NETWORKS, "vision_encoder"):
        _write_network(part, name, folder, dtype)
        return
    part.save_pretrained(folder)
    if name.startswith("tokenizer"):
        part.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt, all that transformers 4 reads


def _write_network(network: Any, name: str, folder: Path, dtype: torch.dtype) -> None:
    """Write settings and weights; tensors are cast one at a time, so that the network itself is unchanged."""
    from safetensors.torch import save_file

    if any("lora_" in key for key in network.state_dict()):
        raise ValueError(f"the {name} has LoRA weights, which plain diffusers would not read; merge them first")
    if name.endswith(("encoder", "encoder_2")):
        config = copy.deepcopy(network.config)
        # not `dtype`: transformers would load the encoder in it by default, but diffusers loads the UNet in float32
        config.architectures, config.dtype = [type(network).__name__], torch.float32
        config.save_pretrained(folder)
    else:
        network.save_config(folder)
        _remove_origin(folder / "config.json")
    # the Hub's own names: this network lost its prefix in transformers 5.6, which still reads them, as older ones do
    prefix = "text_model." if name == "text_encoder" and not hasattr(network, "text_model") else ""
    tensors = {
        prefix + key: value.detach().to("cpu", dtype).contiguous() for key, value in network.state_dict().items()
    }
    path = folder / (
        "model.safetensors" if name.endswith(("encoder", "encoder_2")) else "diffusion_pytorch_model.safetensors"
    )
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod((folder / "config.json").stat().st_mode)  # `save_file` lets only its owner read


def _remove_origin(config: Path) -> None:
    """Remove the folder that a network was loaded from, which diffusers notes: it names a user's paths."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
