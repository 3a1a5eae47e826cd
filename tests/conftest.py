"""What holds for every test: no network, no GPU, and one thread each, so that two workers share two cores."""

import os
import re
import secrets
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported, here and in all processes started
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported
os.environ.setdefault("RAY_AUTH_MODE", "token")  # these two are read when Ray is imported
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

import pytest

WHOLLY_SLOW = re.compile(r"^pytestmark = \[?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """With `-m "not slow"`, import no file that is slow as a whole: its libraries may take seconds to load."""
    if config.option.markexpr != "not slow" or collection_path.suffix != ".py":
        return None
    return WHOLLY_SLOW.search(collection_path.read_text("utf-8")) is not None or None


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
