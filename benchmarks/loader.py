"""Reading speed of scenes, compared with the need of the `one_gpu` configurations: `python -m benchmarks.loader`.

Makes scenes in a temporary folder as `configs/render/paper_stage2.yaml` has them (36 views of 512 px), with depth and
normals too, of textured balls whose PNGs are about as large as those of rendered objects, or takes yours by `--scenes`.
Reads them as folders, as tars on disk, and as tars behind a URL (memory://, so that no network is measured:
downloading, hashing and the shard cache are), with stage 2's own examples and stage 1's grids. CPU time is measured as
well, since on a busy machine wall-clock time says little. The need of a step on a GPU is an estimate, as its line says.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from instant3d import scenes
from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.scenes.pack import pack
from instant3d.stage1.data import GridDataModule
from instant3d.stage2.augmentation import ViewSampling
from instant3d.stage2.data import SceneDataModule
from instant3d.stage2.network import Architecture, Reconstructor
from instant3d.views import Views

CONFIGS = Path(__file__).parents[1] / "configs"
PEAKS = {"H100 SXM": 989.0, "A100": 312.0, "RTX 4090": 165.0}  # TFLOP/s, dense bfloat16 with float32 sums
UTILISATION = 0.4
SDXL_STEP = 6.76  # TFLOP of one UNet pass of one grid of 1024 px: half a guided step of `benchmarks.sdxl`


@dataclass(frozen=True)
class Speed:
    """Examples per second of wall-clock time, and CPU seconds for each."""

    a_second: float
    processor: float


def make(root: Path, count: int, size: int, random_views: int) -> None:
    """Scenes of noisy textured balls: PNGs do not compress noise, so these are rather too large than too small."""
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        cameras = Cameras.cat([structured_cameras(), random_sphere(random_views, generator)])
        rays = cameras.rays(size, size)
        along = -(rays.origins * rays.directions).sum(-1)
        square = 0.64 - (rays.origins.square().sum(-1) - along**2)
        alpha = (square > 0).float()[:, None]
        distance = along - square.clamp(min=0).sqrt()
        surface = rays.at(distance[..., None])[..., 0, :].movedim(-1, 1)
        forward = (rays.directions * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1)
        waves = (surface * (8 + 4 * k % 3)).sin() * 0.4 + 0.5
        rgb = (waves + 0.01 * torch.randn(waves.shape, generator=generator)).clamp(0, 1) * alpha
        depth = (distance * forward)[:, None] * alpha
        views = Views(rgb, alpha, cameras, depth, torch.nn.functional.normalize(surface, dim=1) * alpha)
        scenes.write(root / f"{k:04d}", views, caption=f"ball {k}", object_id=f"ball{k}")


def stage2_data(source: str, workers: int, shelf: Path) -> SceneDataModule:
    """As `configs/stage2/one_gpu.yaml` has it."""
    config = _config("stage2")
    size = config["model"]["architecture"]["image_size"]
    view_sampling = ViewSampling(**config["data"]["view_sampling"])
    batch = config["data"]["batch_size"]
    return SceneDataModule(
        [source], image_size=size, view_sampling=view_sampling, batch_size=batch, workers=workers, cache=str(shelf)
    )


def stage1_data(source: str, workers: int, shelf: Path) -> GridDataModule:
    """As `configs/stage1/one_gpu_lora.yaml` has it, from scenes instead of a cache."""
    batch = _config("stage1", "one_gpu_lora")["data"]["batch_size"]
    return GridDataModule([source], size=1024, batch_size=batch, workers=workers, cache=str(shelf))


def measure(data: SceneDataModule | GridDataModule, batches: int) -> Speed:
    """Over `batches` batches, after the first of each worker."""
    loader = iter(data.train_dataloader())
    for _ in range(max(1, data.workers)):
        next(loader)
    start, before = time.perf_counter(), _processors()
    for _ in range(batches):
        next(loader)
    elapsed, spent = time.perf_counter() - start, _processors() - before
    examples = batches * data.batch_size
    del loader  # its workers end, and their time is counted from now on
    return Speed(examples / elapsed, spent / examples)


def needs() -> Iterator[tuple[str, str, float]]:
    """Configuration, GPU, and examples a second that it would use: an estimate."""
    work = stage2_work(_config("stage2"))
    for name, peak in PEAKS.items():
        yield "stage2/one_gpu", name, peak * UTILISATION / work
    for name, peak in PEAKS.items():
        # forward, again for checkpointing, and back through frozen weights: 3 passes
        yield "stage1/one_gpu_lora", name, peak * UTILISATION / (3 * SDXL_STEP)


def stage2_work(config: dict[str, Any]) -> float:
    """TFLOP of one example: the network forward, again for checkpointing, and backward; the decoder's alike.

    Without LPIPS, sampling and compositing, so the real step is longer and needs fewer examples a second.
    """
    model, view_sampling = config["model"], ViewSampling(**config["data"]["view_sampling"])
    architecture = Architecture(**model["architecture"])
    with torch.device("meta"):
        network = Reconstructor(architecture)
        side = architecture.image_size
        cameras = Cameras(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4))
        seen = Views(torch.zeros(1, 4, 3, side, side), torch.zeros(1, 4, 1, side, side), cameras)
        with FlopCounterMode(display=False) as counter:
            network.triplane(seen)
    rays = view_sampling.targets * view_sampling.patch**2
    samples = sum(model["ray_marching"].values()) + model["ray_marching"]["samples"]
    width, layers = architecture.decoder_width, architecture.decoder_layers
    decoder = 2 * width * (3 * architecture.channels + (layers - 2) * width + 4)
    return 4 * (counter.get_total_flops() + rays * samples * decoder) / 1e12


def _config(stage: str, name: str = "one_gpu") -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / stage / f"{name}.yaml").read_text())


def _processors() -> float:
    """Seconds of processors of this process and its living children."""
    total = time.process_time()
    own, tick = os.getpid(), os.sysconf("SC_CLK_TCK")
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == own:
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


@contextmanager
def _places(given: Path | None, count: int, size: int) -> Iterator[tuple[dict[str, str], Path]]:
    import fsspec

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = given or root / "scenes"
        if given is None:
            make(folder, count, size, 32)
        pack([folder], root / "shards", per_shard=max(1, count // 4))
        memory = fsspec.filesystem("memory")
        for path in (root / "shards").iterdir():
            memory.pipe_file(f"/loader/{path.name}", path.read_bytes())
        places = {"folders": str(folder), "shards": str(root / "shards"), "a URL": "memory://loader"}
        yield places, root / "shelf"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scenes", type=Path, help="scene folders to read instead of made ones")
    parser.add_argument("--count", type=int, default=8, help="scenes that are made (default 8)")
    parser.add_argument("--size", type=int, default=512, help="pixels a side of those (default 512)")
    parser.add_argument("--batches", type=int, default=4, help="that are timed (default 4)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with _places(options.scenes, options.count, options.size) as (places, shelf):
        print("| examples of | from | workers | a second | processor ms each |\n|---|---|---|---|---|")
        for stage, make_data in (("stage2/one_gpu", stage2_data), ("stage1/one_gpu_lora", stage1_data)):
            for place, source in places.items():
                for workers in (1, 2):
                    speed = measure(make_data(source, workers, shelf), options.batches)
                    print(
                        f"| {stage} | {place} | {workers} | {speed.a_second:.1f} | {1e3 * speed.processor:.0f} |",
                        flush=True,
                    )
    print(f"\nNeeded, an estimate: the counted work of a step at {UTILISATION:.0%} of the published peak.\n")
    print("| configuration | GPU | examples a second |\n|---|---|---|")
    for configuration, gpu, rate in needs():
        print(f"| {configuration} | {gpu} | {rate:.2f} |")


if __name__ == "__main__":
    main()
