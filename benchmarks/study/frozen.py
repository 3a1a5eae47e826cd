"""Training of the decoder alone, on planes that trained weights have made once.

Where all that makes the planes is frozen, an object's planes are the same at every step. Computed once, they
leave a CPU time for hundreds of steps of several objects, where a warm start of more of the network has as many of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.study.cost import configured
from instant3d.cameras import Cameras
from instant3d.nerf.triplane import Triplane, TriplaneField
from instant3d.stage2.data import ReconstructionBatch, SceneDataModule, TrainDataset
from instant3d.stage2.network import Reconstructor
from instant3d.stage2.visual_hull_input import carve_views
from instant3d.training.arguments import without_library_notes
from instant3d.utils import atomic
from instant3d.utils.allocator import keep_freed_memory
from instant3d.utils.progress import Progress
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

AFTER_PLANES = ("decoder", "pixels")  # parts of the network that read the planes, or the views beside them


@dataclass(frozen=True)
class Prepared(TensorDataclass):
    """What the decoder of any variant reads of an object.

    Attributes:
        views: The input views (..., V).
        planes: (..., 3, C, P, P).
        weight: Share of each view in the cells of the hull's grid, (..., V, z, y, x).
    """

    views: Views
    planes: Tensor
    weight: Tensor

    def write(self, file: Path) -> None:
        """Write one object; cameras in float32, all else in float16."""
        cameras, views = self.views.cameras, self.views
        tensors = {"planes": self.planes, "weight": self.weight, "rgb": views.rgb, "alpha": views.alpha}
        content = {name: tensor.half() for name, tensor in tensors.items()}
        content |= {"cam_to_world": cameras.cam_to_world, "intrinsics": cameras.intrinsics}
        with atomic.partial_file(file) as partial:
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, partial)

    @classmethod
    def read(cls, file: Path) -> Prepared:
        """Read one object, in float32."""
        t = {name: tensor.float() for name, tensor in load_file(file).items()}
        views = Views(t["rgb"], t["alpha"], Cameras(t["cam_to_world"], t["intrinsics"]))
        return cls(views, t["planes"], t["weight"])


class WithPlanes(Dataset[ReconstructionBatch]):
    """Training examples whose inputs are replaced by what was prepared of their objects.

    Args:
        examples: The examples.
        folder: Folder of `prepare`.
    """

    def __init__(self, examples: TrainDataset, folder: Path) -> None:
        self.examples, self.folder = unrotated(examples), folder

    def __getitem__(self, number: int) -> ReconstructionBatch:
        file = prepared_file(self.folder, self.examples.order(number))
        return ReconstructionBatch(cast(Any, Prepared.read(file)), self.examples[number].targets)


def unrotated(examples: TrainDataset) -> TrainDataset:
    """Keep the world of the examples as it is, which the prepared planes are of."""
    examples.view_sampling = replace(examples.view_sampling, random_rotation=False)
    return examples


def prepared_file(folder: Path, scene: int) -> Path:
    """Where the planes of a scene lie."""
    return folder / f"{scene:06d}.safetensors"


def prepare(options: Sequence[str], folder: Path) -> None:
    """Compute the planes of every training scene from one draw of its inputs; a call that was interrupted is continued.

    Args:
        options: Configs and options of `instant3d fit stage2`, with `model.start`.
        folder: Where to write.

    Raises:
        ValueError: More than the decoder is trained.
    """
    with without_library_notes():
        built = configured(options)
    network, data = built.model.network, cast(SceneDataModule, built.datamodule)
    check_frozen(network)
    examples = unrotated(cast(TrainDataset, data.train_dataloader().dataset))
    left = [k for k in range(len(examples.scenes)) if not prepared_file(folder, examples.order(k)).is_file()]
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    with torch.inference_mode(), Progress.to_user().task("planes") as on_step:
        for done, number in enumerate(left, start=1):
            views = examples[number].inputs[None]
            weight = carve_views(views, network.architecture.lift_side).weight_volume
            made = Prepared(views, network.triplane(views).planes, weight)[0]
            made.write(prepared_file(folder, examples.order(number)))
            on_step(done, len(left))


def check_frozen(network: Reconstructor) -> None:
    """Refuse variants that train what makes the planes.

    Raises:
        ValueError: A parameter outside of the decoder is trained.
    """
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and name.split(".")[0] not in AFTER_PLANES:
            raise ValueError(f"the planes would change, for {name} is trained; leave out --frozen-planes")


def field(network: Reconstructor, prepared: Prepared) -> TriplaneField:
    """The field of prepared objects (B) by a variant of the network."""
    maps = network.view_maps(prepared.views, prepared.weight)
    return TriplaneField(Triplane(prepared.planes, maps), network.decoder)


def train(options: Sequence[str], folder: Path, checkpoint: Path | None) -> None:
    """Train a variant on prepared planes.

    Args:
        options: Configs and options of `instant3d fit stage2`, with `model.start`.
        folder: Folder of `prepare`.
        checkpoint: Checkpoint to continue from.

    Raises:
        ValueError: More than the decoder is trained.
    """
    if not torch.cuda.is_available():
        keep_freed_memory()
    with without_library_notes():
        built = configured(options)
        module, data = built.model, cast(SceneDataModule, built.datamodule)
        check_frozen(module.network)
        load: Callable[[], DataLoader[Any]] = data.train_dataloader

        def on_planes() -> DataLoader[Any]:
            plain = load()
            return DataLoader(
                WithPlanes(cast(TrainDataset, plain.dataset), folder),
                batch_sampler=plain.batch_sampler,
                collate_fn=plain.collate_fn,
                num_workers=plain.num_workers,
            )

        data.train_dataloader = on_planes  # type: ignore[method-assign]
        module.field = lambda prepared: field(module.network, prepared)  # type: ignore[method-assign]
        built.trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
