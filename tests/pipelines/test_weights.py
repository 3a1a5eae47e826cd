"""Where the weights of a command are found: by default the bundled ones, checked before anything is loaded."""

from pathlib import Path

import pytest
import torch

from instant3d.pipelines import weights
from instant3d.utils import bundled

ROOT = Path(__file__).parents[2]
STAGE1, STAGE2, DIRECT = (ROOT / folder for folder in (bundled.STAGE1, bundled.STAGE2, bundled.DIRECT))


def test_find_stages_takes_the_bundled_weights_where_none_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are none
    assert weights.find_stages() == (STAGE1, STAGE2)
    assert weights.find_stages(stage2=str(STAGE2)) == (STAGE1, str(STAGE2))


def test_find_stages_refuses_the_stages_in_each_others_place():
    with pytest.raises(ValueError, match=r"stage2-demo holds a stage 2, but was given as a stage 1"):
        weights.find_stages(STAGE2, STAGE1)


def test_direct_folder_refuses_another_systems_weights():
    with pytest.raises(ValueError, match=r"stage2-demo holds a stage 2, but was given as the direct system"):
        weights.direct_folder(STAGE2)


@pytest.mark.parametrize(
    ("found", "folder"),
    [
        (lambda: weights.stage2_files(STAGE2), STAGE2),
        (lambda: weights.direct_files(DIRECT), DIRECT),
        (lambda: weights.stage1_files(STAGE1, torch.float32), STAGE1),
    ],
)
def test_files_are_all_safetensors_of_the_folder_by_their_paths_in_it(found, folder):
    assert found() == {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.safetensors")}
