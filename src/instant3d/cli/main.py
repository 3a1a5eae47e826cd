"""The command `instant3d`: parses arguments and dispatches to commands, whose modules are imported late."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence

from instant3d import __version__
from instant3d.cli import (
    cache_options,
    data,
    doctor_options,
    evaluate_options,
    generate_options,
    mesh_command,
    models_command,
    reconstruct_options,
    scene_options,
    serve_command,
    weights_options,
)
from instant3d.utils import atomic
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.signals import Terminated, ended_by_signals

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
        with ended_by_signals():
            return _run(arguments, debug)
    except Terminated as end:
        print_escaped(f"instant3d: ended by {end.signal}", sys.stderr)
        raise
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
    with warnings.catch_warnings():
        warnings.showwarning = _note  # type: ignore[assignment]
        if getattr(parsed, "output", None) is not None:
            for path in atomic.prepare_output(parsed.output, is_file=getattr(parsed, "output_is_file", False)):
                warnings.warn(f"{path}, which a killed run had left, is removed", stacklevel=2)
        return command(parsed) or 0


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands and their options."""
    top = argparse.ArgumentParser("instant3d", description="A sentence, or four posed views, to a 3D asset.")
    top.add_argument("--version", action="version", version=f"instant3d {__version__}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    generate_options.add(commands.add_parser("generate", help="prompts to meshes, triplanes and images"))
    reconstruct_options.add_reconstruct(
        commands.add_parser("reconstruct", help="a scene folder, or an image, to a mesh, a triplane and images")
    )
    mesh_command.add(commands.add_parser("mesh", help="another mesh of a saved asset"))
    serve_command.add(commands.add_parser("serve", help="a page and an API in the browser, on this machine"))
    evaluate = commands.add_parser("evaluate", help="measure reconstructions, or assets of prompts")
    kinds = evaluate.add_subparsers(required=True, metavar="WHAT")
    reconstruct_options.add_evaluation(kinds.add_parser("reconstruction", help="stage 2, compared with two baselines"))
    evaluate_options.add_text(kinds.add_parser("text", help="whether assets match their prompts"))
    evaluate_options.add_consistency(kinds.add_parser("consistency", help="whether stage 1's views are consistent"))
    weights_options.add_export(commands.add_parser("export", help="a training checkpoint to a folder of weights"))
    weights_options.add_convert(
        commands.add_parser("convert", help="weights released by peers to a folder of weights, and back")
    )
    models_command.add_models(commands.add_parser("models", help="released checkpoints that can be run, in pairs"))
    models_command.add_fetch(commands.add_parser("fetch", help="download and convert released checkpoints"))
    scene_options.add_import(commands.add_parser("import", help="objects in another project's layout to scene folders"))
    scene_options.add_pack(commands.add_parser("pack", help="scene folders to a few tar files"))
    scene_options.add_unpack(commands.add_parser("unpack", help="tar files that pack wrote to scene folders"))
    weights_options.add_words(
        commands.add_parser("words", help="the words that weights were trained on, most frequent first")
    )
    cache_options.add(
        commands.add_parser("cache-stage1", help="scenes to latents and text embeddings, to train stage 1 from")
    )
    evaluate_options.add_training(commands.add_parser("train-judge", help="train the classifier of `evaluate text`"))
    doctor_options.add(commands.add_parser("doctor", help="faults of scenes, before they are trained on"))
    for name, text in (TRAINING | {"data": "objects, images of them, captions, curation: data --help"}).items():
        commands.add_parser(name, help=text, add_help=False)
    return top


def _note(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print our own warnings as one line; those of libraries are not shown."""
    if category is UserWarning:
        print_escaped(f"instant3d: note: {' '.join(str(message).split())}", sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
