"""What holds for every test: no network, no GPU, and one thread each, so that two workers share two cores."""

import os
import secrets
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
os.environ.setdefault("RAY_AUTH_MODE", "token")  # these two are read when Ray is imported
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Run files that are slow as a whole first, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: "slow" not in {mark.name for mark in item.listchain()[-2].own_markers})


@pytest.fixture(autouse=True)
def default_signals():
    """Undo what libraries such as Ray leave: with a handler of SIGTERM in Python, forked pools may never end."""
    yield
    for number in (signal.SIGTERM, signal.SIGHUP):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
