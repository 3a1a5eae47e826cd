"""The nodes of ComfyUI, loaded as ComfyUI loads them, against stand-ins for its two modules."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import torch
import trimesh
from sphere_network import RADIUS, sphere_network
from tiny_sdxl import tiny_sdxl_folder

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class ProgressBar:
    """ComfyUI's, which shows what it is given."""

    def __init__(self, total):
        self.total, self.seen = total, []

    def update_absolute(self, value, total=None):
        self.seen.append(value)


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    """The mapping of node classes that ComfyUI reads."""
    comfy, utils, folders = types.ModuleType("comfy"), types.ModuleType("comfy.utils"), types.ModuleType("folder_paths")
    utils.ProgressBar, comfy.utils = ProgressBar, utils
    folders.get_output_directory = lambda: str(tmp_path)

    def get_save_image_path(prefix, output):
        path = Path(output, prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path.parent), path.name, 1, str(path.parent.relative_to(output)), prefix

    folders.get_save_image_path = get_save_image_path
    for name, module in (("comfy", comfy), ("comfy.utils", utils), ("folder_paths", folders)):
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("custom_nodes_instant3d", FOLDER / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, package)
    spec.loader.exec_module(package)
    yield package.NODE_CLASS_MAPPINGS
    sys.modules.pop(f"{spec.name}.nodes")


def call(node, **inputs):
    """Call a node as ComfyUI does: with every required input, by the name of its function."""
    assert set(node.INPUT_TYPES()["required"]) <= inputs.keys()
    return getattr(node(), node.FUNCTION)(**inputs)


def test_comfyui_nodes_make_a_glb_of_a_prompt(nodes, tmp_path):
    stage1 = str(tiny_sdxl_folder(tmp_path / "stage1"))
    sphere_network().save_pretrained(tmp_path / "stage2")
    inputs = {"prompt": "a red ball", "seed": 3, "steps": 2, "guidance": 5.0, "stage1": stage1}
    (views,) = call(nodes["Instant3DTextToViews"], **inputs)
    assert (len(views), views.shape[1], views.shape[3]) == (4, views.shape[2], 3)
    assert 0 <= views.min() <= views.max() <= 1
    (asset,) = call(nodes["Instant3DViewsTo3D"], views=views, resolution=32, stage2=str(tmp_path / "stage2"))
    made = call(nodes["Instant3DSaveGLB"], asset=asset, filename_prefix="instant3d/ball", faces=500, texture=64)
    (shown,) = made["ui"]["3d"]
    assert made["result"] == ("instant3d/ball_00001_.glb",)
    mesh = trimesh.load(tmp_path / shown["subfolder"] / shown["filename"], force="mesh")
    assert len(mesh.faces) <= 500
    assert mesh.extents == pytest.approx([2 * RADIUS] * 3, abs=0.15)


def test_comfyui_views_node_refuses_another_number_of_views(nodes):
    with pytest.raises(ValueError, match="four views"):
        call(nodes["Instant3DViewsTo3D"], views=torch.zeros(3, 8, 8, 3), resolution=32)


def test_comfyui_example_workflow_uses_nodes_inputs_and_outputs_that_exist(nodes):
    workflow = json.loads((FOLDER / "example_workflow.json").read_text())
    own = {name: step for name, step in workflow.items() if step["class_type"] in nodes}
    assert len(own) == 3
    for step in own.values():
        declared = nodes[step["class_type"]].INPUT_TYPES()
        kinds = declared["required"] | declared.get("optional", {})
        assert step["inputs"].keys() <= kinds.keys()
        for name, value in step["inputs"].items():
            if isinstance(value, list):
                source = nodes[workflow[value[0]]["class_type"]]
                assert source.RETURN_TYPES[value[1]] == kinds[name][0]
