"""The layer table of the code base, and the proof that the imports keep to it."""

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, DATA_PREP = ROOT / "src" / "instant3d", ROOT / "data_prep"

# A file imports from the rows above its own and from its own package; members of one row know nothing of each other.
ROWS = (
    # nouns
    ("complaints", "listing"),
    ("__init__", "atomic", "batch", "bundled", "arguments", "hub", "images", "progress", "prompts", "tensor_files"),
    ("cameras", "caption_words", "devices", "sampling", "weights", "random_numbers"),
    ("system_options",),
    ("views",),
    ("scenes", "mesh"),
    # parts
    ("nerf", "transformer", "diffusion", "metrics", "clip", "residence"),
    ("losses", "schedule", "supply"),
    # systems
    ("stage1", "stage2", "direct"),
    # uses
    ("asset", "writers", "judge", "chart", "cutout", "weight_kinds"),
    ("pipeline", "results", "judge_training", "photo"),
    ("makers",),
    ("reconstruct", "generate", "evaluate", "convert", "watchers", "gallery", "doctor"),
    ("training", "demo", "generate_options", "doctor_options", "scene_options", "alignment", "consistency"),
    ("evaluate_options",),
    ("cli",),
)
NOUNS = {name for row in ROWS[: ROWS.index(("scenes", "mesh")) + 1] for name in row}
SYSTEMS = {"stage1", "stage2", "direct"}

# Heavy libraries, each with the only file that may import it, or the few, or the folder.
DOORS: dict[str, str | tuple[str, ...]] = {
    "timm": "src/instant3d/stage2/encoder.py",
    "xformers": "src/instant3d/transformer.py",
    "diffusers": "src/instant3d/diffusion/",
    "transformers": (
        "src/instant3d/diffusion/",
        "src/instant3d/clip.py",
        "data_prep/captioner.py",
        "data_prep/curation/features.py",
    ),
    "tokenizers": "src/instant3d/diffusion/small.py",
    "peft": "src/instant3d/diffusion/components.py",
    "gradio": "src/instant3d/demo.py",
    "blenderproc": ("data_prep/blender_worker.py", "data_prep/blender_scene.py"),  # run inside the renderer's Python
    "bpy": ("data_prep/blender_worker.py", "data_prep/blender_scene.py", "data_prep/blender_bridge.py"),
    "objaverse": "data_prep/objaverse.py",
    "ray": "data_prep/cluster.py",
    "torchmetrics": "src/instant3d/losses.py",
    "rembg": "src/instant3d/cutout.py",
    "fsspec": "src/instant3d/scenes/stream.py",
    "aiohttp": "src/instant3d/scenes/stream.py",
    "tqdm": "src/instant3d/progress.py",
    "triton": "src/instant3d/nerf/fused",
    "skimage": "src/instant3d/nerf/surface.py",
    "fast_simplification": "src/instant3d/mesh/surgery.py",
    "av": "src/instant3d/writers.py",
    "huggingface_hub": ("src/instant3d/hub.py", "src/instant3d/diffusion/loading.py"),
    "moderngl": "data_prep/raster_gl.py",
    "embreex": "data_prep/raycast.py",
    "sklearn": "data_prep/curation/ranking.py",
}
# whose files are imported only where they are needed, or run by another Python
EARLY = {"blenderproc", "bpy", "embreex", "moderngl", "triton"}
LIGHTNING_USES = {"training.py", "watchers.py", "schedule.py"}  # beside each system's module.py and data.py


def files() -> Iterator[Path]:
    yield from sorted(SOURCE.rglob("*.py"))
    yield from sorted(DATA_PREP.rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Names of modules that a file imports, and whether that happens when the file itself is imported."""
    tree = ast.parse(file.read_text())
    inside = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by a relative path; name the module in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((name, node not in inside) for name in names)


def member(module: str) -> str:
    """Which member of the table `instant3d.x.y` belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and any(parts[1] in row for row in ROWS) else "__init__"


def row_of(name: str) -> int:
    return next(index for index, row in enumerate(ROWS) if name in row)


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_every_file_of_the_package_has_a_row_in_the_table():
    members = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert members <= {name for row in ROWS for name in row}


def test_a_file_imports_only_from_the_rows_above_it():
    astray = []
    for file in sorted(SOURCE.rglob("*.py")):
        own = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        used = {member(name) for name, _ in imports(file) if name.split(".")[0] == "instant3d"} - {own}
        astray += [f"{relative(file)} imports {name}" for name in sorted(used) if row_of(name) >= row_of(own)]
    assert astray == []


def test_the_package_never_imports_what_stands_beside_it():
    beside = {"data_prep", "tests", "benchmarks"}
    astray = [
        relative(file) for file in SOURCE.rglob("*.py") if beside & {name.split(".")[0] for name, _ in imports(file)}
    ]
    assert astray == []


def test_data_prep_imports_nouns_only():
    for file in DATA_PREP.rglob("*.py"):
        used = {member(name) for name, _ in imports(file) if name.split(".")[0] == "instant3d"}
        assert used <= NOUNS, f"{relative(file)} imports {sorted(used - NOUNS)}"


def test_a_heavy_library_comes_in_by_its_one_door_and_late():
    astray = []
    for file in files():
        for name, early in imports(file):
            library = name.split(".")[0]
            wrong_door = not relative(file).startswith(DOORS.get(library, relative(file)))
            too_early = early and library in DOORS and library not in EARLY
            astray += [f"{relative(file)} imports {name}"] if wrong_door or too_early else []
    assert astray == []


def opens_images(file: Path) -> bool:
    """Whether a file calls `Image.open`, under whatever name it imported that, or another library that opens images."""
    tree = ast.parse(file.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    pillow = {name for name, _ in imports(file) if name.startswith("PIL")}
    readers = {name.split(".")[0] for name, _ in imports(file)} & {"cv2", "imageio"}
    return bool(
        readers or "PIL.Image.open" in pillow or (pillow and any(name.endswith("Image.open") for name in calls))
    )


def test_images_are_opened_in_one_file_alone():
    assert [relative(file) for file in files() if opens_images(file)] == ["src/instant3d/images.py"]


def test_lightning_is_known_only_to_modules_data_and_training():
    for file in files():
        in_system = file.parent.name in SYSTEMS and file.name in {"module.py", "data.py"}
        in_use = file.parent == SOURCE and file.name in LIGHTNING_USES
        known = {name.split(".")[0] for name, _ in imports(file)} & {"lightning", "pytorch_lightning"}
        assert not known or in_system or in_use, f"{relative(file)} imports {known}"


def test_every_package_is_listed_for_installation():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT / "src").parts) for path in SOURCE.rglob("__init__.py")}
    found |= {".".join(path.parent.relative_to(ROOT).parts) for path in DATA_PREP.rglob("__init__.py")}
    assert listed == found


def test_the_reader_of_imports_tells_early_from_late(tmp_path):
    (tmp_path / "sample.py").write_text("import os.path\n\ndef f():\n    from timm import models\n")
    assert set(imports(tmp_path / "sample.py")) == {("os.path", True), ("timm.models", False)}
