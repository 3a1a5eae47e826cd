"""The commands that make data and weights, on a machine without the packages that only some of their kind need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from balls import write_balls
from tiny_sdxl import tiny_sdxl_folder

from data_prep.rendering import opengl

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
WITHOUT = (  # as they are imported
    "accelerate", "av", "blenderproc", "bpy", "cv2", "embreex", "objaverse", "peft", "ray", "sklearn", "tensorboard",
    "torchvision",
)  # fmt: skip
INSIDE_BLENDER = (
    "data_prep.rendering.blender_worker",
    "data_prep.rendering.blender_scene",
    "data_prep.rendering.blender_bridge",
)
TINY = {
    "image_size": 32, "encoder": "plucker", "encoder_width": 32, "encoder_depth": 1, "encoder_heads": 2, "patch": 8,
    "width": 64, "depth": 1, "heads": 2, "token_side": 4, "plane_side": 16, "channels": 16, "decoder_width": 32,
    "decoder_layers": 3,
}  # fmt: skip


def run(script, *words):
    """A script in a fresh Python that lacks the packages."""
    search = [FIXTURES / "lean", *filter(None, [os.environ.get("PYTHONPATH")]), ROOT]
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search)), "WITHOUT": ",".join(WITHOUT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def config(path, **sections):
    path.write_text(yaml.safe_dump(sections))
    return path


def has_opengl():
    try:
        opengl.shared_context()
    except opengl.Unavailable:
        return False
    return True


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """The folder in which all commands ran, in one Python, for its imports take most of the time; what they said."""
    place = tmp_path_factory.mktemp("lean")
    balls, model = write_balls(place / "balls"), tiny_sdxl_folder(place / "model")
    (place / "prompts.txt").write_text("a red chair\n")
    given = [*making(place), *stage1(place, balls, model), *stage2(place, balls), *measuring(place, model)]
    script = "import importlib, json, sys\nfor name, *words in json.loads(sys.argv[1]):\n"
    script += "    assert importlib.import_module(name).main(words) == 0, words"
    done = run(script, json.dumps([[str(word) for word in command] for command in given]))
    assert done.returncode == 0, done.stderr
    return place, done.stderr


def making(place):
    """Commands that make, render and paint an object."""
    if not has_opengl():
        return []
    (place / "plan.yaml").write_text("{size: 16, random_views: 0, depth: false}")
    plan = ["--plan", place / "plan.yaml", "--workers", 1]
    return [
        ["data_prep.procedural.__main__", "--count", 1, "-o", place / "objects"],
        ["data_prep.render", place / "objects", "-o", place / "scenes", *plan],
        ["data_prep.recolour", place / "scenes", "-o", place / "painted", "--colours", 1, "--workers", 1],
    ]


def stage1(place, balls, model):
    settings = config(
        place / "stage1.yaml",
        model={"base": str(model)},
        data={"train": [str(place / "cache")], "batch_size": 2, "workers": 0},
        trainer={"max_steps": 2, "default_root_dir": str(place / "run1")},
    )
    return [
        ["instant3d.cli.main", "cache-stage1", balls, "--model", model, "-o", place / "cache"],
        ["instant3d.cli.main", "fit", "stage1", "-c", "configs/trainer/cpu.yaml", "-c", settings],
        ["instant3d.cli.main", "export", place / "run1", "-o", place / "weights1"],
    ]


def stage2(place, balls):
    weights = ["--weights", place / "weights2", "--resolution", 24]
    settings = config(
        place / "stage2.yaml",
        model={"architecture": TINY, "ray_marching": {"samples": 4}, "vgg_weights": None},
        data={"train": [str(balls)], "batch_size": 2, "workers": 0, "view_sampling": {"patch": 8, "zoom": [16, 32]}},
        trainer={"max_steps": 2, "limit_val_batches": 0, "default_root_dir": str(place / "run2")},
    )
    return [
        ["instant3d.cli.main", "fit", "stage2", "-c", "configs/trainer/cpu.yaml", "-c", settings],
        ["instant3d.cli.main", "export", place / "run2", "-o", place / "weights2"],
        [
            "instant3d.cli.main",
            "evaluate",
            "reconstruction",
            balls,
            "-o",
            place / "numbers",
            "--views",
            "0,1",
            *weights,
        ],
        ["instant3d.cli.main", "reconstruct", balls / "red", "-o", place / "red", "--texture", 64, *weights],
    ]


def measuring(place, model):
    words = ["--prompts", place / "prompts.txt", "-o", place / "alignment", "--steps", 1]
    small = ["--stage1", model, "--stage2", place / "weights2"]
    return [["instant3d.cli.main", "evaluate", "text", *words, *small]]


def test_lean_machine_imports_every_module():
    files = [*(ROOT / "data_prep").rglob("*.py"), *(ROOT / "src" / "instant3d").rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("src.") for file in files}
    names = {name.removesuffix(".__init__") for name in names if not name.endswith("__main__")}
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = run(script, *names - {*INSIDE_BLENDER})
    assert done.returncode == 0, done.stderr


def test_lean_machine_packages_are_neither_found_nor_listed():
    script = "import importlib.util, importlib.metadata as m, sys\n"
    script += "assert not [name for name in sys.argv[1:] if importlib.util.find_spec(name)]\n"
    script += "for name in ('scikit-learn', *sys.argv[1:]):\n"
    script += "    try: m.version(name)\n    except m.PackageNotFoundError: continue\n    sys.exit(name)"
    done = run(script, *WITHOUT)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not has_opengl(), reason="there is no OpenGL with EGL here")
def test_lean_machine_makes_renders_and_paints_objects(machine):
    assert len(list((machine[0] / "painted").glob("*/transforms.json"))) == 2


def test_lean_machine_caches_trains_and_exports_stage_1(machine):
    assert (machine[0] / "weights1" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_lean_machine_trains_exports_measures_and_uses_stage_2_but_for_the_video(machine):
    place, printed = machine
    assert "instant3d: note: turntable.mp4 is left out, for videos need PyAV: pip install av\n" in printed
    files = json.loads((place / "red" / "result.json").read_text())["files"]
    assert "turntable.webp" in files
    assert "turntable.mp4" not in files


def test_lean_machine_measures_what_prompts_give(machine):
    assert (machine[0] / "alignment" / "metrics.json").is_file()
