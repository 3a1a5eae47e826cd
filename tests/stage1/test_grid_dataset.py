"""Reading many scenes at once: the written views in the order of the folders, for any number of processes."""

import io

import pytest
import torch
from balls import COLOURS, ball_views, write_balls

from instant3d import scenes
from instant3d.stage1.grid_dataset import read_ahead, read_views
from instant3d.utils.errors import format_error
from instant3d.utils.progress import Progress

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_read_views_keeps_the_order_of_the_folders(tmp_path, workers):
    names = ["green", "red", "blue"]
    root = write_balls(tmp_path)
    views, captions = read_views([root / name for name in names], 16, workers)
    assert captions == ["a green ball", "a red ball", "a blue ball"]
    assert views.dtype == torch.uint8
    assert views.shape == (3, 4, 3, 16, 16)
    assert (views[..., 0, 0] == 255).all()  # the corner is white
    expected = torch.tensor([COLOURS[name] for name in names]) * 255
    assert (views[..., 8, 8] - expected[:, None]).abs().max() <= 0.5


@pytest.mark.parametrize("workers", [0, 1])
def test_read_views_names_a_scene_without_a_caption_in_one_sentence(tmp_path, workers):
    scenes.write(tmp_path / "mute", ball_views((0.5, 0.5, 0.5)))
    with pytest.raises(ValueError, match="has no caption") as caught:
        read_views([tmp_path / "mute"], 16, workers)
    assert format_error(caught.value) == (
        f"{tmp_path / 'mute'} has no caption, but text encoders are trained on captions; leave it out"
    )


def test_read_views_reports_progress_to_the_user(tmp_path):
    output = io.StringIO()
    read_views([write_balls(tmp_path) / "red"], 16, progress=Progress(output))
    assert output.getvalue() == "instant3d: reading scenes\n"


def test_read_ahead_of_nothing_starts_no_process():
    assert list(read_ahead([], [], workers=4)) == []
