"""The order of jobs, what is denoised together, cancelling, limits, and what a start cleans up."""

import base64
import time

import httpx
import pytest

from instant3d.client import Client, ServerError

pytestmark = pytest.mark.slow


@pytest.fixture
def client(start_server):
    with Client(start_server(batch=3)) as connected:
        yield connected


def until(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_scheduler_denoises_waiting_prompts_of_equal_options_together(client):
    blocker = client.submit("a slow one")
    until(lambda: client.jobs(1)[0].fields["state"] == "running")
    seeds = [client.submit(f"a chair {k}", seed=k) for k in range(4)]
    other = client.submit("a chair", steps=7)
    blocker.delete()
    assert [job.wait().fields["result"]["together"] for job in [*seeds, other]] == [3, 3, 3, 1, 1]


def test_scheduler_stops_a_cancelled_job_and_goes_on(client):
    slow = client.submit("a slow one")
    until(lambda: client.jobs(1)[0].fields["progress"])
    slow.delete()
    begun = time.monotonic()
    assert client.generate("a chair").state == "done"
    assert time.monotonic() - begun < 4  # of the five seconds that the slow one takes
    with pytest.raises(ServerError, match="cancelled"):
        slow.wait()


def test_scheduler_fails_a_job_that_ends_its_worker_twice_and_no_other(client):
    jobs = [client.submit(prompt) for prompt in ("a chair", "a crash", "a table")]
    assert [job.wait().state for job in (jobs[0], jobs[2])] == ["done", "done"]
    with pytest.raises(ServerError, match="exit code 9"):
        jobs[1].wait()


def test_scheduler_ends_a_job_that_takes_too_long(start_server):
    with Client(start_server(job_seconds=0.6)) as client, pytest.raises(ServerError, match=r"longer than 0\.6 s"):
        client.generate("a slow one")


def test_scheduler_goes_on_after_a_job_is_deleted_whose_worker_then_passes_a_limit(start_server):
    with Client(start_server(job_seconds=1)) as client:
        deaf = client.submit("a huge one")  # which does not look for cancellations
        until(lambda: client.jobs(1)[0].fields["state"] == "running")
        deaf.delete()
        deaf.delete()
        assert client.generate("a chair").state == "done"
        assert [job.fields["prompt"] for job in client.jobs()] == ["a chair"]


def test_scheduler_ends_a_job_that_takes_too_much_memory(start_server):
    with Client(start_server(job_memory=200 * 2**20)) as client:
        with pytest.raises(ServerError, match=r"more than 0\.195 GiB"):
            client.generate("a huge one")
        assert client.generate("a chair").state == "done"


def test_scheduler_refuses_jobs_beyond_the_queues_length_and_says_when_to_come_back(start_server):
    url = start_server(queue_limit=2)
    answers = [httpx.post(f"{url}/api/v1/jobs", json={"prompt": "a slow one"}) for _ in range(5)]
    assert [answer.status_code for answer in answers[-2:]] == [429, 429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_scheduler_keeps_no_image_that_came_when_the_queue_was_full(start_server, tmp_path):
    url = start_server(queue_limit=1)
    httpx.post(f"{url}/api/v1/jobs", json={"prompt": "a slow one"})
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
    answers = [httpx.post(f"{url}/send", json={"image": image}) for _ in range(4)]
    assert [answer.status_code for answer in answers[-2:]] == [429, 429]
    accepted = [answer.json()["uid"] for answer in answers if answer.status_code == 200]
    assert sorted(path.name for path in (tmp_path / "data" / "uploads").iterdir()) == sorted(accepted)


def test_scheduler_removes_uploads_that_no_job_has_and_nothing_else(start_server, tmp_path):
    uploads = tmp_path / "data" / "uploads"
    for name in ("A" * 22, "notes"):
        (uploads / name).mkdir(parents=True)
    start_server()
    assert [path.name for path in uploads.iterdir()] == ["notes"]
