"""CONTRIBUTING.md, the workflows and the hooks name what is there."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
FILE = r"`((?:src|data_prep|tests|docs|benchmarks|configs)/[\w./-]+|[\w.-]+\.(?:md|cfg|txt|ya?ml))`"
NEW = ("PEER", "SOURCE")  # what the reader is to write
FORMS = sorted((ROOT / ".github").rglob("*.yml"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_contributing_names_only_files_that_exist():
    named = [name for name in re.findall(FILE, GUIDE) if not any(word in name for word in NEW)]
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("table", "file"), re.findall(rf"`([A-Z]\w+)` in\s+{FILE}", GUIDE))
def test_contributing_tables_are_in_the_files_that_it_names(table, file):
    assert re.search(rf"^{table}\b.* = ", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_contributing_names_the_tables_of_all_four_lists():
    tables = set(re.findall(r"`([A-Z]\w+)` in\s+`", GUIDE))
    assert {"Sampler", "SAMPLERS", "FAMILIES", "LAYOUTS", "WRITERS", "DOORS"} <= tables


def test_contributing_and_workflows_call_targets_that_make_has():
    texts = [GUIDE, *(path.read_text("utf-8") for path in (ROOT / ".github" / "workflows").iterdir())]
    called = {name for text in texts for name in re.findall(r"(?:`|run: |^)make ([a-z-]+)", text, re.MULTILINE)}
    assert called >= {"lint", "test", "test-fast", "docs"}
    assert called <= make_targets()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_workflows_and_forms_are_yaml(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    fields = [field for field in content.get("body", []) if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    if path.parent.name == "workflows":
        assert all("runs-on" in job and job["steps"] for job in content["jobs"].values())


def test_precommit_hooks_run_the_ruff_that_lint_runs():
    pinned = re.search(r"^ruff==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {word for hook in hooks for word in hook["additional_dependencies"]} == {pinned and f"ruff=={pinned[1]}"}
