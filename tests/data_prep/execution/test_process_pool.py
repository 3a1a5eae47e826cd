"""Processes that hang, crash, take memory or refuse a job end alone, and end when their parent ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import odd_jobs
import pytest

from data_prep.execution import locked_tempdir, process_limits, process_pool
from data_prep.execution.process_limits import JobLimits

pytestmark = pytest.mark.slow

FIXTURES = Path(odd_jobs.__file__).parent


def gone(process, within_s=5.0):
    """Whether a process ends, or is a zombie whose parent has not waited for it."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def outcomes_of(*jobs, workers=2, timeout_s=20.0, max_resident=None, **terms):
    return {
        outcome.job: outcome
        for outcome in process_pool.run(
            odd_jobs.work, jobs, workers=workers, limits=JobLimits(timeout_s, max_resident), **terms
        )
    }


def children():
    return set(process_limits.family(os.getpid())[1:])


@pytest.fixture(scope="module")
def outcomes():
    before = children()
    jobs = ["one", "crash", "refuse", "two", "abort", "key-error", "hang", "fill", "three"]
    found = outcomes_of(*jobs, timeout_s=2.0, prepare=odd_jobs.prepare)
    assert children() == before
    return found


def test_pool_gives_a_result_for_every_job_whatever_the_others_do(outcomes):
    good = {job: outcome.result for job, outcome in outcomes.items() if outcome.failure is None}
    assert good == {"one": "ONE!", "two": "TWO!", "three": "THREE!"}
    assert len(outcomes) == 9


@pytest.mark.parametrize(
    ("job", "kind", "because"),
    [
        ("crash", "crash", "the process died (exit code 7)"),
        ("abort", "crash", "the process died (SIGABRT: File "),
        ("key-error", "crash", "the process died (exit code 1: KeyError: 'shoe')"),
        ("refuse", "refused", "this job is refused"),
        ("hang", "timeout", "it took longer than 2 s"),
        ("fill", "full", "[Errno 28] No space left on device"),
    ],
)
def test_process_pool_failure_has_a_reason_and_a_kind(outcomes, job, kind, because):
    assert outcomes[job].failure.startswith(because)
    assert (outcomes[job].kind, outcomes[job].result) == (kind, None)
    assert outcomes[job].seconds >= (2 if job == "hang" else 0)


def test_process_pool_memory_limit_stops_a_job_and_the_others_go_on():
    limit = odd_jobs.ALLOCATED // 2
    outcomes = outcomes_of("allocate", "one", workers=1, max_resident=limit)
    assert outcomes["one"].result == "ONE"
    assert outcomes["allocate"].kind == "memory"
    assert f"more than {limit / 1e9:g}" in outcomes["allocate"].failure
    assert outcomes["allocate"].seconds < 15


def test_pool_replaces_a_process_after_its_number_of_jobs():
    jobs = [f"who {k}" for k in range(5)]
    outcomes = outcomes_of(*jobs, workers=1, jobs_each=2)
    processes = [outcomes[job].result for job in jobs]
    assert [len(set(part)) for part in (processes[:2], processes[2:4], processes)] == [1, 1, 3]


def test_process_pool_ends_the_children_of_a_job_with_it_even_in_another_session(tmp_path):
    note = tmp_path / "note"
    (outcome,) = process_pool.run(odd_jobs.work, [f"start-child {note}"], workers=1, limits=JobLimits(1.0))
    assert outcome.kind == "timeout"
    assert all(gone(int(process)) for process in note.read_text().split())


def test_pool_workers_end_when_their_parent_is_killed(tmp_path):
    note = tmp_path / "note"
    program = f"""
import sys; sys.path.insert(0, {str(FIXTURES)!r})
import odd_jobs; from data_prep.execution import process_limits, process_pool
list(process_pool.run(odd_jobs.work, ["start-child {note}"], workers=1, limits=process_limits.JobLimits(60)))
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    while not (note.is_file() and note.read_text()):
        time.sleep(0.02)
    worker, _ = note.read_text().split()
    assert not gone(int(worker), within_s=0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(int(worker))


def test_process_pool_removes_temporary_files_of_ended_processes_and_of_dead_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, held = tmp_path / f"{locked_tempdir.PREFIX}old", tmp_path / f"{locked_tempdir.PREFIX}alive"
    for folder in (abandoned, held):
        folder.mkdir()
        (folder / "file").touch()
    with locked_tempdir.locked(held):
        where = Path(outcomes_of("where", workers=1)["where"].result)
        assert where.is_relative_to(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [held.name]


def test_pool_that_is_left_early_leaves_no_process():
    before = children()
    outcomes = process_pool.run(odd_jobs.work, ["one", "hang", "two"], workers=2, limits=JobLimits(30.0))
    assert next(outcomes).job == "one"
    outcomes.close()
    assert children() == before


@pytest.mark.parametrize(
    ("prepare", "because"),
    [(odd_jobs.unprepared, "the process is not prepared"), (odd_jobs.exit_at_start, "exit code 3")],
)
def test_pool_without_a_process_that_starts_fails_no_job(prepare, because):
    with pytest.raises(ChildProcessError, match=because):
        outcomes_of("one", "two", prepare=prepare)


def test_pool_takes_jobs_as_they_are_needed():
    taken = []
    jobs = (taken.append(k) or f"job {k}" for k in range(1000))
    outcomes = process_pool.run(odd_jobs.work, jobs, workers=2, limits=JobLimits(20.0))
    next(outcomes)
    outcomes.close()
    assert len(taken) < 10


def test_pool_without_jobs_ends_immediately():
    assert outcomes_of(workers=4) == {}
