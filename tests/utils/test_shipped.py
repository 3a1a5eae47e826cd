"""Files that come with the package, by path and by name."""

from pathlib import Path

import pytest

from instant3d.utils import shipped

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["small", "small.yaml", "render/small", "configs/render/small.yaml"])
def test_shipped_find_accepts_a_name_and_a_path_in_the_repository(name):
    assert shipped.find(name, ["render"]) == CONFIGS / "render" / "small.yaml"


def test_shipped_look_up_prefers_a_file_of_the_working_folder():
    Path("small").write_text("{}")
    assert shipped.find("small", ["render"]) == Path("small")


def test_shipped_look_up_takes_the_first_folder_of_a_name_in_two():
    assert shipped.find("one_gpu", ["stage2", "trainer"]) == CONFIGS / "stage2" / "one_gpu.yaml"
    assert shipped.find("one_gpu", ["trainer", "stage2"]) == CONFIGS / "trainer" / "one_gpu.yaml"


def test_shipped_find_answers_an_unknown_name_by_the_names_there_are():
    with pytest.raises(FileNotFoundError, match=r"no file nowhere, and none is shipped.*there are cpu, gpus, one_gpu"):
        shipped.find("nowhere", ["trainer"])
    assert shipped.look_up("/nowhere", ["trainer"], ".yaml") is None
