"""Evaluation of items at the same time: order, errors and the share of PyTorch's threads."""

import threading

import pytest
import torch

from instant3d.utils.side_by_side import map_side_by_side

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_map_side_by_side_runs_two_items_at_once_with_one_thread_each_and_keeps_their_order():
    meeting = threading.Barrier(2, timeout=10)  # passed only by two items that run together

    def work(item):
        meeting.wait()
        return item, torch.get_num_threads()

    assert list(map_side_by_side(work, [3, 1, 2, 4], CPU)) == [(3, 1), (1, 1), (2, 1), (4, 1)]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_map_side_by_side_raises_the_error_of_an_item_after_the_results_before_it():
    results = map_side_by_side(lambda item: 1 // item, [1, 0], CPU)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_map_side_by_side_on_a_gpu_computes_each_item_when_its_result_is_wanted():
    done = []
    results = map_side_by_side(done.append, [1, 2], torch.device("cuda"))
    next(results)
    assert done == [1]
