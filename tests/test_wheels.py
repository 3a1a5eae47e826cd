"""Both wheels, installed where nothing of the checkout is: what `pip install dist/*.whl` gives."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SOURCES = ("src", "data_prep", "configs", "wheels", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
MAX_BYTES = 100e6


def copy_of_sources(folder):
    """What wheels are built from, so that building leaves nothing in the checkout."""
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copy if source.is_file() else lambda a, b: shutil.copytree(a, b, symlinks=True, ignore=unwanted)
        copy(source, folder / name)
    (folder / "checkpoints").symlink_to(ROOT / "checkpoints")
    return folder


def build(project, dist):
    before = set(dist.glob("*.whl"))
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(dist), str(project)], check=True)
    (wheel,) = set(dist.glob("*.whl")) - before
    return wheel


def install(folder, *wheels):
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), *map(str, wheels)], check=True)
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    sources, dist = copy_of_sources(tmp_path_factory.mktemp("sources")), tmp_path_factory.mktemp("dist")
    return SimpleNamespace(code=build(sources, dist), weights=build(sources / "wheels" / "demo_weights", dist))


@pytest.fixture(scope="module")
def site(wheels, tmp_path_factory):
    return install(tmp_path_factory.mktemp("site"), wheels.code, wheels.weights)


def run(site, *words, folder, program="instant3d"):
    """An installed command, which finds what is in `site` first, in a folder; its output."""
    script = [str(site / "bin" / program)] if program else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run([*script, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_wheels_bring_nothing_but_their_own_two_packages(site):
    names = {re.sub(r"-[\d.]+(\w*)\.dist-info", ".dist-info", path.name) for path in site.iterdir()}
    own = {"instant3d", "instant3d_demo_weights"}
    assert names == {*own, *(f"{name}.dist-info" for name in own), "bin"}
    assert (site / "instant3d" / "py.typed").is_file()
    assert not list(site.rglob("tests"))


def test_wheels_have_one_version_and_the_weights_are_small_and_licensed(site, wheels):
    text = (ROOT / "src" / "instant3d" / "__init__.py").read_text()
    version = re.search(r'__version__ = "(.+)"', text)[1]
    assert {path.name.split("-")[1] for path in (wheels.code, wheels.weights)} == {version}
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert wheels.weights.stat().st_size < MAX_BYTES
    assert len(list(site.glob("*.dist-info/licenses/LICENSE"))) == 2


def test_wheels_install_every_shipped_config_and_every_card_of_the_weights(site):
    for folder, installed in (("configs", "instant3d/configs"), ("data_prep", "instant3d/data_prep")):
        tracked = subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        missing = [name for name in tracked if not (site / installed / Path(name).relative_to(folder)).is_file()]
        assert tracked
        assert missing == []
    for name in ("stage1-demo", "stage1-demo-4-steps", "stage2-demo", "direct-demo", "judge"):
        assert (site / "instant3d_demo_weights" / name / "README.md").is_file()


def test_wheels_make_an_asset_of_a_sentence_in_an_empty_folder(site, tmp_path):
    where = run(site, "-c", "import instant3d; print(instant3d.__file__)", folder=tmp_path, program=None)
    assert Path(where.stdout.strip()).is_relative_to(site)
    cheap = ["--steps", "2", "--resolution", "48"]
    done = run(site, "generate", "a red chair", "-o", "out", *cheap, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "mesh.glb").read_bytes()[:4] == b"glTF"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_wheels_let_training_find_its_config_and_the_data_side_its_plan_and_its_processes(site, tmp_path):
    helped = run(site, "fit", "stage2", "--config", "demo", "--help", folder=tmp_path)
    assert (helped.returncode, "--data.train" in helped.stdout) == (0, True), helped.stderr
    helped = run(site, "data", "render", "--help", folder=tmp_path)
    assert helped.stdout.startswith("usage: instant3d data render")
    made = run(site, "data", "procedural", "--count", "1", "-o", "objects", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    drawn = run(site, "data", "render", "objects", "-o", "scenes", "--plan", "small", "--workers", "1", folder=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert len(list(tmp_path.glob("scenes/*/transforms.json"))) == 1


def test_wheels_without_the_weights_package_give_an_error_that_names_both_ways_to_get_them(wheels, tmp_path):
    bare = install(tmp_path / "site", wheels.code)
    done = run(bare, "generate", "a red chair", "-o", "out", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install instant3d-demo-weights" in done.stderr
    assert "clone of the repository" in done.stderr
