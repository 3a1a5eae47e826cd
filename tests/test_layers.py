"""The packages in their order, and the proof that the imports keep to it."""

import ast
import functools
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, DATA_PREP = ROOT / "src" / "instant3d", ROOT / "data_prep"

# A package imports from the rows above its own and from itself.
ROWS = (
    ("utils", "client"),
    ("cameras",),
    ("views",),
    ("mesh", "scenes"),
    ("nerf",),
    ("modules",),
    ("stage1", "stage2", "direct"),
    ("pipelines",),
    ("training", "evaluation", "serve"),
    ("cli",),
)
DATA_PREP_ROWS = (
    ("manifests", "execution"),
    ("rendering", "curation"),
    ("procedural", "report"),
    ("captions", "sources"),
    ("demo_weights",),
    ("attribution", "names", "recolour", "render", "variants"),  # doors: `python -m data_prep.render`
)
FOR_DATA_PREP = {"utils", "cameras", "views", "mesh", "scenes"}
MODELS = {"stage1", "stage2", "direct"}

INSIDE_BLENDER = tuple(f"data_prep/rendering/blender_{name}.py" for name in ("worker", "scene", "bridge"))
# Heavy libraries, each with the only file that may import it, or the few, or the folder.
DOORS: dict[str, str | tuple[str, ...]] = {
    "timm": ("src/instant3d/stage2/encoder.py", "src/instant3d/modules/feature_loss.py"),
    "fastapi": tuple(f"src/instant3d/serve/{part}.py" for part in ("app", "compatible", "page_routes")),
    "httpx": "src/instant3d/client.py",
    "uvicorn": "src/instant3d/serve/server.py",
    "xformers": "src/instant3d/modules/xformers_attention.py",
    "bitsandbytes": "src/instant3d/modules/optimizers.py",
    "diffusers": "src/instant3d/modules/diffusion/",
    "transformers": (
        "src/instant3d/modules/diffusion/",
        "src/instant3d/modules/clip.py",
        "data_prep/captions/blip2.py",
        "data_prep/curation/features.py",
    ),
    "tokenizers": tuple(
        f"src/instant3d/modules/diffusion/{part}.py" for part in ("tiny_models", "inference/clip_text")
    ),
    "peft": "src/instant3d/modules/diffusion/lora_training.py",
    "blenderproc": INSIDE_BLENDER,
    "bpy": INSIDE_BLENDER,
    "objaverse": "data_prep/sources/objaverse.py",
    "ray": tuple(f"src/instant3d/{part}.py" for part in ("utils/ray_pool", "serve/ray_workers", "serve/ray_replica")),
    "torchmetrics": "src/instant3d/modules/losses.py",
    "rembg": "src/instant3d/pipelines/background_removal.py",
    "pillow_heif": "src/instant3d/utils/images.py",
    "onnxruntime": "src/instant3d/pipelines/background_removal.py",
    "fsspec": "src/instant3d/scenes/shard_cache.py",
    "aiohttp": "src/instant3d/scenes/shard_cache.py",
    "tqdm": "src/instant3d/utils/progress.py",
    "skimage": "src/instant3d/nerf/mesh_extraction.py",
    "triton": tuple(f"src/instant3d/nerf/fused{part}.py" for part in ("", "_check", "_kernels", "_parts")),
    "fast_simplification": ("src/instant3d/mesh/processing.py", "src/instant3d/mesh/simplification.py"),
    "xatlas": "src/instant3d/mesh/xatlas_worker.py",
    "av": "src/instant3d/utils/visualization.py",
    "huggingface_hub": ("src/instant3d/utils/hub.py", "src/instant3d/modules/diffusion/loading.py"),
    "manifold3d": ("src/instant3d/mesh/solids.py", "data_prep/procedural/"),
    "isal": "src/instant3d/utils/png.py",
    "moderngl": "data_prep/rendering/opengl.py",
    "embreex": "data_prep/rendering/embree.py",
    "sklearn": "data_prep/curation/ranking.py",
}
# whose files are imported only where they are needed, or run by another Python
EARLY = {"fastapi", "httpx", "uvicorn", "blenderproc", "bpy", "embreex", "manifold3d", "moderngl", "triton", "xatlas"}
LIGHTNING_USES = {  # beside each model's module.py and data.py
    "src/instant3d/training/fit.py",
    "src/instant3d/training/callbacks.py",
    "src/instant3d/training/prediction_writers.py",
    "src/instant3d/training/sharded_strategy.py",
    "src/instant3d/modules/lr_schedule.py",
}


def files() -> Iterator[Path]:
    yield from sorted(SOURCE.rglob("*.py"))
    yield from sorted(DATA_PREP.rglob("*.py"))


@functools.cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@functools.cache
def imports(file: Path) -> list[tuple[str, bool]]:
    """Names of modules that a file imports, and whether that happens when the file itself is imported."""
    found = []
    for node, early in _statements(tree(file)):
        if isinstance(node, ast.Import):
            found += [(alias.name, early) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{_origin(node, file)}.{alias.name}", early) for alias in node.names]
    return found


def _statements(node: ast.AST, early: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """The statements in a node, and whether they run when the file is imported: see `_is_run_later`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child, early
            yield from _statements(child, early and not _is_run_later(child))


def _is_run_later(node: ast.AST) -> bool:
    """Whether its content is not executed when the file is imported: a function, or what only type checkers read."""
    checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return checked or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _origin(node: ast.ImportFrom, file: Path) -> str:
    """What stands between `from` and `import`, in full."""
    if not node.level:
        return str(node.module)
    here = file.relative_to(DATA_PREP.parent).parts[: -node.level]
    return ".".join([*here, *([node.module] if node.module else [])])


def member(module: str) -> str:
    """The member of the table that `instant3d.x.y` belongs to; of `instant3d` itself, none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] not in ("__version__", "__init__") else ""


def astray(folder: Path, rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports inside `folder` that do not lead upwards in its table."""
    height = {"": -1} | {name: height for height, row in enumerate(rows) for name in row}
    found = []
    for file in sorted(folder.rglob("*.py")):
        own = file.relative_to(folder).parts[0].removesuffix(".py").removeprefix("__init__")
        used = {member(name) for name, _ in imports(file) if name.split(".")[0] == folder.name} - {own}
        found += [f"{relative(file)} imports {name}" for name in sorted(used) if height[name] >= height[own]]
    return found


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_layers_tables_hold_every_package_and_nothing_else():
    for folder, rows in ((SOURCE, ROWS), (DATA_PREP, DATA_PREP_ROWS)):
        members = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/*.py")}
        assert members - {"__init__"} == {name for row in rows for name in row}


def test_layers_every_door_and_every_file_of_lightning_exists():
    doors = [door for entry in DOORS.values() for door in ([entry] if isinstance(entry, str) else entry)]
    assert [door for door in [*doors, *LIGHTNING_USES] if not (ROOT / door).exists()] == []


def test_layers_a_package_imports_only_from_the_rows_above_it():
    assert astray(SOURCE, ROWS) == []
    assert astray(DATA_PREP, DATA_PREP_ROWS) == []


def test_layers_the_package_never_imports_what_stands_beside_it():
    beside = {"data_prep", "tests", "benchmarks"}
    found = [
        relative(file) for file in SOURCE.rglob("*.py") if beside & {name.split(".")[0] for name, _ in imports(file)}
    ]
    assert found == []


def test_layers_data_prep_imports_low_packages_only_and_itself_by_relative_paths():
    for file in DATA_PREP.rglob("*.py"):
        used = {member(name) for name, _ in imports(file) if name.split(".")[0] == "instant3d"} - {""}
        assert used <= FOR_DATA_PREP, f"{relative(file)} imports {sorted(used - FOR_DATA_PREP)}"
        assert "from data_prep" not in file.read_text(), f"{relative(file)} would fail under another name"


def test_layers_no_modules_import_each_other_in_a_circle():
    known = {".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in SOURCE.rglob("*.py")}
    known |= {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in DATA_PREP.rglob("*.py")}
    graph = TopologicalSorter()
    for file in files():
        own = ".".join(file.relative_to(SOURCE.parent if SOURCE in file.parents else ROOT).with_suffix("").parts)
        for name, early in imports(file):
            found = [each for each in (name, name.rpartition(".")[0]) if each in known]
            graph.add(own, *found[:1] if early else [])
    graph.prepare()  # raises CycleError


def test_layers_every_folder_of_modules_is_a_package_that_installation_finds():
    assert [relative(file) for file in files() if not (file.parent / "__init__.py").is_file()] == []


def test_layers_a_heavy_library_is_imported_in_its_one_file_and_late():
    found = []
    for file in files():
        for name, early in imports(file):
            library = name.split(".")[0]
            elsewhere = not relative(file).startswith(DOORS.get(library, relative(file)))
            too_early = early and library in DOORS and library not in EARLY
            found += [f"{relative(file)} imports {name}"] if elsewhere or too_early else []
    assert found == []


def opens_images(file: Path) -> bool:
    """Whether a file calls `Image.open`, under whatever name it imported that, or another library that opens images."""
    names = {name for name, _ in imports(file)}
    pillow = {name for name in names if name.startswith("PIL")}
    if {"cv2", "imageio"} & {name.split(".")[0] for name in names} or "PIL.Image.open" in pillow:
        return True
    calls = (ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call))
    return bool(pillow) and any(name.endswith("Image.open") for name in calls)


def test_layers_images_are_opened_in_one_file_alone():
    assert [relative(file) for file in files() if opens_images(file)] == ["src/instant3d/utils/images.py"]


def test_layers_lightning_is_imported_only_by_modules_data_and_training():
    for file in files():
        in_model = file.parent.name in MODELS and file.name in {"module.py", "data.py"}
        in_use = relative(file) in LIGHTNING_USES
        known = {name.split(".")[0] for name, _ in imports(file)} & {"lightning", "pytorch_lightning"}
        assert not known or in_model or in_use, f"{relative(file)} imports {known}"


def test_layers_import_reader_distinguishes_early_from_late(tmp_path):
    (tmp_path / "sample.py").write_text("import os.path\n\ndef f():\n    from timm import models\n")
    assert set(imports(tmp_path / "sample.py")) == {("os.path", True), ("timm.models", False)}
