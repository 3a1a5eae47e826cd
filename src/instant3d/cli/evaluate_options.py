"""Options of `evaluate text`, `evaluate consistency` and `train-judge`; heavy modules are imported late."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from instant3d.cli.system_options import (
    add_guidance,
    add_lora,
    add_sampling,
    add_stages,
    add_system,
    sampling_options,
    settle,
)
from instant3d.stage1.sampling_options import SAMPLERS, STARTS, Sampling
from instant3d.utils import bundled
from instant3d.utils.arg_types import comma_separated, nonempty_path, positive_int, seed
from instant3d.utils.errors import print_escaped

if TYPE_CHECKING:
    from instant3d.evaluation.asset_source import AssetSource, TwoStageModels
    from instant3d.evaluation.attribute_classifier import AttributeClassifier
    from instant3d.pipelines.text_to_3d import ViewsTo3D

OBJECTS = Path("configs") / "prompts" / "judged_objects.txt"


def add_text(command: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate text`."""
    command.add_argument(
        "--prompts",
        type=nonempty_path,
        required=True,
        action="append",
        metavar="FILE",
        help="one prompt a line; repeat it for further lists, which are reported separately",
    )
    command.add_argument(
        "--train-prompts",
        type=nonempty_path,
        action="append",
        default=[],
        metavar="FILE",
        help="as --prompts, of the training; the others are then held out, and CLIPs retrieve among all lists",
    )
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for metrics.json, table.md, sheet.png"
    )
    command.add_argument("--n", type=positive_int, default=1, help="assets of each prompt (default 1)")
    instead = command.add_mutually_exclusive_group()
    instead.add_argument(
        "--assets", type=nonempty_path, help="folder that `instant3d generate` wrote, to evaluate its assets"
    )
    instead.add_argument(
        "--real", type=nonempty_path, help="scene folders whose captions are the prompts: an upper bound"
    )
    command.add_argument("--judge", help=f"a judge's folder, or none (default {bundled.JUDGE})")
    add_system(command)
    add_lora(command)
    command.add_argument(
        "--clip",
        action="append",
        default=[],
        metavar="MODEL",
        help="folder or Hub id of a CLIP, other than one used in training; repeat it for more",
    )
    _add_requests(command)
    add_sampling(command)
    command.set_defaults(command=text)


def add_consistency(command: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate consistency`."""
    command.add_argument("--prompts", type=nonempty_path, required=True, metavar="FILE", help="one prompt a line")
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for metrics.json, table.md, figure.png"
    )
    command.add_argument(
        "--steps", type=comma_separated, default=["4", "10", "30", "100"], help="(default 4,10,30,100)"
    )
    command.add_argument(
        "--starts",
        type=comma_separated,
        default=["blob", "noise"],
        help=f"among {','.join(STARTS)} (default blob,noise)",
    )
    samplers = f"among {','.join(SAMPLERS)} (default {Sampling.sampler})"
    command.add_argument("--samplers", type=comma_separated, default=[Sampling.sampler], help=samplers)
    command.add_argument(
        "--perceptual", type=nonempty_path, help="torchvision's VGG-16 weights (.pth), to measure MRC too"
    )
    add_stages(command)
    _add_requests(command)
    add_guidance(command)
    command.set_defaults(command=consistency)


def add_training(command: argparse.ArgumentParser) -> None:
    """Declare the options of `train-judge`."""
    command.add_argument(
        "scenes", type=nonempty_path, nargs="+", help="folders of scenes painted by `instant3d data recolour`"
    )
    command.add_argument(
        "-o", "--output", type=nonempty_path, required=True, help="folder for config.json, model.safetensors"
    )
    command.add_argument(
        "--objects", type=nonempty_path, default=OBJECTS, help=f"the names to classify (default {OBJECTS})"
    )
    command.add_argument("--epochs", type=positive_int, default=24, help="(default 24)")
    command.add_argument("--seed", type=seed, default=0, help="(default 0)")
    command.add_argument(
        "--hold-out-shapes", action="store_true", help="hold out a shape of each object for the accuracy"
    )
    command.set_defaults(command=train_judge)


def _add_requests(command: argparse.ArgumentParser) -> None:
    command.add_argument("--limit", type=positive_int, help="at most this many prompts")
    command.add_argument("--seed", type=seed, default=0, help="of the first asset; others count up (default 0)")
    command.add_argument("--batch", type=positive_int, default=8, help="prompts in a batch (default 8)")
    command.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")


def text(arguments: argparse.Namespace) -> None:
    """Measure how well assets match their prompts.

    Args:
        arguments: The parsed options of `evaluate text`.

    Raises:
        ValueError: Options contradict each other, or a prompt is both held out and trained on.
    """
    from instant3d.evaluation import evaluated_assets, text_alignment
    from instant3d.evaluation.view_cache import read_prompt_list, view_requests
    from instant3d.modules import clip
    from instant3d.utils.devices import find_device

    settle(arguments)
    judge, device = _judge(arguments.judge), find_device(arguments.device)
    if judge is None and not arguments.clip:
        raise ValueError("with --judge none, nothing is measured; name a CLIP by --clip")
    paths = [*arguments.prompts, *arguments.train_prompts]
    lists = {
        path.stem: view_requests(read_prompt_list(path, arguments.limit), arguments.seed, arguments.n) for path in paths
    }
    if len(lists) < len(paths):
        raise ValueError("two lists of prompts have the same name, by which they are reported; rename one")
    _check_disjoint(arguments.prompts, arguments.train_prompts)
    for order in (order for some in lists.values() for order in some):
        if judge is not None:
            judge.target(order.prompt)
    source = _asset_source(arguments, text_alignment.CLIP_SIZE if arguments.clip else evaluated_assets.SIZE)
    record = source.training_record
    if record is not None and record.clip in arguments.clip:
        warnings.warn(
            f"{record.clip} was used in training too, so its scores here are biased; name another CLIP",
            stacklevel=2,
        )
    text_alignment.evaluate(
        {name: source.assets(some) for name, some in lists.items()},
        arguments.output,
        judge=judge,
        clips={name: partial(clip.ClipModel.from_pretrained, name, device) for name in arguments.clip},
        settings={key: str(value) for key, value in vars(arguments).items() if key != "command" and value is not None},
        trained=[path.stem for path in arguments.train_prompts] or None,
        training_record=record,
    )


def consistency(arguments: argparse.Namespace) -> None:
    """Measure how consistent the four views of generated grids are.

    Args:
        arguments: The parsed options of `evaluate consistency`.

    Raises:
        ValueError: A number of steps, an initial image or a sampler is unknown.
    """
    from instant3d.evaluation import view_consistency as measuring
    from instant3d.evaluation.view_cache import read_prompt_list, view_requests
    from instant3d.modules.losses import PerceptualLoss
    from instant3d.stage1.recommended_sampling import recommended_sampling

    settle(arguments)
    steps = [positive_int(word) for word in arguments.steps]
    for named, known in ((arguments.starts, STARTS), (arguments.samplers, SAMPLERS)):
        if not named or not set(named) <= set(known):
            raise ValueError(f"{','.join(named)!r} is not among {', '.join(known)}")
    perceptual = PerceptualLoss(str(arguments.perceptual)) if arguments.perceptual else None
    wanted = view_requests(read_prompt_list(arguments.prompts, arguments.limit), arguments.seed)
    models = _stages(arguments)
    base = recommended_sampling(
        models.stage1, models.loras, guidance=arguments.guidance, guidance_stop=arguments.guidance_stop
    )
    settings = measuring.settings(steps, arguments.starts, arguments.samplers, base)
    caches = {name: models.view_cache(arguments.output / "views", sampling) for name, sampling in settings.items()}
    measuring.evaluate(wanted, arguments.output, caches=caches, model=models.views_to_3d, perceptual=perceptual)


def train_judge(arguments: argparse.Namespace) -> None:
    """Train an attribute classifier and save its weights.

    Args:
        arguments: The parsed options of `train-judge`.
    """
    from instant3d.evaluation import train_attribute_classifier
    from instant3d.evaluation.view_cache import read_prompt_list

    judge = train_attribute_classifier.train(
        arguments.scenes,
        read_prompt_list(arguments.objects),
        epochs=arguments.epochs,
        hold_out_shapes=arguments.hold_out_shapes,
        seed=arguments.seed,
    )
    judge.save(arguments.output)
    accuracy = train_attribute_classifier.accuracy_message(judge)
    print_escaped(f"{arguments.output}: config.json, model.safetensors ({accuracy})")


def _judge(named: str | None) -> AttributeClassifier | None:
    from instant3d.evaluation.attribute_classifier import AttributeClassifier
    from instant3d.pipelines.weights import find_judge

    return None if named == "none" else AttributeClassifier.from_pretrained(find_judge(named))


def _check_disjoint(held_out: Sequence[Path], trained: Sequence[Path]) -> None:
    """Refuse prompts that are in a held-out list and in a training list, beyond --limit too."""
    from instant3d.evaluation.view_cache import read_prompt_list

    known = {text: path for path in trained for text in read_prompt_list(path)}
    for path in held_out:
        for text in read_prompt_list(path):
            if text in known:
                raise ValueError(
                    f"{text!r} is in {path} and in {known[text]}, which was trained on; a prompt is one or the other: "
                    "take it out of one list"
                )


def _asset_source(arguments: argparse.Namespace, size: int) -> AssetSource:
    """Return the source of assets: a folder, the direct system, real renders, or the two-stage system."""
    from instant3d.evaluation import evaluated_assets
    from instant3d.evaluation.asset_source import AssetSource
    from instant3d.pipelines.text_to_3d import DirectTextTo3D
    from instant3d.stage1.recommended_sampling import recommended_sampling
    from instant3d.utils.devices import find_device

    if arguments.assets:
        return AssetSource(partial(evaluated_assets.from_folder, arguments.assets, size=size))
    if arguments.system == "direct":
        direct = DirectTextTo3D.from_pretrained(arguments.direct, device=find_device(arguments.device))
        assets = partial(evaluated_assets.from_direct, direct, at_once=arguments.batch, size=size)
        return AssetSource(assets, direct.network.training_record)
    if arguments.real:
        model = _stage2(arguments)
        return AssetSource(partial(evaluated_assets.from_real_views, arguments.real, model=model, size=size))
    models = _stages(arguments)
    sampling = recommended_sampling(models.stage1, models.loras, **sampling_options(arguments))
    cache = models.view_cache(arguments.output / "views", sampling)
    return AssetSource(partial(evaluated_assets.from_stage1, cache, model=models.views_to_3d, size=size))


def _stages(arguments: argparse.Namespace) -> TwoStageModels:
    from instant3d.evaluation.asset_source import TwoStageModels
    from instant3d.modules.diffusion.lora import Lora
    from instant3d.utils.devices import find_device

    loras = [Lora.parse(text) for text in getattr(arguments, "lora", None) or ()]
    return TwoStageModels(arguments.stage1, arguments.stage2, find_device(arguments.device), arguments.batch, loras)


def _stage2(arguments: argparse.Namespace) -> ViewsTo3D:
    from instant3d.pipelines.text_to_3d import ViewsTo3D
    from instant3d.pipelines.weights import find_stage2
    from instant3d.utils.devices import find_device

    return ViewsTo3D.from_pretrained(find_stage2(arguments.stage2), find_device(arguments.device))
