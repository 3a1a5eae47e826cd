"""Options of the two systems; options of the system that is not chosen are refused, not ignored."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from instant3d.stage1.sampling_options import Sampling
from instant3d.utils import bundled

# with their defaults; parsers leave them None, so that given ones can be recognised
OWN: dict[str, dict[str, Any]] = {
    "two-stage": {
        "stage1": None,
        "stage2": None,
        "real": None,
        "negative": None,
        "lora": (),
        **{name: getattr(Sampling, name) for name in ("steps", "guidance", "rescale", "sampler", "start")},
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
    from instant3d.modules.diffusion.lora import Lora

    found = [Lora.parse(text).absolute() for text in values or ()]
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
                raise ValueError(
                    f"--{name} belongs to the {system} system, but {chosen} is chosen; leave it out, or use "
                    f"--system {system}"
                )
