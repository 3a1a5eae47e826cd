"""The command `instant3d`: parses arguments and dispatches to commands, whose modules are imported late."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from instant3d import __version__
from instant3d.cli import (
    data,
    doctor_options,
    evaluate_options,
    generate_options,
    mesh_command,
    models_command,
    scene_options,
    view_generator_options,
)
from instant3d.cli.format_options import add_formats, mesh_options
from instant3d.utils import atomic, bundled
from instant3d.utils.arg_types import (
    byte_size,
    frame_numbers,
    nonempty,
    nonempty_path,
    nonnegative_int,
    positive_int,
)
from instant3d.utils.caption_words import CaptionWords
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.memory_limits import MemoryLimits

TRAINING = {
    "fit": "train stage1, stage2 or direct: fit stage2 -c cpu -c demo",
    "validate": "measure a checkpoint of stage1, stage2 or direct on the validation scenes or prompts",
    "test": "measure a checkpoint of stage1, stage2 or direct on the test scenes or prompts",
    "predict": "views of many prompts by stage1, triplanes of many scenes by stage2, of many prompts by direct",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad input is reported as one sentence on stderr; --debug raises the exception instead.

    Args:
        argv: The words after `instant3d`; None: those of the command line.

    Returns:
        The exit code: 2 for bad input, 130 if interrupted, else that of the command.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return _run(arguments, debug)
    except KeyboardInterrupt:
        print_escaped("instant3d: interrupted", sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            raise
        print_escaped(f"instant3d: error: {format_error(error)}", sys.stderr)
        return 2


def _run(arguments: list[str], debug: bool) -> int:
    if arguments and arguments[0] in TRAINING:
        from instant3d.training import fit

        fit.main(arguments)
        return 0
    if arguments[:1] == ["data"]:
        return data.main(arguments[1:])
    parsed = parser().parse_args(arguments, argparse.Namespace(debug=debug))
    command: Callable[[argparse.Namespace], int | None] = parsed.command
    with _ended_by_signals(), warnings.catch_warnings():
        warnings.showwarning = _note  # type: ignore[assignment]
        if getattr(parsed, "output", None) is not None:
            _prepare_output(parsed.output, is_file=getattr(parsed, "output_is_file", False))
        return command(parsed) or 0


def _prepare_output(output: Path, *, is_file: bool) -> None:
    """Refuse an output that cannot be written before anything is computed; remove what killed runs left there."""
    if output.is_file() and not is_file:
        raise ValueError(f"{output} is a file, but a folder will be written there; name another path")
    atomic.check_writable(output)
    for folder in atomic.remove_leftovers(output):
        warnings.warn(f"{folder}, which a killed run had left, is removed", stacklevel=2)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the command, so that half-written folders are removed; an ignored one stays so."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in map(signal.Signals.__getitem__, names)}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as `nohup` does
    for number in handled:
        signal.signal(number, _terminated)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands and their options."""
    top = argparse.ArgumentParser("instant3d", description="A sentence, or four posed views, to a 3D asset.")
    top.add_argument("--version", action="version", version=f"instant3d {__version__}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    generate_options.add(commands.add_parser("generate", help="prompts to meshes, triplanes and images"))
    _add_reconstruct(
        commands.add_parser("reconstruct", help="a scene folder, or an image, to a mesh, a triplane and images")
    )
    mesh_command.add(commands.add_parser("mesh", help="another mesh of a saved asset"))
    evaluate = commands.add_parser("evaluate", help="measure reconstructions, or assets of prompts")
    kinds = evaluate.add_subparsers(required=True, metavar="WHAT")
    _add_evaluation(kinds.add_parser("reconstruction", help="stage 2, compared with two baselines"))
    evaluate_options.add_text(kinds.add_parser("text", help="whether assets match their prompts"))
    evaluate_options.add_consistency(kinds.add_parser("consistency", help="whether stage 1's views are consistent"))
    _add_export(commands.add_parser("export", help="a training checkpoint to a folder of weights"))
    _add_convert(commands.add_parser("convert", help="weights released by peers to a folder of weights, and back"))
    models_command.add_models(commands.add_parser("models", help="released checkpoints that can be run, in pairs"))
    models_command.add_fetch(commands.add_parser("fetch", help="download and convert released checkpoints"))
    scene_options.add_import(commands.add_parser("import", help="objects in another project's layout to scene folders"))
    scene_options.add_pack(commands.add_parser("pack", help="scene folders to a few tar files"))
    scene_options.add_unpack(commands.add_parser("unpack", help="tar files that pack wrote to scene folders"))
    _add_words(commands.add_parser("words", help="the words that weights were trained on, most frequent first"))
    _add_cache(commands.add_parser("cache-stage1", help="scenes to latents and text embeddings, to train stage 1 from"))
    evaluate_options.add_training(commands.add_parser("train-judge", help="train the classifier of `evaluate text`"))
    doctor_options.add(commands.add_parser("doctor", help="faults of scenes, before they are trained on"))
    for name, text in (TRAINING | {"data": "objects, images of them, captions, curation: data --help"}).items():
        commands.add_parser(name, help=text, add_help=False)
    return top


def _add_reconstruct(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "scene",
        type=nonempty_path,
        help="folder with transforms.json and images; or one image, for weights that take one",
    )
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for the results; other files in it stay"
    )
    _add_shared(command)
    command.add_argument(
        "--resolution", type=positive_int, default=256, help="nodes a side of the mesh's grid (default 256)"
    )
    add_formats(command)
    command.add_argument(
        "--max-memory", type=byte_size, default=MemoryLimits.scratch, help="for rendering and meshing (default 1G)"
    )
    view_generator_options.add(command)
    command.set_defaults(command=_reconstruct)


def _add_evaluation(command: argparse.ArgumentParser) -> None:
    command.add_argument("scenes", type=nonempty_path, nargs="+", help="scene folders, or folders of such")
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for metrics.json and the table"
    )
    _add_shared(command)
    command.add_argument("--resolution", type=positive_int, default=128, help="size of all images (default 128)")
    command.add_argument("--reference", type=nonempty_path, help="folder of true meshes, named like the scenes")
    command.add_argument(
        "--perceptual", type=nonempty_path, help="torchvision's VGG-16 weights (.pth), to measure LPIPS too"
    )
    command.set_defaults(command=_evaluate)


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", type=nonempty_path, help="a .ckpt that `instant3d fit` wrote")
    command.add_argument("-o", "--output", type=nonempty_path, required=True, help="folder for the weights")
    command.add_argument(
        "--base",
        help="the parts that were not trained, if they are elsewhere now: stage 1's model, direct's text encoder",
    )
    command.set_defaults(command=_export)


def _add_convert(command: argparse.ArgumentParser) -> None:
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


def _add_words(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", nargs="?", type=Path, help=f"a stage 1 or the direct system (default {bundled.STAGE1})"
    )
    command.set_defaults(command=_words)


def _add_cache(command: argparse.ArgumentParser) -> None:
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
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    command.add_argument(
        "--workers",
        type=nonnegative_int,
        default=os.cpu_count() or 1,
        help="processes that read scenes ahead (default: one per core; 0: none)",
    )
    command.set_defaults(command=_cache)


def _add_shared(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", help=f"checkpoint folder or Hub id (default {bundled.STAGE2})")
    command.add_argument(
        "--views", type=frame_numbers, help="input frames, such as 0,1,2,3 (default: the first four), or all"
    )
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


def _reconstruct(arguments: argparse.Namespace) -> None:
    from instant3d.pipelines.reconstruct import closing_line, reconstruct
    from instant3d.pipelines.weights import find_stage2

    result = reconstruct(
        arguments.scene,
        arguments.output,
        weights=find_stage2(arguments.weights, option="--weights"),
        views=arguments.views,
        resolution=arguments.resolution,
        formats=arguments.formats,
        options=mesh_options(arguments),
        size_mm=arguments.size_mm,
        device=arguments.device,
        max_memory=arguments.max_memory,
        views_by=arguments.views_by,
        sampling=view_generator_options.sampling(arguments),
    )
    print_escaped(closing_line(result, arguments.output))


def _evaluate(arguments: argparse.Namespace) -> None:
    from instant3d.evaluation import reconstruction
    from instant3d.pipelines.weights import find_stage2
    from instant3d.utils.devices import find_device

    if arguments.views == "all":
        raise ValueError(
            "an evaluation holds views back to compare with; name the input views, such as --views 0,1,2,3"
        )
    reconstruction.evaluate_reconstruction(
        arguments.scenes,
        weights=find_stage2(arguments.weights, option="--weights"),
        views=arguments.views or [0, 1, 2, 3],
        resolution=arguments.resolution,
        output=arguments.output,
        reference=arguments.reference,
        perceptual=arguments.perceptual and str(arguments.perceptual),
        device=find_device(arguments.device),
    )


def _export(arguments: argparse.Namespace) -> None:
    from instant3d.training import fit

    with atomic.merged(arguments.output) as partial:
        network = fit.export(arguments.checkpoint, partial, arguments.base)
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
        print("\n".join(listed.lines()), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _cache(arguments: argparse.Namespace) -> None:
    from instant3d.stage1 import cache
    from instant3d.utils.devices import find_device

    cache.build_cache(
        arguments.scenes,
        arguments.model,
        arguments.output,
        keep=arguments.keep,
        batch=arguments.batch,
        templates=arguments.prompts,
        device=find_device(arguments.device),
        workers=arguments.workers,
    )


def _note(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print our own warnings as one line; those of libraries are not shown."""
    if category is UserWarning:
        print_escaped(f"instant3d: note: {' '.join(str(message).split())}", sys.stderr)


def _terminated(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
