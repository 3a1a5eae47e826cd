"""A list of prompts on Ray's workers, one of which is killed in the middle of a batch."""

import json
from pathlib import Path

import mortal_generator
import pytest
from mortal_generator import FATAL
from sphere_network import sphere_network
from tiny_sdxl import tiny_sdxl_folder

from instant3d.pipelines.generate import GenerationRequest
from instant3d.pipelines.ray_generate import ray_generate
from instant3d.utils.mesh_options import MeshOptions
from instant3d.utils.prompts import from_arguments

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="ray is not installed: pip install 'instant3d[ray]'")
PROMPTS = ["a red hat", FATAL, "a blue hat", "a\x07bell", "a green hat", "a pink hat"]
REQUEST = GenerationRequest(resolution=16, options=MeshOptions(200, 64))


def test_ray_generate_loses_nothing_and_makes_nothing_twice_after_a_worker_is_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(mortal_generator.__file__).parent))
    sphere_network().save_pretrained(tmp_path / "stage2")
    log = tmp_path / "finished.log"
    make = mortal_generator.maker(tiny_sdxl_folder(tmp_path / "stage1"), tmp_path / "stage2", log)
    found = list(ray_generate(from_arguments(PROMPTS), tmp_path / "out", make, REQUEST, batch=2, workers=2))
    assert [result.where for result in found if result.error] == ["prompt 4"]
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/result.json")]
    assert {record["prompt"] for record in records} == set(PROMPTS) - {"a\x07bell"}
    assert log.with_suffix(".killed").exists()
    assert sorted(log.read_text().splitlines()) == sorted(set(PROMPTS) - {"a\x07bell"})
