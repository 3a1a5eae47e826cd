"""Options of `instant3d cache-stage1`."""

from __future__ import annotations

import argparse
import os

from instant3d.utils.arg_types import nonempty, nonempty_path, nonnegative_int, positive_int, share


def add(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d cache-stage1`."""
    command.add_argument(
        "scenes", nargs="+", help="folders of scene folders or of shards, or URLs of shards; each scene has a caption"
    )
    command.add_argument(
        "--model",
        type=nonempty,
        required=True,
        help="model with the VAE and text encoders: a folder, Hub id or .safetensors",
    )
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder of the cache; an interrupted one is continued"
    )
    command.add_argument("--keep", type=nonempty_path, help="text file of the ids to take (default: all)")
    command.add_argument("--batch", type=positive_int, default=16, help="grids encoded at once (default 16)")
    command.add_argument(
        "--prompts", nargs="+", default=["{}"], help="prompts of a scene, {} being its caption (default: just that)"
    )
    command.add_argument(
        "--word-dropout",
        type=share,
        default=0.0,
        metavar="P",
        help="add a prompt beside each, from which every word is left out with this probability (default 0: none)",
    )
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    command.add_argument(
        "--workers",
        type=nonnegative_int,
        default=os.cpu_count() or 1,
        help="processes that read scenes ahead (default: one per core; 0: none)",
    )
    command.set_defaults(command=_cache)


def _cache(arguments: argparse.Namespace) -> None:
    from instant3d.stage1.cache_builder import build_cache
    from instant3d.utils.devices import find_device
    from instant3d.utils.progress import Progress

    build_cache(
        arguments.scenes,
        arguments.model,
        arguments.output,
        keep=arguments.keep,
        batch=arguments.batch,
        templates=arguments.prompts,
        word_dropout=arguments.word_dropout,
        device=find_device(arguments.device),
        workers=arguments.workers,
        progress=Progress.to_user(),
    )
