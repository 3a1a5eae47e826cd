"""The fused kernels, interpreted on the CPU, against the plain path, finite differences and closed forms."""

import math
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from instant3d.cameras import Rays, orbit
from instant3d.modules.losses import free_space_loss
from instant3d.nerf import fused, fused_check
from instant3d.nerf.ray_sampling import box_span, even_edges
from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane, TriplaneField
from instant3d.nerf.volume import blended, march, render
from instant3d.views import Views

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KINDS = {
    "relu exp": {"density": "exp"},
    "silu softplus": {"activation": "silu", "rgb_margin": 0.0},
    "softplus blob scaled": {"activation": "softplus", "blob": 3.0, "blob_radius": 0.4, "rgb": "scaled"},
}


@dataclass
class Made(TriplaneField):
    """A field and what it was made of."""

    planes: Tensor
    decoder: Decoder

    def __post_init__(self) -> None:
        super().__init__(Triplane(self.planes), self.decoder)

    def again(self) -> TriplaneField:
        return TriplaneField(Triplane(self.planes), self.decoder)


def make(objects: int = 1, layers: int = 3, width: int = 12, kind: str = "relu exp", seed: int = 0) -> Made:
    """A field in float64 with random weights and biases; of width 12, so that it is padded."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        decoder = Decoder(DecoderConfig(4, width, layers, **KINDS[kind])).double()
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        if "scaled" in kind:
            decoder.alpha.fill_(0.7)
        planes = torch.randn(objects, 3, 4, 5, 5, dtype=torch.float64)
    return Made(planes.requires_grad_(), decoder)


def some_rays(objects: int, count: int) -> Rays:
    """Rays from around the cube towards it, of which every third one misses it."""
    draw = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(objects, count, 3, generator=draw, dtype=torch.float64), dim=-1)
    aim = torch.rand(objects, count, 3, generator=draw, dtype=torch.float64) - 0.5
    aim[:, ::3] += 5
    return Rays(3 * origins, torch.nn.functional.normalize(aim - 3 * origins, dim=-1))


def measured(field: Made, rays: Rays, samples: int, choice: fused.Choice, seed: int = 2) -> list[Tensor]:
    """Pixels of randomly placed samples, and the gradients of a random sum of them."""
    draw = torch.Generator().manual_seed(seed)
    edges = even_edges(*box_span(rays), samples)
    at = edges[..., :-1] + torch.rand(edges[..., 1:].shape, generator=draw, dtype=edges.dtype) * edges.diff(dim=-1)
    with fused.using(choice):
        seen = blended(field.again(), rays, edges, at)
    pixels = [seen.rgb, seen.alpha, seen.distance]
    loss = sum((torch.randn(part.shape, generator=draw, dtype=part.dtype) * part).sum() for part in pixels)
    return [*pixels, *torch.autograd.grad(loss, [field.planes, *field.decoder.parameters()])]


def assert_alike(ours: Sequence[Tensor], plain: Sequence[Tensor]) -> None:
    """Equal but for the rounding of the plain path, which activates in float32 whatever it is given."""
    for got, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(
            got, wanted.to(got.dtype), atol=1e-6 * float(1 + wanted.detach().abs().max()), rtol=1e-5
        )


@pytest.mark.parametrize(
    ("objects", "samples", "rays", "layers"), [(1, 1, 70, 3), (3, 7, 1, 3), (1, 33, 5, 2), (3, 2, 65, 3)]
)
def test_fused_pixels_and_all_gradients_are_those_of_the_plain_path(objects, samples, rays, layers):
    field, lines = make(objects, layers), some_rays(objects, rays)
    plain, ours = (measured(field, lines, samples, choice) for choice in ("never", "always"))
    assert_alike(ours, plain)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("layers", [2, 4])
def test_fused_gradients_are_those_of_the_plain_path_for_every_kind_of_decoder(kind, layers):
    field, lines = make(2, layers, kind=kind), some_rays(2, 9)
    plain, ours = (measured(field, lines, 3, choice) for choice in ("never", "always"))
    assert_alike(ours, plain)


def test_fused_gradients_are_the_slopes_that_finite_differences_find():
    field, lines = make(kind="silu softplus"), some_rays(1, 5)
    edges = even_edges(*box_span(lines), 2)
    at = (edges[..., 1:] + edges[..., :-1]) / 2
    parameters = [field.planes, *field.decoder.parameters()]
    names = [name for name, _ in field.decoder.named_parameters()]

    def pixels(planes: Tensor, *values: Tensor) -> Tensor:
        def look() -> Tensor:
            with fused.using("always"):
                seen = blended(TriplaneField(Triplane(planes), field.decoder), lines, edges, at)
            return torch.cat([seen.rgb, seen.alpha[..., None], seen.distance[..., None]], -1)

        with torch.nn.utils.stateless._reparametrize_module(field.decoder, dict(zip(names, values, strict=True))):
            return look()

    assert torch.autograd.gradcheck(pixels, parameters, fast_mode=True, atol=1e-6, nondet_tol=1e-9)


def test_fused_density_at_points_and_its_gradients_are_those_of_the_plain_path():
    field = make(2)
    points = 2.4 * torch.rand(2, 515, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1.2
    results = []
    for choice in ("never", "always"):
        with fused.using(choice):
            density = field.again().density(points)
        results.append([density, *torch.autograd.grad(density.log().sum(), [field.planes, field.decoder.first.weight])])
    assert_alike(results[1], results[0])


def test_fused_importance_sampling_cuts_the_same_intervals():
    field, rays = make(), some_rays(1, 11)
    seen = []
    for choice in ("never", "always"):
        with fused.using(choice):
            again = field.again()
            seen.append(march(again, rays, samples=6, importance=5, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(seen[1].rgb, seen[0].rgb)
    torch.testing.assert_close(seen[1].distance, seen[0].distance)


def test_free_space_loss_takes_its_density_and_gradient_from_the_fused_kernels(monkeypatch):
    cameras = orbit([[0.0, 90.0]], [[10.0, 20.0]])
    wanted = Views(torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 2, 1, 3, 3), cameras, torch.zeros(1, 2, 1, 3, 3))
    calls, run, found = [], fused._launch, []
    monkeypatch.setattr(fused, "_launch", lambda name, *rest: (calls.append(name), run(name, *rest)))
    decoder = Decoder(DecoderConfig(4, 16, 3))
    planes = torch.randn(1, 3, 4, 5, 5, requires_grad=True)
    for choice in ("never", "always"):
        with fused.using(choice):
            loss = free_space_loss(TriplaneField(Triplane(planes), decoder), wanted, torch.Generator().manual_seed(0))
        found.append((loss, *torch.autograd.grad(loss, planes)))
    assert calls == ["forward", "backward"]
    torch.testing.assert_close(found[1], found[0])


def test_fused_rays_that_miss_the_cube_are_clear_and_have_no_gradient():
    field, rays = make(), some_rays(1, 6)
    rgb, alpha, distance, *gradients = measured(field, rays[:, ::3], 4, "always")
    assert not any(part.any() for part in (rgb, alpha, distance, *gradients))


def test_fused_fog_is_as_opaque_as_its_length():
    decoder = Decoder(DecoderConfig(4, 16, 3, density="exp", density_bias=math.log(0.7)))
    field = TriplaneField(Triplane(torch.zeros(1, 3, 4, 5, 5)), decoder)
    rays = Rays(torch.tensor([[[-3.0, 0.1, 0.2]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    with fused.using("always"):
        seen = march(field, rays, samples=9)
    torch.testing.assert_close(seen.alpha, 1 - torch.exp(torch.tensor([[-0.7 * 2]])))
    torch.testing.assert_close(seen.rgb, 0.5 * seen.alpha[..., None].expand(-1, -1, 3))


def test_fused_renders_a_single_triplane_as_a_batch_of_one():
    field, cameras = make(), orbit([0.0, 120.0], [10.0, 20.0])
    cameras = cameras.map(Tensor.double)
    with fused.using("always"):
        batch = render(field, cameras[None], 4, 5, samples=3, importance=0)
        single = TriplaneField(Triplane(field.planes[0]), field.decoder)
        one = render(single, cameras, 4, 5, samples=3, importance=0)
    torch.testing.assert_close(one.rgb, batch.rgb[0])


@pytest.mark.parametrize("case", ["normals", "gradient by rays", "never", "a CPU"])
def test_fused_leaves_unsupported_cases_to_the_plain_path(case, monkeypatch):
    monkeypatch.setattr(fused, "_launch", lambda *_: pytest.fail("a kernel was started"))
    rays = some_rays(1, 4)
    if case == "gradient by rays":
        rays = Rays(rays.origins.requires_grad_(), rays.directions)
    choice = {"a CPU": "auto", "never": "never"}.get(case, "always")
    with fused.using(choice):
        march(make(), rays, samples=3, with_normals=case == "normals")


@pytest.mark.parametrize("outcome", [1.0, float("nan"), RuntimeError("no compiler")])
def test_fused_kernels_that_fail_their_check_are_not_used_and_one_warning_is_given(outcome, monkeypatch):
    def check(*_: object) -> float:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(fused, "available", lambda device: True)
    monkeypatch.setattr(fused_check, "self_check", check)
    fused_check.passes.cache_clear()
    field, rays = make(), some_rays(1, 4)
    field = TriplaneField(Triplane(field.planes.float()), field.decoder.float())
    rays = rays.map(Tensor.float)
    with pytest.warns(UserWarning, match="the fused renderer is not used for pixels"):
        march(field, rays, samples=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = march(field, rays, samples=3)
    fused_check.passes.cache_clear()
    with fused.using("never"):
        torch.testing.assert_close(seen.rgb, march(field, rays, samples=3).rgb)


def test_self_check_finds_no_difference_between_the_paths():
    setup = fused.Setup(16, 1, "relu", "exp", -1.0, 0.0, 1.0, False, 0.001)
    assert fused_check.self_check(setup, "pixels", 3, 6, torch.float32, torch.device("cpu"), 9) < 1e-5


def test_fused_kernels_compile_for_hopper_into_the_memory_that_it_has(tmp_path):
    import triton

    if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas").is_file():
        pytest.skip("this Triton brings no assembler")
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels", "--only", "demo", "--product", "bfloat16", "--mode", "pixels"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| demo")]
    assert [row[3].strip() for row in rows] == ["forward", "backward"]
    assert all(int(row[5]) <= 227 * 1024 for row in rows)
