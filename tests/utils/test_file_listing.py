"""Hidden files are no part of any listing."""

import numpy as np

from instant3d.scenes import shards
from instant3d.scenes.layouts import LAYOUTS
from instant3d.utils import file_listing

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X        "


def test_visible_files_leave_out_what_macos_and_killed_processes_leave(tmp_path):
    (tmp_path / ".half").mkdir()
    for name in ("a.tar", "._a.tar", ".half/b.tar"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    assert [path.name for path in file_listing.visible_files(tmp_path, "**/*.tar")] == ["a.tar"]
    assert [path.name for path in shards.paths(tmp_path)] == ["a.tar"]
    (tmp_path / "a.tar").unlink()
    assert not file_listing.any_visible_files(tmp_path, "**/*.tar")


def test_visible_files_look_into_a_folder_below_a_hidden_one_when_it_is_named(tmp_path):
    (tmp_path / ".cache" / "cup").mkdir(parents=True)
    (tmp_path / ".cache" / "cup" / "000.npy").write_bytes(b"")
    assert file_listing.visible_files(tmp_path / ".cache", "*/000.npy") == [tmp_path / ".cache" / "cup" / "000.npy"]


def test_layouts_take_no_hidden_pose_for_a_view_of_an_object(tmp_path):
    (tmp_path / "pose").mkdir()
    np.save(tmp_path / "intrinsics.npy", np.ones((3, 2)))
    (tmp_path / "pose" / "._000.npy").write_bytes(APPLE_DOUBLE)
    content = (tmp_path / "intrinsics.npy").read_bytes()
    assert LAYOUTS["openlrm"].view_records(tmp_path, lambda _: content, None) == []  # type: ignore[arg-type]
