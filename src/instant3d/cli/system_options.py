"""Options of the two systems; options of the system that is not chosen are refused, not ignored."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from instant3d.stage1.sampling_options import SAMPLERS, STARTS
from instant3d.utils import bundled
from instant3d.utils.arg_types import positive_int, share

SAMPLING = ("steps", "guidance", "guidance_stop", "rescale", "sampler", "start")
# with their defaults; parsers leave them None, so that given ones can be recognised
OWN: dict[str, dict[str, Any]] = {
    "two-stage": {
        "stage1": None,
        "stage2": None,
        "real": None,
        "negative": None,
        "lora": (),
        "torch_compile": False,
        **dict.fromkeys(SAMPLING),
    },
    "direct": {"direct": None},
}
TWO_STAGE = "two-stage"  # the default


def add_system(group: argparse._ActionsContainer) -> None:
    """Declare --system and the options of its weights."""
    group.add_argument("--system", choices=list(OWN), default=TWO_STAGE, help=f"(default {TWO_STAGE})")
    add_stages(group)
    group.add_argument("--direct", help=f"direct system: checkpoint folder or Hub id (default {bundled.DIRECT})")


def add_stages(group: argparse._ActionsContainer) -> None:
    """Declare the options of the two stages' weights."""
    group.add_argument("--stage1", help=f"folder in diffusers' layout or Hub id (default {bundled.STAGE1})")
    group.add_argument("--stage2", help=f"checkpoint folder or Hub id (default {bundled.STAGE2})")


def add_sampling(group: argparse._ActionsContainer) -> None:
    """Declare the options of sampling; those that are not given are as the folder of stage 1 recommends."""
    group.add_argument("--steps", type=positive_int, help="of denoising (default: as stage 1's folder says, else 30)")
    add_guidance(group)
    group.add_argument("--rescale", type=float, help="0 to 1: against oversaturation (default: stage 1's, else 0)")
    group.add_argument(
        "--sampler", choices=SAMPLERS, help="(default: stage 1's, else euler; lcm for distilled weights, --guidance 1)"
    )
    group.add_argument("--start", choices=STARTS, help="initial image under the noise (default: stage 1's, else blob)")


def add_guidance(group: argparse._ActionsContainer) -> None:
    """Declare the options of classifier-free guidance."""
    group.add_argument("--guidance", type=float, help="how close to the prompt (default: stage 1's, else 5)")
    group.add_argument(
        "--guidance-stop", type=share, metavar="SHARE", help="of the steps with guidance (default: stage 1's, else 1)"
    )


def sampling_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of sampling that were given, as fields of `Sampling`, and None for the others."""
    return {name: getattr(arguments, name) for name in SAMPLING}


def add_lora(group: argparse._ActionsContainer) -> None:
    """Declare --lora, which may be repeated."""
    group.add_argument(
        "--lora",
        action="append",
        metavar="FILE[:WEIGHT]",
        help="LoRA for stage 1: .safetensors file, folder or Hub id (owner/name or owner/name/FILE); repeatable",
    )


def absolute_loras(values: Sequence[str] | None) -> list[str]:
    """Return the values of --lora with absolute paths, for workers that run in other folders."""
    if not values:
        return []
    from instant3d.modules.diffusion.lora import Lora  # with torch, which a server does not need otherwise

    found = [Lora.parse(text).absolute() for text in values]
    return [f"{lora.source}:{lora.weight}" for lora in found]


def settle(arguments: argparse.Namespace) -> None:
    """Refuse options of the system that is not chosen, and set the defaults of the chosen one.

    Args:
        arguments: The parsed options, which are changed in place.

    Raises:
        ValueError: An option of the other system was given.
    """
    chosen = getattr(arguments, "system", TWO_STAGE)
    for system, options in OWN.items():
        for name in options.keys() & vars(arguments).keys():
            if getattr(arguments, name) is None:
                setattr(arguments, name, options[name] if system == chosen else None)
            elif system != chosen:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{option} belongs to the {system} system, but {chosen} is chosen; leave it out, or use "
                    f"--system {system}"
                )
