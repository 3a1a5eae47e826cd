"""Objects a second of the fast renderer, part by part: `python -m benchmarks.render_data OBJECTS`.

Renders --count of the objects as `instant3d data render` does, and once more with the encoding of files that it had
before: through float views, by Pillow. Both must decode to the same pixels. Times are seconds of the processor, the
best of --rounds for each part. In software OpenGL draws in the same thread, so its part is large; on a GPU it is not.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from data_prep.manifests import object_manifest
from data_prep.manifests.object_manifest import Item
from data_prep.rendering import opengl, render_plan
from data_prep.rendering.pixels import to_views
from data_prep.rendering.render_object import prepare
from data_prep.rendering.render_plan import Plan
from data_prep.rendering.triangle_soup import flatten
from instant3d import scenes
from instant3d.mesh import load, normalized
from instant3d.scenes.scene_files import DOCUMENT
from instant3d.utils.images import encode_png

PILLOW_LEVEL = 2  # of compression, before
PARTS = ("cameras", "mesh", "OpenGL", "encode", "write")
T = TypeVar("T")


class Clock:
    """Processor seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def __call__(self, part: str, run: Callable[[], T]) -> T:
        start = time.process_time()
        result = run()
        self.seconds[part] += time.process_time() - start
        return result


def render(item: Item, plan: Plan, folder: Path, before: bool, clock: Clock) -> dict[str, bytes]:
    """One object, as `render_object` renders it, with a clock on each part; returns the files of its scene."""
    cameras = clock("cameras", lambda: plan.cameras(item.id))
    soup = clock("mesh", lambda: flatten(normalized(load(item.path, item.up)), max(1024, 2 * plan.size)))
    world_to_cam = np.linalg.inv(cameras.cam_to_world.double().numpy())
    lens, look = cameras.intrinsics.double().numpy(), {"soft": plan.lighting == "soft", "supersample": plan.supersample}
    rgba, maps = clock("OpenGL", lambda: opengl.draw(soup, world_to_cam, lens, plan.size, maps=plan.maps, **look))
    depth = maps["depth"][..., 0] if "depth" in maps else None

    def encode() -> dict[str, bytes]:
        pixels = scenes.ViewPixels(rgba, cameras, depth, maps.get("normals"))
        return pixels.encode(caption=item.caption, object_id=item.id)

    files = clock("encode", (lambda: encode_by_pillow(to_views(rgba, maps, cameras))) if before else encode)
    clock("write", lambda: write(folder, files))
    return files


def encode_by_pillow(views: Any) -> dict[str, bytes]:
    """The images of float views by Pillow: how scenes were encoded before."""
    levels = [(part.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy() for part in (views.rgb, views.alpha)]
    files = {DOCUMENT: b"{}"}
    for k, image in enumerate(np.concatenate(levels, -1)):
        files[f"images/{k:04d}.png"] = encode_png(image, PILLOW_LEVEL)
        if views.depth is not None:
            depth, unit = views.depth[k, 0].double().numpy(), max(float(views.depth.max()), 1e-6) / 65535
            steps = np.where(depth > 0, np.clip(np.round(depth / unit), 1, 65535), 0)
            files[f"depth/{k:04d}.png"] = encode_png(steps.astype(np.uint16), PILLOW_LEVEL)
        if views.normals is not None:
            vectors = views.normals[k].permute(1, 2, 0).numpy()
            files[f"normals/{k:04d}.png"] = encode_png(
                np.round(np.clip(vectors, -1, 1) * 127 + 128).astype(np.uint8), PILLOW_LEVEL
            )
    return files


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    shutil.rmtree(folder)


def check_equal(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> None:
    """Compare the pixels of two scenes as Pillow decodes them."""
    assert old.keys() == new.keys()
    for name in old.keys() - {DOCUMENT}:
        first, second = (np.asarray(Image.open(io.BytesIO(files[name]))) for files in (old, new))
        if first.dtype != second.dtype or not np.array_equal(first, second):
            raise ValueError(f"{name} has other pixels than before")


def rows(items: Sequence[Item], plan: Plan, rounds: int) -> Iterator[str]:
    """One line a way of encoding."""
    yield f"{len(items)} objects, {len(plan.cameras('').intrinsics)} views of {plan.size} px, maps: {plan.maps}"
    yield "ms an object" + "".join(f"{part:>9}" for part in PARTS) + f"{'outside GL':>12}{'all':>8}{'objects/s':>11}"
    best = {before: dict.fromkeys(PARTS, float("inf")) for before in (True, False)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds + 1):  # the first one compiles shaders
            clocks = {True: Clock(), False: Clock()}
            for item in items:
                made = [render(item, plan, Path(folder, item.id), before, clocks[before]) for before in (True, False)]
                check_equal(*made)
            for before, clock in clocks.items():
                best[before] = {part: min(best[before][part], clock.seconds[part]) for part in PARTS}
    for before, seconds in best.items():
        each = {part: 1000 * seconds[part] / len(items) for part in PARTS}
        whole = sum(each.values())
        yield (
            f"{'before' if before else 'now':12}"
            + "".join(f"{each[part]:9.1f}" for part in PARTS)
            + f"{whole - each['OpenGL']:12.1f}{whole:8.1f}{1000 / whole:11.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("objects", nargs="+", help="folders of objects, or .jsonl manifests")
    parser.add_argument("--plan", help="file, or a name such as small (default: 128 px, 24 views, depth)")
    parser.add_argument("--count", type=int, default=12, help="objects, chosen by chance (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    try:
        plan = render_plan.read(options.plan) if options.plan else Plan()
        prepare(plan, "gl")
        items = object_manifest.find_all(options.objects)
        for row in rows(random.Random(0).sample(items, min(options.count, len(items))), plan, options.rounds):
            print(row, flush=True)
    except (ValueError, OSError) as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software driver then draws in the calling thread
    sys.exit(main())
