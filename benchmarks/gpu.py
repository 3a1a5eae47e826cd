"""The fused renderer compared with the plain one on this machine's GPU: `python -m benchmarks.gpu` (`make bench-gpu`).

Checks every kernel against the plain path, times both on one big case and on the demo's, then times whole training
steps, and sampling at full size. Prints each measurement immediately, since runs may be interrupted. `--tune` tries
block sizes first; `--quick` runs everything in some minutes on the CPU under `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from instant3d.cameras import Cameras, random_sphere, structured_cameras
from instant3d.nerf import fused, fused_check
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.nerf.volume import render
from instant3d.utils.tensor_dataclass import TensorDataclass
from instant3d.views import Views

CONFIGS = Path("configs") / "stage2"
SECTIONS = ("check", "render", "train", "sample")
CHECKED = {
    "demo": fused.Setup(64, 2, "relu", "exp", -1.0, 0.0, 1.0, False, 0.001),
    "direct": fused.Setup(64, 1, "softplus", "softplus", -1.0, 3.0, 0.5, True, 0.0),
    "paper": fused.Setup(64, 8, "relu", "softplus", -1.0, 0.0, 1.0, False, 0.001),
}


@dataclass(frozen=True)
class Case:
    """Sizes of a scene to render."""

    objects: int
    side: int  # pixels of each of 4 views
    samples: int
    importance: int
    layers: int = 4
    channels: int = 48
    plane_side: int = 64
    width: int = 64

    @property
    def points(self) -> int:
        return self.objects * 4 * self.side**2 * (self.samples + self.importance)


CASES = {"16.8 M points": Case(16, 64, 64, 0), "demo": Case(24, 32, 40, 40), "10 layers": Case(16, 64, 64, 0, 10, 80)}
TINY = {"tiny": Case(2, 4, 3, 2, 3, 4, 8, 16)}


@dataclass(frozen=True)
class Example(TensorDataclass):
    """A training batch, like `instant3d.stage2.data.ReconstructionBatch`, whose module needs more packages."""

    inputs: Views
    targets: Views


def main(arguments: Sequence[str] | None = None) -> None:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes on the CPU; set TRITON_INTERPRET=1")
    parser.add_argument("--tune", action="store_true", help="try sizes of blocks first, and go on with the fastest")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--profile", action="store_true", help="what takes a training step's time")
    options = parser.parse_args(arguments)
    bench = Bench(options.quick, options.profile)
    if not options.quick:
        say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    if options.tune:
        guarded("tune", bench.tune)
    for section in options.sections:
        guarded(section, getattr(bench, section))


def say(line: str) -> None:
    print(line, flush=True)


def guarded(name: str, run: Callable[[], None]) -> None:
    """Run a section; one that fails is reported and does not end the others."""
    start = time.perf_counter()
    say(f"## {name}")
    try:
        run()
    except (Exception, SystemExit) as error:
        say(f"{name} failed: {type(error).__name__}: {str(error)[:2000]}")
        traceback.print_exc(limit=-4)
    say(f"# {name}: {time.perf_counter() - start:.0f} s")


class Bench:
    """All measurements of one device."""

    def __init__(self, quick: bool, profile: bool) -> None:
        self.quick, self.profile = quick, profile
        self.device = torch.device("cpu" if quick else "cuda")
        if quick:
            torch.set_num_threads(1)

    def check(self) -> None:
        """Every kernel against the plain path on random fields."""
        for name, setup in CHECKED.items():
            for product, mode in itertools.product((torch.bfloat16, torch.float32), ("pixels", "weights", "points")):
                if self.quick and product == torch.bfloat16:
                    continue  # the interpreter multiplies none
                guarded_check(name, setup, mode, product, self.quick, self.device)

    def render(self) -> None:
        """Milliseconds and peak memory of both renderers, and how far apart they are."""
        for name, case in (TINY if self.quick else CASES).items():
            self.case(name, case)

    def case(self, name: str, case: Case) -> None:
        """One table of `render`."""
        scene = Scene(case, self.device)
        say(f"{name}: {case.points / 1e6:.1f} M points, decoder {case.width} x {case.layers}")
        guarded(f"errors of {name}", lambda: errors(scene, self.quick))
        say(f"{'':24}{'forward, ms':>14}{'both, ms':>12}{'GiB':>8}")
        choices: tuple[fused.Choice, ...] = ("never", "always")
        for choice, autocast in itertools.product(choices, (True, False)):
            if not (self.quick and autocast):
                label = f"{'fused' if choice == 'always' else 'plain'}, {'bfloat16' if autocast else 'float32'}"
                guarded_line(label, partial(self.row, scene, choice, autocast))

    def row(self, scene: Scene, choice: fused.Choice, autocast: bool) -> str:
        """Forward, forward and backward, and memory of one renderer, as cells of a table."""
        with fused.using(choice), torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                forward = self.milliseconds(lambda: scene.seen())
            both = self.milliseconds(scene.gradients)
            return f"{forward:14.2f}{both:12.2f}{self.peak(scene.gradients):8.2f}"

    def milliseconds(self, run: Callable[[], Any], repeats: int = 7) -> float:
        """Median time of a call, after two to warm up."""
        taken = []
        for turn in range(1 if self.quick else repeats + 2):
            if self.quick:
                start = time.perf_counter()
                run()
                taken.append(1000 * (time.perf_counter() - start))
                continue
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            if turn > 1:
                taken.append(begin.elapsed_time(end))
        return statistics.median(taken)

    def peak(self, run: Callable[[], Any]) -> float:
        """GiB that a call takes beside what was there before."""
        if self.quick:
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    def tune(self) -> None:
        """Forward and backward times of the big case by block, warps, registers and type of the planes."""
        case = TINY["tiny"] if self.quick else CASES["16.8 M points"]
        scene = Scene(case, self.device)
        for name, run in (("forward", scene.seen), ("backward", scene.gradients)):
            found = {}
            for block, warps, registers, short in candidates(name, self.quick):
                fused.LAUNCHES[name], fused.SHORT_PLANES = fused.Launch(block, warps, registers), short
                with fused.using("always"), torch.autocast(self.device.type, torch.bfloat16, enabled=not self.quick):
                    label = f"{name} {fused.LAUNCHES[name]} short={short}"
                    try:
                        with torch.set_grad_enabled(name == "backward"):
                            found[block, warps, registers, short] = self.milliseconds(run, 3)
                        say(f"{label}: {found[block, warps, registers, short]:.2f} ms")
                    except Exception as error:
                        say(f"{label}: {type(error).__name__} {str(error)[:200]}")
            best = min(found, key=lambda key: found[key])
            fused.LAUNCHES[name], fused.SHORT_PLANES = fused.Launch(*best[:3]), best[3]
            say(f"fastest {name}: {fused.LAUNCHES[name]}, short={best[3]}, {found[best]:.2f} ms")

    def train(self) -> None:
        """One training step of each architecture with both renderers."""
        for name, objects in {"demo": 24, "one_gpu": 8, "paper": 2}.items() if not self.quick else {"demo": 2}.items():
            guarded(f"train {name}", lambda name=name, objects=objects: self.steps(name, objects))

    def sample(self) -> None:
        """Stage 1 at full size, plain and compiled, and text to a textured GLB."""
        from benchmarks import gpu_sampling  # and diffusers

        for row in gpu_sampling.rows(self.quick, self.device):
            say(row)

    def steps(self, name: str, objects: int) -> None:
        choices: tuple[fused.Choice, ...] = ("never", "always" if self.quick else "auto")
        for choice in choices:
            step, show = trainer(name, objects, self.quick, self.device)
            with fused.using(choice):
                for label, run in (("network and renderer forward", show), ("step", step)):
                    time_ = self.milliseconds(run, 5)
                    memory = self.peak(run)
                    kind = "plain" if choice == "never" else "fused"
                    say(f"{name}, {objects} objects, {kind}, {label}: {time_:.1f} ms, {memory:.2f} GiB")
                if self.profile:
                    say(profiled(step))
            del step, show
            if not self.quick:
                torch.cuda.empty_cache()


def candidates(name: str, quick: bool) -> list[tuple[int, int, int | None, bool]]:
    """Block, warps, registers and short planes; the type of the planes matters to the forward pass alone."""
    if quick:
        return [(32, 4, None, False), (64, 4, None, True)]
    if name == "backward":
        shapes = [(32, 4, None), (64, 4, None), (64, 8, None), (64, 8, 128), (64, 16, None), (128, 8, None)]
        return [(*shape, fused.SHORT_PLANES) for shape in shapes]
    shapes = [(32, 4, None), (64, 4, None), (64, 4, 128), (64, 8, None), (64, 8, 128), (64, 8, 96), (128, 8, None)]
    return [(*shape, short) for short in (True, False) for shape in shapes]


def guarded_check(
    name: str, setup: fused.Setup, mode: fused.Mode, product: torch.dtype, quick: bool, device: torch.device
) -> None:
    start = time.perf_counter()
    setup = replace(setup, width=16, layers=min(setup.layers, 2)) if quick else setup
    steps, side = (3, 8) if quick else (64, 64)
    steps = fused.POINT_STEPS if mode == "points" else steps
    label = f"{name} {mode} {str(product).removeprefix('torch.')}"
    guarded_line(
        label,
        lambda: (
            f"off by {fused_check.self_check(setup, mode, steps, side, product, device, 40 if quick else 4000):.2e} "
            f"of the norm, {time.perf_counter() - start:.1f} s with compilation"
        ),
    )


def guarded_line(label: str, run: Callable[[], str]) -> None:
    try:
        say(f"{label:24}{run()}")
    except Exception as error:
        say(f"{label:24} failed: {type(error).__name__}: {str(error)[:1500]}")


class Scene:
    """Random triplanes, a decoder and cameras, with the gradients of a loss of what is seen."""

    def __init__(self, case: Case, device: torch.device) -> None:
        torch.manual_seed(0)
        self.case = case
        self.decoder = Decoder(DecoderConfig(case.channels, case.width, case.layers, density="exp")).to(device)
        shape = (case.objects, 3, case.channels, case.plane_side, case.plane_side)
        self.planes = (0.5 * torch.randn(shape, device=device)).requires_grad_()
        generator = torch.Generator().manual_seed(0)
        cameras = random_sphere(4 * case.objects, generator)
        self.cameras = Cameras(cameras.cam_to_world, cameras.intrinsics).map(
            lambda tensor: tensor.unflatten(0, (case.objects, 4)).to(device)
        )

    def seen(self) -> Views:
        generator = torch.Generator(self.planes.device).manual_seed(0)
        field = TriplaneField(Triplane(self.planes), self.decoder)
        case = self.case
        return render(
            field,
            self.cameras,
            case.side,
            case.side,
            samples=case.samples,
            importance=case.importance,
            generator=generator,
            max_memory=2**36,
        )

    def gradients(self) -> list[Tensor]:
        views = self.seen()
        assert views.depth is not None
        scale = torch.linspace(0.5, 1.5, views.alpha.shape[-1], device=views.alpha.device)
        loss = (scale * (views.rgb * views.alpha + views.depth)).sum() + (scale * views.alpha).sum()
        return list(torch.autograd.grad(loss / views.alpha.numel(), [self.planes, *self.decoder.parameters()]))


def errors(scene: Scene, quick: bool) -> None:
    """Differences of images and gradients to the plain path in float32, as shares of the greatest value."""

    def results(choice: fused.Choice, autocast: bool) -> list[Tensor]:
        with fused.using(choice), torch.autocast(scene.planes.device.type, torch.bfloat16, enabled=autocast):
            with torch.no_grad():
                views = scene.seen()
            return [views.rgb * views.alpha, views.alpha, views.depth, *scene.gradients()]

    names = ["rgb", "alpha", "depth", "planes", *(name for name, _ in scene.decoder.named_parameters())]
    truth = results("never", False)
    kinds = [("fused float32", "always", False)]
    if not quick:
        kinds += [("plain bfloat16", "never", True), ("fused bfloat16", "always", True)]
    for label, choice, autocast in kinds:
        for name, wanted, got in zip(names, truth, results(choice, autocast), strict=True):
            apart = (got.float() - wanted).abs()
            length = (got.float() - wanted).norm() / wanted.norm().clamp(min=1e-12)
            say(
                f"  {label:16}{name:20} greatest {apart.max() / wanted.abs().max().clamp(min=1e-12):.1e}, root mean "
                f"square {length:.1e} of the greatest and the whole"
            )


def trainer(name: str, objects: int, quick: bool, device: torch.device) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One step of a stage-2 configuration on random images, and its part up to the renders."""
    from instant3d.stage2.architecture import Architecture
    from instant3d.stage2.module import LossWeights, RayMarching, Stage2Module

    text = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    model, view_sampling = text["model"], text["data"]["view_sampling"]
    marching = RayMarching(**model.get("ray_marching", {}))
    settings = {**model.get("architecture", {})}
    patch = view_sampling["patch"]
    if quick:
        settings |= {"width": 16, "heads": 2, "depth": 1, "encoder_width": 16, "encoder_heads": 2, "encoder_depth": 1}
        settings |= {"lift_side": 0, "plane_side": 8, "token_side": 4, "image_size": 16, "decoder_width": 16}
        marching, patch = RayMarching(3, 2), 4
    module = Stage2Module(
        Architecture(**settings),
        ray_marching=marching,
        loss_weights=LossWeights(**{**model.get("loss_weights", {}), "perceptual": 0.0}),
        vgg_weights=None,
        checkpointing=model.get("checkpointing", False),
    ).to(device)
    size = module.network.image_size
    example = Example(images(objects, size, False), images(objects, patch, True)).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=not quick):
            loss = module.training_step(example, 0)  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()

    def show() -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=not quick):
            module.show(module.network(example.inputs), example.targets, torch.Generator(device).manual_seed(0))

    return step, show


def images(objects: int, size: int, target: bool) -> Views:
    """Random images: of four structured views, or with depth from anywhere."""
    generator = torch.Generator().manual_seed(1)
    cameras = random_sphere(4 * objects, generator).map(lambda tensor: tensor.unflatten(0, (objects, 4)))
    if not target:
        cameras = structured_cameras().map(lambda tensor: tensor.expand(objects, *tensor.shape))
    alpha = (torch.rand(objects, 4, 1, size, size, generator=generator) > 0.5).float()
    rgb = torch.rand(objects, 4, 3, size, size, generator=generator)
    return Views(rgb, alpha, cameras, 2 * alpha if target else None)


def profiled(step: Callable[[], None]) -> str:
    """The ten kernels and operations that take the most of a step's time."""
    from torch.profiler import ProfilerActivity, profile

    cuda = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as report:
        step()
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return str(report.key_averages().table(sort_by=order, row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    main()
