"""The Blender add-on in a real Blender (bpy), against a server with a quick worker."""

import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

ROOT = Path(__file__).parents[2]
ADDON = ROOT / "integrations" / "blender" / "instant3d_addon.py"
PYTHON = ROOT / ".venv-render" / "bin" / "python"
SCRIPT = """
import importlib.util, sys
import bpy
spec = importlib.util.spec_from_file_location("instant3d_addon", sys.argv[1])
addon = importlib.util.module_from_spec(spec)
spec.loader.exec_module(addon)
addon.register()
addon.server_of = lambda context: (sys.argv[2], "a-long-secret")
settings = bpy.context.scene.instant3d
settings.prompt, settings.seed, settings.faces = sys.argv[3], 4, 900
before = set(bpy.data.objects)
try:
    print("result", bpy.ops.instant3d.generate())
except RuntimeError as error:
    print("error", error)
new = set(bpy.data.objects) - before
print("new", [(each.type, tuple(round(side, 3) for side in each.dimensions)) for each in new])
addon.unregister()
"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="Blender is not set up here")]


def run_in_blender(server, prompt):
    done = subprocess.run(
        [str(PYTHON), "-c", SCRIPT, str(ADDON), server, prompt], capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


def test_blender_addon_imports_what_the_server_made(start_server, tmp_path, monkeypatch):
    trimesh.creation.box((0.5, 1.0, 2.0)).export(tmp_path / "box.glb")  # +y is up in the file, +z in Blender
    monkeypatch.setenv("QUICK_WORKER_MESH", str(tmp_path / "box.glb"))
    printed = run_in_blender(start_server(token="a-long-secret"), "a box")
    assert "result {'FINISHED'}" in printed
    assert "('MESH', (0.5, 2.0, 1.0))" in printed


def test_blender_addon_reports_the_servers_sentence(start_server):
    printed = run_in_blender(start_server(token="a-long-secret"), "a bad thing")
    assert "the asset has no surface" in printed
    assert "new []" in printed


def test_blender_addon_needs_nothing_but_blender():
    names = {
        line.split()[1].split(".")[0]
        for line in ADDON.read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert names - {"bpy"} <= sys.stdlib_module_names
