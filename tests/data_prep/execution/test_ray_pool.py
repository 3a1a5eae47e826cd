"""Ray on this machine does what the plain processes do, and survives the loss of its own workers."""

import json
import os
import sys
from pathlib import Path

import odd_jobs
import pytest
import trimesh

from data_prep.execution import process_limits, ray_pool
from data_prep.execution.process_limits import JobLimits
from data_prep.rendering import render
from instant3d.mesh import Mesh

pytestmark = pytest.mark.slow

pytest.importorskip("ray", reason="ray is not installed: pip install 'instant3d[ray]'")


@pytest.fixture(scope="module")
def outcomes():
    before = set(process_limits.family(os.getpid()))
    jobs = ["one", "crash", "kill-parent", "refuse", "hang", "two", "three"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(odd_jobs.__file__).parent))
        found = list(ray_pool.run(odd_jobs.work, jobs, workers=2, limits=JobLimits(2.0), prepare=odd_jobs.prepare))
    assert set(process_limits.family(os.getpid())) == before
    assert sorted(outcome.job for outcome in found) == sorted(jobs)  # each once
    return {outcome.job: outcome for outcome in found}


def test_ray_pool_gives_the_results_of_the_process_pool(outcomes):
    good = {job: outcome.result for job, outcome in outcomes.items() if outcome.failure is None}
    assert good == {"one": "ONE!", "two": "TWO!", "three": "THREE!"}


@pytest.mark.parametrize(
    ("job", "kind", "because"),
    [
        ("crash", "crash", "the process died (exit code 7)"),
        ("refuse", "refused", "this job is refused"),
        ("hang", "timeout", "it took longer than 2 s"),
        ("kill-parent", "crash", "3 of Ray's workers were lost with it"),
    ],
)
def test_ray_pool_loses_only_a_job_that_fails(outcomes, job, kind, because):
    assert outcomes[job].kind == kind
    assert because in outcomes[job].failure


def test_ray_pool_renders_objects(tmp_path, capsys):
    sphere = trimesh.creation.icosphere(1)
    Mesh(sphere.vertices, sphere.faces).save(tmp_path / "ball.glb")
    (tmp_path / "broken.glb").write_bytes(b"glTF")
    (tmp_path / "plan.yaml").write_text("{size: 16, random_views: 0}")
    command = [str(tmp_path), "-o", str(tmp_path / "out"), "--plan", str(tmp_path / "plan.yaml"), "--ray"]
    assert render.main([*command, "--workers", "1", "--backend", "embree"]) == 0
    assert (tmp_path / "out" / "ball" / "transforms.json").is_file()
    (row,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (row["id"], row["kind"]) == ("broken", "broken")
    assert "1 failed (1 broken)" in capsys.readouterr().out


def test_ray_cluster_that_does_not_answer_is_one_sentence():
    with pytest.raises(ValueError, match="no Ray cluster answers at auto"):
        list(ray_pool.run(odd_jobs.work, ["one"], address="auto", limits=JobLimits(1.0)))


def test_ray_that_is_not_installed_is_one_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"instant3d\[ray\]"):
        list(ray_pool.run(odd_jobs.work, ["one"], limits=JobLimits(1.0)))
