"""What is fuzzed: each target names sound inputs and the function that reads them, as a command would.

A reader may also check what it read: an AssertionError is a finding like any other.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.mutators import Files
from tests.fuzz.sandbox import Read, put

LONGEST_LINE = 2000


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        seeds: Makes the sound inputs that others are made of.
        read: Reads an input that lies in a folder; raises one of our errors, or returns.
    """

    seeds: Callable[[], list[Files]]
    read: Read


def read_mesh(folder: Path) -> None:
    """Load an object's file and check it; write it again in all formats."""
    from instant3d import mesh

    suffixes = (".glb", ".gltf", ".obj", ".ply")
    path = next((path for path in folder.iterdir() if path.suffix in suffixes), folder / "object.glb")
    parts = mesh.load(path)
    for part in parts:
        assert np.isfinite(part.vertices).all()
        assert part.faces.max(initial=-1) < len(part.vertices)
        assert part.colors is None or ((part.colors >= 0) & (part.colors <= 1)).all(), "colours"
    sizes = sum(len(part.faces) for part in parts)
    if sizes < 1000:
        for suffix in (".glb", ".obj", ".ply"):
            mesh.save(parts, folder / "again" / f"again{suffix}")


def read_scene(folder: Path) -> None:
    """Read a scene as training does, at its own size and another, and check its views."""
    from instant3d import scenes

    for size in (None, 8):
        scene = scenes.read(folder, size=size)
        views = scene.views
        for values in (views.rgb, views.alpha):
            assert values.isfinite().all()
            assert 0 <= float(values.min()) <= float(values.max()) <= 1
        assert views.depth is None or views.depth.isfinite().all()
        assert views.normals is None or views.normals.isfinite().all()
        assert views.cameras.cam_to_world.isfinite().all()
        assert views.cameras.intrinsics.isfinite().all()


def read_doctor(folder: Path) -> None:
    """Look a scene over: whatever is wrong with it is a finding of the doctor's, and ends nothing."""
    from instant3d.scenes.checks import check

    try:
        reports, findings = check.check_scenes([folder], jobs=1)
        lines = list(check.lines(reports, findings))
        check.report(reports, findings)
    except ValueError as error:
        raise AssertionError(f"the doctor gave up: {error}") from error
    except FileNotFoundError:  # there is no scene left
        return
    assert lines
    assert max(map(len, lines)) < LONGEST_LINE, "a line that is no sentence"


def read_image(folder: Path) -> None:
    """Open an image by each door: as a picture with and without its mask, as a texture, as raw levels."""
    from instant3d.mesh.untrusted import ImageDecoder
    from instant3d.scenes import geometry_maps
    from instant3d.scenes import images as scene_images
    from instant3d.utils import images

    data = next((path.read_bytes() for path in sorted(folder.glob("image.*"))), b"")
    mask = folder / "mask.png"
    doors: tuple[Callable[[], object], ...] = (
        lambda: images.open_image(data, "an image", upright=True),
        lambda: images.open_image(data, "an image", enough=4),
        lambda: scene_images.decode(data, None, "an image"),
        lambda: scene_images.decode(data, mask.read_bytes() if mask.exists() else data, "an image", 4),
        lambda: geometry_maps.decode_levels(data, (seeds.SIDE, seeds.SIDE), "an image"),
        lambda: ImageDecoder().decode(data),
    )
    _all_of(doors)


def read_maps(folder: Path) -> None:
    """Depth as PNG or .npy, and normals."""
    from instant3d.scenes import geometry_maps

    size = (seeds.SIDE, seeds.SIDE)
    grid = geometry_maps.MapGrid(size, size)
    normals = folder / "normals.png"

    def depth(path: Path) -> None:
        values = geometry_maps.decode_depth(path.read_bytes(), 0.001, grid, "a depth map")
        assert values.shape == size
        assert np.isfinite(values).all()

    doors: list[Callable[[], object]] = [lambda path=path: depth(path) for path in folder.glob("depth.*")]
    doors += [lambda: geometry_maps.decode_normals(normals.read_bytes(), grid, "normals")] if normals.exists() else []
    _all_of(doors)


def read_shards(folder: Path) -> None:
    """Read tars in one pass, by their index, and unpack them; nothing may land outside of the target."""
    from instant3d.scenes import shards
    from instant3d.scenes.dataset import SceneSources
    from instant3d.scenes.unpack import unpack

    def by_number() -> None:
        sources = SceneSources.find([folder / "shards"])
        for k in range(min(len(sources), 3)):
            sources.identity(k), sources.name(k), sources.where(k), sources.read(k, size=8)

    before = set(folder.rglob("*"))
    doors: tuple[Callable[[], object], ...] = (
        lambda: list(shards.read(folder / "shards")),
        lambda: [packed.read() for packed in shards.index(folder / "shards")],
        by_number,
        lambda: _report(unpack(folder / "shards", folder / "out").damage),
    )
    try:
        _all_of(doors)
    finally:
        outside = [path for path in folder.rglob("*") if path not in before and not path.is_relative_to(folder / "out")]
        assert not outside, f"unpacking wrote {outside}"


def _report(damage: list[str]) -> None:
    assert all(" " in words.strip() and len(words) < LONGEST_LINE for words in damage), "damage that is no sentence"


def read_layout(name: str) -> Read:
    """Import an object of another project's layout: its faults are reported, and end nothing."""

    def read(folder: Path) -> None:
        from instant3d.scenes import importers

        (folder / "all").mkdir()
        (folder / "object").mkdir()
        for path in list(folder.iterdir()):
            if path.name not in ("all", "object"):
                path.rename(folder / "object" / path.name)
        (folder / "object").rename(folder / "all" / "object")
        try:
            results = list(importers.convert(folder / "all", folder / "out", importers.ImportSettings(name)))
        except ValueError as error:
            raise AssertionError(f"the import gave up: {error}") from error
        assert all(result.state == "new" or " " in result.reason.strip() for result in results)
        assert not any("(--debug shows where)" in result.reason for result in results), results[0].reason

    return read


def read_captures(folder: Path) -> None:
    """Read the cameras of a capture in the layout that its files tell."""
    from instant3d.scenes import capture_layouts

    marks = {"transforms.json": "nerfstudio", "keyframes": "polycam", "metadata.json": "record3d"}
    layout = next((layout for mark, layout in marks.items() if (folder / mark).exists()), "colmap")
    document = capture_layouts.read_capture(layout, folder)
    for k in range(document.count):
        assert all(math.isfinite(number) for number in document.frame(k).pinhole(64, 48))


def read_prompts(folder: Path) -> None:
    """A list of prompts, as `generate` takes it; and as a list of words, ids and names."""
    from data_prep.manifests import id_lists
    from data_prep.sources import selection
    from instant3d.direct.prompt_sets import read_prompt_set
    from instant3d.utils import prompts

    path = next(iter(sorted(folder.iterdir())), folder / "prompts.txt")

    def listed() -> None:
        for prompt in prompts.read_prompts(path):
            assert prompt.error or not prompts.prompt_error(prompt.text)
            assert prompts.slug(prompt.text)

    _all_of(
        (listed, lambda: read_prompt_set(str(path)), lambda: id_lists.read_list(path), lambda: selection.names_in(path))
    )


def read_manifest(folder: Path) -> None:
    """Objects by their manifest, in each way that reads one."""
    from data_prep.captions.captions import read_manifest as read_captions
    from data_prep.manifests import failure_log, object_manifest

    path = folder / "objects.jsonl"

    def found() -> None:
        for item in object_manifest.find(path, split="train", licenses=["CC-BY-4.0", "CC0-1.0"]):
            assert item.path.is_relative_to(folder.resolve())
            assert item.caption is None or isinstance(item.caption, str)

    _all_of((found, lambda: object_manifest.find_all([folder]), lambda: list(read_captions(path)),
             lambda: failure_log.read(path)))  # fmt: skip


def read_network(kind: str) -> Read:
    """A folder of config.json and model.safetensors, as the commands load it."""

    def read(folder: Path) -> None:
        from instant3d.direct.network import TextToTriplane
        from instant3d.pipelines import weights
        from instant3d.stage2.network import Reconstructor

        weights.kind_of(folder)
        loader = {"stage2": Reconstructor, "direct": TextToTriplane}[kind]
        loader.from_pretrained(folder)

    return read


def read_checkpoint(folder: Path) -> None:
    """A stranger's checkpoint by each converter, with the settings beside it; nothing in it is run."""
    from instant3d.pipelines import convert
    from instant3d.pipelines.convert import source

    _all_of(
        [
            lambda: source.read_source(folder / "model.ckpt", wanted=[]),
            *(
                lambda family=family: convert.inspect(family, folder / "model.ckpt")
                for family in ("openlrm", "triposr", "instantmesh")
            ),
        ]
    )


def read_asset(folder: Path) -> None:
    """A triplane with its decoder."""
    from instant3d.nerf.triplane_file import read_triplane

    read_triplane(folder / "triplane.safetensors")


def read_lists(folder: Path) -> None:
    """What people and tools write by hand or export: labels, rankings, captions, words, plans."""
    from data_prep.captions.captions import read_cap3d
    from data_prep.manifests import id_lists
    from data_prep.rendering import render_plan
    from instant3d.utils.caption_words import CaptionWords

    readers: dict[str, Callable[[Path], object]] = {
        "labels.txt": id_lists.read_labels,
        "labels.json": id_lists.read_labels,
        "ranking.jsonl": id_lists.read_ranking,
        "captions.csv": lambda path: list(read_cap3d(path)),
        "caption_words.txt": lambda path: CaptionWords.read(path.parent),
        "plan.yaml": render_plan.read,
    }
    _all_of([lambda path=path: readers[path.name](path) for path in sorted(folder.iterdir())])


def _all_of(doors: Iterable[Callable[[], object]]) -> None:
    """Go through all doors; the first refusal that is no good one is raised, else the first."""
    from tests.fuzz.judge import complaint

    errors: list[Exception] = []
    for door in doors:
        try:
            door()
        except Exception as error:  # judged below
            errors.append(error)
    bad = [error for error in errors if complaint(error)]
    for error in [*bad, *errors][:1]:
        raise error


def _list_seeds() -> list[Files]:
    lists = {
        "labels.txt": b"# labels\nchair\tgood\nboat\tbad\n",
        "labels.json": b'{"format": "instant3d-labels-1", "labels": [["chair", "good"], ["boat", "skip"]]}',
        "ranking.jsonl": b'{"rank": 1, "id": "chair", "score": 0.5}\n{"rank": 2, "id": "boat", "score": -1}\n',
        "captions.csv": b'chair,a red chair\nboat,"a boat, blue"\n',
        "caption_words.txt": b"red\t5\nfire hydrant\t2\n",
        "plan.yaml": b"size: 64\nrandom_views: 2\nelevation_deg: [-20, 40]\nlighting: flat\n",
    }
    return [{name: data} for name, data in lists.items()]


TARGETS = {
    "glb": Target(lambda: seeds.saved_mesh(".glb"), read_mesh),
    "gltf": Target(seeds.gltf_documents, read_mesh),
    "obj": Target(seeds.obj, read_mesh),
    "ply": Target(seeds.ply, read_mesh),
    "scene": Target(seeds.scene_folders, read_scene),
    "doctor": Target(seeds.scene_folders, read_doctor),
    "image": Target(seeds.image_files, read_image),
    "maps": Target(seeds.depth_maps, read_maps),
    "shards": Target(seeds.shards, read_shards),
    **{
        f"import-{name}": Target(lambda name=name: [seeds.layouts()[name]], read_layout(name))
        for name in ("openlrm", "instantmesh", "zero123", "gobjaverse", "nerf-synthetic")
    },
    "captures": Target(seeds.captures, read_captures),
    "prompts": Target(seeds.prompt_lists, read_prompts),
    "manifest": Target(seeds.manifests, read_manifest),
    "lists": Target(_list_seeds, read_lists),
    "stage2": Target(lambda: [seeds.networks()["stage2"]], read_network("stage2")),
    "direct": Target(lambda: [seeds.networks()["direct"]], read_network("direct")),
    "checkpoint": Target(seeds.checkpoints, read_checkpoint),
    "asset": Target(seeds.assets, read_asset),
}


@cache
def seeds_of(name: str) -> list[Files]:
    """A target's sound inputs, made once."""
    return TARGETS[name].seeds()


def reader(name: str) -> Read:
    """A target's reader by its name; ready, so that what it imports is there before anything is measured."""
    _warm(name)
    return TARGETS[name].read


@cache
def _warm(name: str) -> None:
    for files in seeds_of(name):
        with tempfile.TemporaryDirectory(prefix="fuzz-warm-") as folder, suppress(ValueError):
            put(files, Path(folder))
            TARGETS[name].read(Path(folder))
