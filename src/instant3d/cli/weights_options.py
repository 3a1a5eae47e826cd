"""Options of `instant3d export`, `convert` and `words`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from instant3d.utils import atomic, bundled
from instant3d.utils.arg_types import nonempty_path, positive_int
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.errors import escape_control, print_escaped


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d export`."""
    command.add_argument("checkpoint", type=nonempty_path, help="a .ckpt that `instant3d fit` wrote")
    command.add_argument("-o", "--output", type=nonempty_path, required=True, help="folder for the weights")
    command.add_argument(
        "--base",
        help="the parts that were not trained, if they are elsewhere now: stage 1's model, direct's text encoder",
    )
    command.add_argument(
        "--lora", action="store_true", help="of a stage 1 trained by LoRA: write that alone, for `generate --lora`"
    )
    command.add_argument(
        "--rank",
        type=positive_int,
        help="with --lora, of a stage 1 trained as a whole: the rank of the LoRA that comes closest to it",
    )
    command.set_defaults(command=_export)


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d convert`."""
    command.add_argument("family", choices=("instantmesh", "openlrm", "triposr", "grm-instant3d", "zero123plus"))
    command.add_argument("source", help="a file (.safetensors .ckpt .pth), a folder, a Hub id, or owner/name/file")
    command.add_argument(
        "-o", "--output", type=nonempty_path, help="folder for the weights, their configuration and licence"
    )
    command.add_argument("--check", action="store_true", help="write nothing; report what would be written")
    command.add_argument(
        "--config", type=nonempty_path, help="JSON or YAML with the network's sizes, if none is beside it"
    )
    command.add_argument(
        "--image-size", type=positive_int, help="pixels it was trained with, if the release is unknown"
    )
    command.add_argument("--half", action="store_true", help="store float16: half the size, faster, less exact")
    command.add_argument("--back", action="store_true", help="SOURCE is our folder: write the family's own .ckpt")
    command.set_defaults(command=_convert)


def add_words(command: argparse.ArgumentParser) -> None:
    """Add the options of `instant3d words`."""
    command.add_argument(
        "folder", nargs="?", type=Path, help=f"a stage 1 or the direct system (default {bundled.STAGE1})"
    )
    command.set_defaults(command=_words)


def _export(arguments: argparse.Namespace) -> None:
    from instant3d.training import fit

    if arguments.rank and not arguments.lora:
        raise ValueError("--rank is the rank of the LoRA weights that --lora writes; give --lora too, or leave it out")
    with atomic.merged(arguments.output) as partial:
        network = fit.export(
            arguments.checkpoint, partial, arguments.base, lora_only=arguments.lora, rank=arguments.rank
        )
        files = sorted(str(path.relative_to(partial)) for path in partial.rglob("*.safetensors"))
    count = sum(parameter.numel() for parameter in network.parameters())
    print_escaped(f"{arguments.output}: {', '.join(files)} ({count / 1e6:.1f} M trained parameters)")


def _convert(arguments: argparse.Namespace) -> int:
    from instant3d.pipelines import convert

    if arguments.output is None and not arguments.check:
        raise ValueError("name a folder to write into by -o, or use --check to only inspect")
    if arguments.family in convert.VIEW_GENERATORS:
        return _convert_view_generator(arguments)
    given = {"config": arguments.config, "image_size": arguments.image_size}
    if arguments.back:
        lines = convert.write_back(arguments.family, arguments.source, None if arguments.check else arguments.output)
    elif arguments.check:
        conversion = convert.inspect(arguments.family, arguments.source, **given)
        print_escaped("\n".join(conversion.report()))
        return 2 if conversion.missing or conversion.unexpected else 0
    else:
        conversion = convert.convert(arguments.family, arguments.source, arguments.output, half=arguments.half, **given)
        lines = [*conversion.report(), f"{arguments.output}: config.json, model.safetensors, {convert.LICENCE_FILE}"]
    print_escaped("\n".join(lines))
    return 0


def _convert_view_generator(arguments: argparse.Namespace) -> int:
    import torch

    from instant3d.pipelines import convert

    if arguments.back or arguments.image_size:
        raise ValueError(f"{arguments.family} takes neither --back nor --image-size; leave them out")
    conversion = convert.VIEW_GENERATORS[arguments.family](arguments.source, config=arguments.config)
    lines = conversion.report()
    if not arguments.check:
        conversion.save(arguments.output, arguments.source, torch.float16 if arguments.half else torch.float32)
        lines.append(f"{arguments.output}: a folder in diffusers' layout with views.json, {convert.LICENCE_FILE}")
    print_escaped("\n".join(lines))
    return 2 if conversion.missing or conversion.unexpected else 0


def _words(arguments: argparse.Namespace) -> None:
    folder = Path(bundled.weights_folder(bundled.STAGE1, arguments.folder, option="FOLDER"))
    tokenizer = folder / "tokenizer"
    if not tokenizer.is_dir():
        raise FileNotFoundError(f"{folder} is no folder with a tokenizer/, as a stage 1 or the direct system has")
    listed = CaptionWords.read(tokenizer)
    if listed is None:
        raise FileNotFoundError(
            f"{folder} does not list its words: only weights that were trained from nothing do, and a text encoder "
            "that was trained elsewhere, such as SDXL's, reads any prompt in its language"
        )
    try:
        print("\n".join("\t".join(map(escape_control, line.split("\t"))) for line in listed.lines()), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
