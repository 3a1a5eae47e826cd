"""Loading of single components of an SDXL from files; each is loaded whole or refused with one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from instant3d.modules.diffusion import checkpoint_source as files
from instant3d.modules.diffusion.checkpoint_source import ALL, NETWORKS
from instant3d.modules.diffusion.sizes import check_sizes
from instant3d.utils.errors import LIBRARY_ERRORS, first_line


def kind_of(name: str) -> Any:
    """Class of a network.

    diffusers and transformers take seconds to import, so only the library that has the class is imported.
    """
    if name == "vision_encoder":
        import transformers

        return transformers.CLIPVisionModelWithProjection
    if name.startswith("text_encoder"):
        import transformers

        return transformers.CLIPTextModelWithProjection if name == "text_encoder_2" else transformers.CLIPTextModel
    import diffusers

    return diffusers.AutoencoderKL if name == "vae" else diffusers.UNet2DConditionModel


def load(folder: Path, name: str, dtype: torch.dtype) -> Any:
    """Load one component from its folder in diffusers' layout.

    Args:
        folder: Folder of the component.
        name: Name of the component, such as "unet".
        dtype: Precision of a network.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A file is damaged, or weights do not match their config.json.
    """
    if name == "scheduler":
        return _load_scheduler(folder)
    return load_tokenizer(folder) if name.startswith("tokenizer") else _load_network(folder, name, dtype)


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    config = files.read_json(folder / "scheduler_config.json")
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(
            f"{folder} names {config.get('_class_name')!r} as its scheduler, which diffusers does not have"
        )
    with without_warnings():
        return kind.from_config(config)


def load_tokenizer(folder: Path) -> Any:
    """Load a CLIP tokenizer from a folder.

    Raises:
        FileNotFoundError: The folder has no tokenizer.json, and vocab.json or merges.txt is missing.
        ValueError: A file is damaged.
    """
    from transformers import CLIPTokenizer

    # without these files transformers would silently build a vocabulary of three tokens
    if not (folder / "tokenizer.json").is_file():
        files.read_json(folder / "vocab.json")
        if not (folder / "merges.txt").is_file():
            raise FileNotFoundError(f"{folder} has no merges.txt beside its vocab.json; copy or download it again")
    try:
        with without_warnings():
            return CLIPTokenizer.from_pretrained(folder)
    except LIBRARY_ERRORS as error:
        raise ValueError(
            f"{folder} is not a usable tokenizer ({first_line(error)}); copy or download it again"
        ) from error


def _load_network(folder: Path, name: str, dtype: torch.dtype) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    mark = files.variant(folder, dtype)
    config = files.read_json(folder / "config.json")
    check_sizes(config, folder / "config.json")
    if config.get("force_upcast") and dtype == torch.float16:
        dtype = torch.float32
    settings = {"torch_dtype": dtype} if name in ("unet", "vae") else {"dtype": dtype, "ignore_mismatched_sizes": True}
    kind = kind_of(name)
    try:
        with without_warnings():
            network, report = kind.from_pretrained(
                folder, use_safetensors=True, variant=mark, output_loading_info=True, **settings
            )
    except (*LIBRARY_ERRORS, StrictDataclassError) as error:
        raise ValueError(f"{folder} does not hold the {kind.__name__} it should ({first_line(error)})") from None
    wrong = [str(key) for part in ("missing_keys", "mismatched_keys") for key in report[part]]
    if wrong:
        raise ValueError(
            f"{folder} does not hold the {kind.__name__} that its config.json describes: {len(wrong)} tensors are "
            f"missing or of another shape, such as {wrong[0]}"
        )
    return network.eval()


def load_single(file: Path, parts: Collection[str], dtype: torch.dtype) -> dict[str, Any]:
    """Load components of a single-file SDXL, in the layout of Stability AI's own code.

    Args:
        file: A .safetensors file of all weights.
        parts: Names of the components to load.
        dtype: Precision of the networks.

    Raises:
        FileNotFoundError: The settings beside the file are missing and cannot be downloaded.
        ValueError: The file is damaged, incomplete or no SDXL.
    """
    from diffusers import StableDiffusionXLPipeline

    settings = files.settings_of(file)
    for name in NETWORKS:
        if (settings / name / "config.json").is_file():
            check_sizes(files.read_json(settings / name / "config.json"), settings / name / "config.json")
    keys = files.check_whole(file)
    for prefix in ("model.diffusion_model.", "conditioner.embedders.1.", "first_stage_model."):
        if not any(key.startswith(prefix) for key in keys):
            raise ValueError(f"{file} is no single-file SDXL: it holds no tensor of {prefix}*; give another model")
    unwanted = {name: None for name in ALL if name not in parts}
    try:
        with without_warnings():
            pipeline = StableDiffusionXLPipeline.from_single_file(
                str(file), config=str(settings), local_files_only=True, torch_dtype=dtype, **unwanted
            )
        networks = [getattr(pipeline, name) for name in parts if name in NETWORKS]
        lacking = any(tensor.is_meta for network in networks for tensor in network.parameters())
    except NotImplementedError:  # raised by PyTorch when it casts a tensor that was never filled
        lacking = True
    except LIBRARY_ERRORS as error:
        raise ValueError(
            f"{file} does not hold the SDXL that {settings} describes ({first_line(error)}); give another model"
        ) from None
    if lacking:
        raise ValueError(f"{file} lacks tensors that {settings} describes; give another, or copy it again")
    components = {name: getattr(pipeline, name) for name in parts}
    if components.get("vae") is not None and components["vae"].config.force_upcast and dtype == torch.float16:
        components["vae"].float()
    return components


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence progress bars and log messages of diffusers and transformers; callers raise what matters as an error.

    Only libraries that are imported already are silenced: callers import what they need before.
    """
    names = ("diffusers.utils.logging", "transformers.utils.logging")
    libraries = [sys.modules[name] for name in names if name in sys.modules]
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity(logging.CRITICAL)
            library.disable_progress_bar()
        yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
