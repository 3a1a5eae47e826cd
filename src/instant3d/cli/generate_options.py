"""Options and output of `instant3d generate`; heavy modules are imported when the command runs."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d.cli.format_options import add_formats, mesh_options
from instant3d.cli.system_options import (
    absolute_loras,
    add_lora,
    add_sampling,
    add_system,
    sampling_options,
    settle,
)
from instant3d.utils import prompts
from instant3d.utils.arg_types import byte_size, nonempty_path, positive_int, seed
from instant3d.utils.errors import format_error, print_escaped
from instant3d.utils.progress import Progress

if TYPE_CHECKING:
    from instant3d.pipelines.generate import GenerationResult
    from instant3d.pipelines.generation_plan import GenerationRequest
    from instant3d.pipelines.generators import AssetGenerator
    from instant3d.utils.prompts import Prompt

EPILOG = """Several prompts, or several seeds, each get a folder of their own below OUT; assets that are there already,
with the same settings, are not generated again. Exit code 1: some assets failed; 2: all."""


def add(command: argparse.ArgumentParser) -> None:
    """Declare the options of `generate`."""
    command.epilog = EPILOG
    command.add_argument("prompt", nargs="*", help="what to generate, such as 'a red fire hydrant'")
    command.add_argument("-o", "--output", type=nonempty_path, required=True, help="folder for the results")
    command.add_argument(
        "--prompts", metavar="FILE", help="one prompt a line (# begins a comment), JSON or CSV; - reads standard input"
    )
    command.add_argument(
        "--seed", type=seed, default=0, help="random seed: the same seed and prompt give the same asset (default 0)"
    )
    command.add_argument(
        "--n", type=positive_int, default=1, help="assets of each prompt, by seeds counting up (default 1)"
    )
    add_formats(command)
    command.add_argument(
        "--resolution",
        type=positive_int,
        help="nodes a side of the mesh's grid (default: two for each texel of the planes, at most 256)",
    )
    sampling = command.add_argument_group("sampling of views in the two-stage system")
    add_sampling(sampling)
    sampling.add_argument("--negative", metavar="TEXT", help="negative prompt")
    add_lora(sampling)
    _add_machine(command.add_argument_group("weights and machine"))
    _add_cluster(command.add_argument_group("many machines"))
    command.set_defaults(command=run)


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add_system(group)
    group.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    group.add_argument(
        "--max-memory",
        type=byte_size,
        help="on a GPU: for weights (default 60%% of what is free); anywhere: for meshing",
    )
    group.add_argument("--batch", type=positive_int, default=4, help="prompts in a batch (default 4)")
    group.add_argument(
        "--torch-compile",
        action="store_true",
        default=None,
        help="compile stage 1's UNet, with CUDA graphs on a GPU: minutes at the start, then shorter steps",
    )


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ray", action="store_true", help="use Ray, on this machine unless there is an address")
    group.add_argument(
        "--address", help="address of a Ray cluster whose machines share this disk: auto or ray://host:10001"
    )
    group.add_argument("--workers", type=positive_int, help="of Ray, each with its own networks (default: one a core)")
    group.add_argument("--gpus-each", type=float, default=0.0, help="GPUs of each of Ray's workers, such as 0.5")


def run(arguments: argparse.Namespace) -> int:
    """Generate assets and print one line for each.

    Args:
        arguments: The parsed options.

    Returns:
        The exit code: 0 if all assets are there, 1 if some failed, 2 if all did.

    Raises:
        ValueError: There is no prompt, or an option is invalid.
        OSError: The prompts or the weights cannot be read.
        MemoryError: The GPU's memory does not suffice.
    """
    from instant3d.pipelines.generation_plan import GenerationRequest

    settle(arguments)
    given = prompts.from_arguments(arguments.prompt) + (
        prompts.read_prompts(arguments.prompts) if arguments.prompts else []
    )
    if not given:
        raise ValueError("there is no prompt; give one, or name a list of them by --prompts")
    order = GenerationRequest(
        seed=arguments.seed,
        count=arguments.n,
        resolution=arguments.resolution,
        formats=arguments.formats,
        options=mesh_options(arguments),
        size_mm=arguments.size_mm,
    )
    outcomes = _outcomes(given, arguments, order)
    good = bad = 0
    try:
        for outcome in outcomes:
            if arguments.debug and isinstance(outcome.error, Exception):
                raise outcome.error
            _print_result(outcome)
            bad += bool(outcome.error)
            good += not (outcome.error or outcome.note)
    except (ValueError, OSError, MemoryError) as error:
        if arguments.debug or not good:
            raise
        print_escaped(f"instant3d: error: {format_error(error)}", sys.stderr)
        bad += 1
    return 0 if not bad else 1 if good else 2


def _outcomes(
    given: Sequence[Prompt], arguments: argparse.Namespace, request: GenerationRequest
) -> Iterator[GenerationResult]:
    """Generate the assets in this process, or on a cluster."""
    if not (arguments.ray or arguments.address):
        from instant3d.pipelines.generate import generate

        return generate(given, arguments.output, _generator(arguments), request, progress=Progress.to_user())
    from instant3d.pipelines.ray_generate import ray_generate

    for name in ("stage1", "stage2", "direct"):  # workers run in other folders
        source = getattr(arguments, name)
        if source and Path(source).exists():
            setattr(arguments, name, str(Path(source).absolute()))
    arguments.lora = absolute_loras(arguments.lora)
    return ray_generate(
        given,
        arguments.output,
        functools.partial(_generator, arguments),
        request,
        batch=arguments.batch,
        address=arguments.address,
        workers=arguments.workers,
        gpus_each=arguments.gpus_each,
    )


def _generator(arguments: argparse.Namespace) -> AssetGenerator:
    """Return the chosen system with its options; its networks are not loaded yet."""
    from instant3d.modules.diffusion.lora import Lora
    from instant3d.pipelines.direct_generator import DirectGenerator
    from instant3d.pipelines.two_stage_generator import TwoStageGenerator
    from instant3d.pipelines.weights import find_stages
    from instant3d.stage1.recommended_sampling import recommended_sampling

    machine = {"device": arguments.device, "max_memory": arguments.max_memory, "at_once": arguments.batch}
    if arguments.system == "direct":
        return DirectGenerator(arguments.direct, **machine)
    stage1, stage2 = find_stages(arguments.stage1, arguments.stage2)
    loras = [Lora.parse(text) for text in arguments.lora]
    sampling = recommended_sampling(stage1, loras, **sampling_options(arguments))
    if arguments.torch_compile:
        logging.basicConfig(format="instant3d: note: %(message)s")
        logging.getLogger("instant3d").setLevel(logging.INFO)
    compiled = {"torch_compile": arguments.torch_compile}
    return TwoStageGenerator(
        stage1, stage2, loras=loras, sampling=sampling, negative=arguments.negative, **machine, **compiled
    )


def _print_result(outcome: GenerationResult) -> None:
    """Print one line: results to standard output, errors and notes to standard error."""
    from instant3d.pipelines.generate import closing_line

    if outcome.error:
        wrong = f" {outcome.error}" if isinstance(outcome.error, str) else f": {format_error(outcome.error)}"
        print_escaped(f"instant3d: error: {outcome.where}{wrong}", sys.stderr)
    elif outcome.note:
        print_escaped(f"instant3d: note: {outcome.where} {outcome.note}", sys.stderr)
    elif outcome.record is None:
        print_escaped(
            f"instant3d: note: {outcome.folder} is finished with the same settings; left as it is", sys.stderr
        )
    else:
        print_escaped(closing_line(outcome.record, outcome.folder))
