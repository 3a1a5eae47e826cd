"""The cost of a variant: parameters, floating-point operations of a training step, seconds to an asset on the CPU."""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch.utils.flop_counter import FlopCounterMode

from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.pipelines.views_to_3d import ViewsTo3D
from instant3d.stage2.data import ReconstructionBatch, SceneDataModule, TrainDataset
from instant3d.stage2.module import Stage2Module
from instant3d.stage2.network import Reconstructor
from instant3d.training.arguments import expand_options, without_library_notes
from instant3d.training.fit import avoid_emulated_bfloat16, link_image_size, set_image_size
from instant3d.utils.mesh_options import DEFAULT
from instant3d.views import Views

EXAMPLES = 512  # at the beginning of training, whose order is recorded
REPEATS = 5  # of a timed pass


@dataclass(frozen=True)
class Cost:
    """What a variant costs, apart from time.

    Attributes:
        parameters: Number of trained parameters.
        flops_per_step: Floating-point operations of a training step, forward and backward, in matrix products,
            convolutions and attention (`torch.utils.flop_counter`), two for each product and sum.
        batch_size: Objects of a step.
        data_order: Hash of the scenes of the first examples, in the order in which they are trained on.
        coarse_savings: Operations that coarse steps at the beginning save altogether.
    """

    parameters: int
    flops_per_step: int
    batch_size: int
    data_order: str
    coarse_savings: int = 0

    def steps(self, flops: float) -> int:
        """Number of training steps that take `flops`, at least one."""
        return max(1, round((flops + self.coarse_savings) / self.flops_per_step))


class _Configured(LightningCLI):
    """Builds module and data from the options of `instant3d fit stage2`, without training."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the image size of the network to the data, as training does."""
        link_image_size(parser)

    def before_instantiate_classes(self) -> None:
        """Take the image size from the weights of `model.start` and avoid emulated bfloat16, as training does."""
        set_image_size(self.config)
        avoid_emulated_bfloat16(self.config)


def measure(options: Sequence[str]) -> Cost:
    """Measure a variant on the CPU, on one object, whose operations are multiplied by the batch size.

    Args:
        options: Configs and options of `instant3d fit stage2`.

    Raises:
        ValueError: An option is unknown or a value is out of range.
    """
    with without_library_notes():
        built = configured(options)
    module, data = built.model, built.datamodule
    dataset = cast(TrainDataset, data.train_dataloader().dataset)
    parameters = sum(parameter.numel() for parameter in module.network.parameters())
    flops = step_flops(module, dataset[dataset.coarse][None])
    saved = (flops - step_flops(module, dataset[0][None])) * dataset.coarse if dataset.coarse else 0
    return Cost(parameters, flops * data.batch_size, data.batch_size, data_order(dataset), saved)


def configured(options: Sequence[str]) -> Any:
    """Lightning's command line with `model`, `datamodule` and `trainer` built from options of `instant3d fit stage2`.

    Raises:
        ValueError: An option is unknown or a value is out of range.
    """
    from jsonargparse import ArgumentError

    try:
        return _Configured(
            Stage2Module,
            SceneDataModule,
            args=expand_options(options, "stage2"),
            run=False,
            save_config_callback=None,
            parser_kwargs={"exit_on_error": False},
            trainer_defaults={"use_distributed_sampler": False, "logger": False},
        )
    except ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from error


def step_flops(module: Stage2Module, batch: ReconstructionBatch) -> int:
    """Floating-point operations of a training step, forward and backward; of VAE blur the expected ones."""
    module.log = module.log_dict = _ignore  # type: ignore[assignment, method-assign]  # there is no trainer
    blur, module.vae_blur = module.vae_blur, None  # whether it draws this object would decide
    flops = _flops(lambda: module.training_step(batch, 0).backward())
    if blur is not None:
        flops += round(blur.probability * _flops(lambda: blur.blurred(batch.inputs[0]))) * len(batch.inputs.rgb)
    module.vae_blur = blur
    return flops


def _flops(compute: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Log nothing."""


def data_order(dataset: TrainDataset) -> str:
    """Hash of the scenes of the first examples in their order."""
    names = [str(dataset.scenes.document(dataset.order(k)).where) for k in range(EXAMPLES)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def seconds_to_planes(weights: Path) -> float:
    """Median processor time in seconds from four views to the planes of one object, by one thread, without loading.

    Processor time is not the clock's: what else the machine does changes it little.

    Args:
        weights: Folder of weights.
    """
    network = Reconstructor.from_pretrained(weights)
    size = network.image_size
    rgb = torch.rand(1, 4, 3, size, size, generator=torch.Generator().manual_seed(0))
    views = Views(rgb, torch.ones_like(rgb[:, :, :1]), structured_cameras()[None])
    taken = []
    with one_thread(), torch.no_grad():
        for _ in range(1 + REPEATS):  # the first one warms up
            start = time.process_time()
            network.triplane(views)
            taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def seconds_to_mesh(weights: Path, scene: Path) -> float:
    """Processor time in seconds from the planes of an object to its textured mesh, by one thread.

    Unwrapping is not counted, for it has a process of its own. NaN if the object has no surface.

    Args:
        weights: Folder of weights.
        scene: Folder of the object's scene, whose first four frames are the inputs.
    """
    model = ViewsTo3D.from_pretrained(weights)
    size = model.network.image_size
    with one_thread():
        asset = model(scenes.read(scene, frames=range(4), size=size, maps=()))
        start = time.process_time()
        try:
            asset.build_mesh(DEFAULT)
        except ValueError:  # hardly trained networks make empty fields
            return math.nan
        return time.process_time() - start


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
