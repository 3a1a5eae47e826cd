"""Ray on this machine: a cluster whose workers and replicas are killed while they work; nothing is lost or repeated.

The first test needs that no cluster runs; all others but one share one.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mortal_generator
import odd_jobs
import pytest
import trimesh
from mortal_generator import FATAL
from page_server import serving
from quick_server import QUICK
from ray_cluster import ray_cluster
from sphere_network import sphere_network
from tiny_sdxl import tiny_sdxl_folder

from data_prep.execution import process_limits, ray_pool
from data_prep.execution.process_limits import JobLimits
from data_prep.rendering import render
from instant3d.client import Client, ServerError
from instant3d.mesh import Mesh
from instant3d.pipelines.generation_plan import GenerationRequest
from instant3d.pipelines.ray_generate import ray_generate
from instant3d.serve.ray_config import RayConfig
from instant3d.serve.ray_workers import ray_workers
from instant3d.serve.settings import ServeSettings
from instant3d.utils.mesh_options import MeshOptions
from instant3d.utils.prompts import from_arguments
from instant3d.utils.ray_pool import connected

ray_serve = pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'instant3d[ray]'")
pytestmark = pytest.mark.slow

PROMPTS = ["a red hat", FATAL, "a blue hat", "a\x07bell", "a green hat", "a pink hat"]
GOOD = set(PROMPTS) - {"a\x07bell"}
ONE_REPLICA = {"ray_actor_options": {"num_cpus": 1}, "num_replicas": 1}
SERVER = f"""
import sys
from pathlib import Path
from instant3d.serve.ray_config import RayConfig
from instant3d.serve.server import serve
from instant3d.serve.settings import ServeSettings
data, address, *worker = sys.argv[1:]
config = RayConfig({ONE_REPLICA}, address=address)
sys.exit(serve(ServeSettings(Path(data), port=0, worker=tuple(worker)), config))
"""
REQUEST = GenerationRequest(resolution=16, options=MeshOptions(200, 64))


@pytest.fixture(scope="module")
def address():
    with ray_cluster() as found:
        yield found


def test_ray_cluster_that_does_not_answer_is_one_sentence():
    with pytest.raises(ValueError, match="no Ray cluster answers at auto"):
        list(ray_pool.run(odd_jobs.work, ["one"], address="auto", limits=JobLimits(1.0)))


def test_ray_generate_loses_nothing_and_makes_nothing_twice_after_a_worker_is_killed(address, tmp_path):
    sphere_network().save_pretrained(tmp_path / "stage2")
    log, output = tmp_path / "finished.log", tmp_path / "out"
    make = mortal_generator.maker(tiny_sdxl_folder(tmp_path / "stage1"), tmp_path / "stage2", log)

    def generated(prompts, workers):
        given = from_arguments(prompts)
        return list(ray_generate(given, output, make, REQUEST, batch=2, address=address, workers=workers))

    found = generated(PROMPTS, workers=2)
    assert [result.where for result in found if result.error] == ["prompt 4"]
    records = [json.loads(path.read_text()) for path in output.glob("*/result.json")]
    assert sorted(record["prompt"] for record in records) == sorted(GOOD)
    assert log.with_suffix(".killed").exists()
    assert sorted(log.read_text().splitlines()) == sorted(GOOD)
    assert sum(bool(result.error) for result in generated([*PROMPTS, "a new hat"], workers=1)) == 1
    assert sorted(log.read_text().splitlines()) == sorted([*GOOD, "a new hat"])


@pytest.fixture(scope="module")
def outcomes(address):
    jobs = ["one", "crash", "kill-parent", "refuse", "hang", "two", "three"]
    options = {"address": address, "workers": 2, "limits": JobLimits(2.0), "prepare": odd_jobs.prepare}
    found = list(ray_pool.run(odd_jobs.work, jobs, **options))
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


def test_render_ray_renders_objects_and_ends_the_ray_that_it_started(tmp_path, capsys):
    before = set(process_limits.family(os.getpid()))
    sphere = trimesh.creation.icosphere(1)
    Mesh(sphere.vertices, sphere.faces).save(tmp_path / "ball.glb")
    (tmp_path / "broken.glb").write_bytes(b"glTF")
    (tmp_path / "plan.yaml").write_text("{size: 16, random_views: 0}")
    command = [str(tmp_path), "-o", str(tmp_path / "out"), "--plan", str(tmp_path / "plan.yaml"), "--ray"]
    assert render.main([*command, "--workers", "1", "--backend", "embree"]) == 0
    assert not set(process_limits.family(os.getpid())) - before
    assert (tmp_path / "out" / "ball" / "transforms.json").is_file()
    (row,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert (row["id"], row["kind"]) == ("broken", "broken")
    assert "1 failed (1 broken)" in capsys.readouterr().out


def test_ray_that_is_not_installed_is_one_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"instant3d\[ray\]"):
        list(ray_pool.run(odd_jobs.work, ["one"], limits=JobLimits(1.0)))


def test_ray_connection_keeps_the_handler_of_sigterm(address):
    before = signal.getsignal(signal.SIGTERM)
    with connected(address, None):
        assert signal.getsignal(signal.SIGTERM) is before


def test_shipped_ray_config_has_options_that_ray_serve_takes():
    deployment = ray_serve.deployment(object, name="replica", **RayConfig.read("ray").deployment)
    assert deployment.ray_actor_options["num_gpus"] == 0.5


def test_serve_ray_refuses_an_option_that_ray_serve_does_not_have(address, tmp_path):
    config = RayConfig({"replica_count": 1}, address=address)
    with pytest.raises(ValueError, match="replica_count"), ray_workers(ServeSettings(tmp_path), config):
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """Command of a quick worker that no other test starts."""
    return QUICK[0], shutil.copy(QUICK[1], tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def orphans(address, data, worker):
    """Jobs of a server that is killed while the first of them runs, and the processes of their worker."""
    log = data / "server.log"
    with log.open("w") as stream:
        command = [sys.executable, "-c", SERVER, str(data), address, *worker]
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    until(lambda: "http://" in log.read_text(), 60)
    with Client(re.search(r"http://\S+", log.read_text())[0]) as client:
        names = [client.submit(prompt).id for prompt in ("a slow one", "a chair", "a table")]
        until(lambda: client.jobs()[-1].fields["progress"], 60)
    workers = [pid for pid in processes(worker[1]) if pid != server.pid]
    server.kill()
    server.wait()
    return names, workers


@pytest.fixture(scope="module")
def client(orphans, address, data, worker):
    """Client of a server that begins after the kill of another one on the same cluster and folder of jobs."""
    settings = ServeSettings(data, worker=worker, batch=3, job_seconds=7, job_memory=200 * 2**20)
    config = RayConfig(ONE_REPLICA, address=address)
    with ray_workers(settings, config) as workers, serving(settings, workers) as url, Client(url) as connected:
        yield connected


def processes(word):
    """Processes with that word in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word in path.read_text().split("\0"):
                found.append(int(path.parent.name))
    return found


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def made(data):
    return (data / "jobs" / "made.log").read_text().split()


def test_serve_ray_does_the_jobs_of_a_killed_server_once_whose_processes_end(client, orphans, data, worker):
    names, workers = orphans
    until(lambda: all(job.state == "done" for job in client.jobs()), 60)
    assert [job.id for job in client.jobs()] == names[::-1]
    assert sorted(made(data)) == sorted(names)
    assert len(workers) == 1
    assert not set(workers) & set(processes(worker[1]))


def test_serve_ray_loses_no_job_and_makes_none_twice_when_a_replica_is_killed(client, data):
    before = len(made(data))
    jobs = [client.submit(prompt) for prompt in ("an orphan", "a lamp", "a cup", "a hat")]
    assert [job.wait().state for job in jobs] == ["done"] * 4
    assert (data / "jobs" / "killed").exists()
    assert sorted(made(data)[before:]) == sorted(job.id for job in jobs)


def test_serve_ray_denoises_waiting_prompts_together_and_stops_a_cancelled_job(client):
    slow = client.submit("a slow one")
    until(lambda: client.jobs(1)[0].fields["progress"])
    chairs = [client.submit(f"chair {k}", seed=k) for k in range(4)]
    slow.delete()
    begun = time.monotonic()
    assert [job.wait().fields["result"]["together"] for job in chairs] == [3, 3, 3, 1]
    assert time.monotonic() - begun < 4  # of the five seconds that the slow one takes
    with pytest.raises(ServerError, match="cancelled"):
        slow.wait()


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("a slow slow one", "longer than 7 s"),
        ("a crash", "exit code 9"),
        ("a huge one", r"more than 0\.195 GiB"),
        ("a bad one", "the asset has no surface"),
    ],
)
def test_serve_ray_keeps_the_limits_of_a_worker(client, prompt, reason):
    with pytest.raises(ServerError, match=reason):
        client.generate(prompt)
    assert client.generate("a chair").state == "done"
