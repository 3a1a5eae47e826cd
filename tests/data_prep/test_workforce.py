"""Processes that hang, crash or refuse take nothing else with them."""

import multiprocessing

import pytest
from odd_jobs import prepare, work

from data_prep import workforce


@pytest.fixture
def outcomes():
    jobs = ["one", "crash", "refuse", "two", "hang", "three"]
    return {outcome.job: outcome for outcome in workforce.run(work, jobs, workers=2, timeout_s=2.0, prepare=prepare)}


def test_every_job_is_answered_for_whatever_the_others_do(outcomes):
    assert {job: outcome.result for job, outcome in outcomes.items() if outcome.failure is None} == {
        "one": "ONE!",
        "two": "TWO!",
        "three": "THREE!",
    }
    assert outcomes["crash"].failure == "the process died (exit code 7)"
    assert outcomes["refuse"].failure == "it is not to my taste"
    assert outcomes["hang"].failure == "it took longer than 2 s"
    assert 2 <= outcomes["hang"].seconds < 30
    assert not multiprocessing.active_children()


def test_leaving_early_leaves_no_process_behind():
    outcomes = workforce.run(work, ["one", "hang", "two"], workers=2, timeout_s=30.0)
    assert next(outcomes).job == "one"
    outcomes.close()
    assert not multiprocessing.active_children()


def test_no_jobs_are_done_at_once():
    assert list(workforce.run(work, [], workers=4, timeout_s=1.0)) == []
