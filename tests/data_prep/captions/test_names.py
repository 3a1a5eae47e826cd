"""Names that mean two things: silhouettes that a hand can compare, and the list of better captions."""

from pathlib import Path

import discs
import pytest
import torch

from data_prep.captions import captions, names
from data_prep.captions.recolour import noun
from instant3d import scenes
from instant3d.cameras import structured_cameras
from instant3d.views import Views

LIST = Path(__file__).parents[3] / "configs" / "data" / "captions.jsonl"


def pole(folder: Path, name: str, caption: str, columns=(11, 13)) -> None:
    """A scene of a thin upright bar."""
    alpha = torch.zeros(4, 1, 24, 24)
    alpha[..., slice(*columns)] = 1
    scenes.write(
        folder / name, Views(torch.ones(4, 3, 24, 24), alpha, structured_cameras()), caption=caption, object_id=name
    )


@pytest.fixture
def place(tmp_path):
    discs.write(tmp_path, "round_1", caption="a torch", radius=8.0)
    discs.write(tmp_path, "round_2", caption="a red torch", radius=7.5)
    pole(tmp_path, "thin", "a torch")
    pole(tmp_path, "lamp", "a lamp")
    return tmp_path


def run(*arguments) -> int:
    return names.main([str(argument) for argument in arguments])


def test_likeness_is_the_shared_part_of_both_silhouettes():
    left, right = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    left[:, :, :2], right[:, :, 1:] = True, True  # 8 and 12 pixels a view, 4 of them in both
    torch.testing.assert_close(names.likeness(torch.stack([left, right])), torch.tensor([[1, 4 / 16], [4 / 16, 1]]))


def test_likeness_ignores_quarter_turns():
    views = torch.zeros(4, 4, 4, dtype=torch.bool)
    for k in range(4):
        views[k, k] = True
    assert float(names.likeness(torch.stack([views, views.roll(1, 0)]))[0, 1]) == 1
    assert float(names.likeness(torch.stack([views, views.flip(0)]))[0, 1]) < 1, "a mirror image is another object"


def test_likeness_to_an_empty_silhouette_is_zero():
    empty, full = torch.zeros(4, 4, 4, dtype=torch.bool), torch.ones(4, 4, 4, dtype=torch.bool)
    assert names.likeness(torch.stack([empty, full, empty])).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_odd_names_lists_an_object_unlike_all_others_of_its_name(place, capsys):
    assert run(place) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert "torch (3): thin; nearest is round_" in first
    assert last.startswith("1 of 3 objects that share a name")


def test_odd_names_ignores_recoloured_copies(place, capsys):
    discs.write(place, "round_1-blue", caption="a blue lamp", painted="blue")
    discs.write(place, "round_3", caption="a green lamp")
    assert run(place) == 0
    listed = capsys.readouterr().out.splitlines()[:-1]
    assert sorted(line.split(": ")[1].split(";")[0] for line in listed) == ["lamp", "round_3", "thin"]


def test_names_are_compared_in_the_other_scenes_when_one_cannot_be_read(place, capsys):
    for image in (place / "round_2" / "images").iterdir():
        image.write_bytes(b"no picture")
    assert run(place) == 1
    out, err = capsys.readouterr()
    assert "round_2" in err
    assert out.splitlines()[-1].startswith("2 of 3")
    assert run(place / "nowhere") == 2


def test_captions_list_corrects_the_names_that_were_found(place, tmp_path, capsys):
    (tmp_path / "better.jsonl").write_text('{"id": "thin", "caption": "flashlight", "why": "has a battery"}\n')
    assert captions.main(["manifest", str(tmp_path / "better.jsonl"), str(place), "--overwrite"]) == 0
    capsys.readouterr()
    assert run(place) == 0
    assert capsys.readouterr().out.startswith("0 of 2")


def test_captions_list_of_ours_survives_recolouring():
    better = list(captions.read_manifest(LIST))
    assert len({ids for ids, _ in better}) == len(better) == len(LIST.read_text().splitlines())
    assert [caption for _, caption in better if noun(caption) != caption] == [], "it begins with an article or a colour"
