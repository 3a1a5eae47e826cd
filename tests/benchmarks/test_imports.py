"""Every benchmark can be started."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = sorted(".".join(file.relative_to(FOLDER.parent).with_suffix("").parts) for file in FOLDER.rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_benchmark_imports_names_that_exist(name):
    importlib.import_module(name)
