"""Texture coordinates, judged by areas and by a count of the triangles above each texel."""

import sys
import time

import numpy as np
import pytest
import trimesh

from instant3d.mesh import Mesh
from instant3d.mesh import unwrap as unwrap_module
from instant3d.mesh.unwrap import unwrap

pytestmark = pytest.mark.slow

SIZE = 256


@pytest.fixture(scope="module")
def ball() -> Mesh:
    shape = trimesh.creation.icosphere(3)
    return Mesh(shape.vertices, shape.faces, shape.vertices)


def replace_worker(monkeypatch, tmp_path, program: str) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(program)
    monkeypatch.setattr(unwrap_module, "WORKER", worker)


def assert_no_overlap(mesh: Mesh) -> None:
    """Every face has an area in the texture, and no point on a fine grid lies inside two."""
    corners = mesh.uv[mesh.faces].astype(np.float64)
    a, b, c = corners.swapaxes(0, 1)
    area = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert area.min() > 0
    assert area.sum() < 1
    middle = corners.mean(1, keepdims=True)
    points = np.concatenate([(0.9 * corners + 0.1 * middle).reshape(-1, 2), middle[:, 0]])
    for some in np.array_split(points, 16):
        inside = np.ones((len(some), len(corners)), bool)
        turn = np.sign((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
        for start, end in ((a, b), (b, c), (c, a)):
            side = end - start
            away = some[:, None] - start
            inside &= turn * (side[:, 0] * away[..., 1] - side[:, 1] * away[..., 0]) > 1e-9
        assert (inside.sum(1) <= 1).all()


def test_unwrap_by_charts_has_few_pieces_and_no_overlap(ball):
    found = unwrap(ball, SIZE)
    assert (found.method, len(found.mesh.faces)) == ("xatlas", len(ball.faces))
    assert found.charts < len(ball.faces) / 4
    assert_no_overlap(found.mesh)
    np.testing.assert_allclose(found.mesh.vertices[found.mesh.faces], ball.vertices[ball.faces])


def test_unwrap_that_ends_xatlas_at_its_budget_of_processor_time_falls_back_to_squares(ball, monkeypatch, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)"
    replace_worker(monkeypatch, tmp_path, f"import sys\n{limit}\nwhile True: pass\n")
    start = time.monotonic()
    with pytest.warns(UserWarning, match="triangle by triangle.*1 s of processor time"):
        found = unwrap(ball, SIZE, seconds=1)
    assert time.monotonic() - start < unwrap_module.PATIENCE + 5
    assert (found.method, found.charts) == ("per face", len(ball.faces))
    assert_no_overlap(found.mesh)


@pytest.mark.parametrize("program", ["import sys; sys.exit('no atlas')", "import os; os.abort()"])
def test_unwrap_survives_an_xatlas_that_fails_and_says_so(ball, monkeypatch, tmp_path, program):
    replace_worker(monkeypatch, tmp_path, program)
    with pytest.warns(UserWarning, match="triangle by triangle"):
        found = unwrap(ball, SIZE)
    assert found.method == "per face"
    assert_no_overlap(found.mesh)


def test_unwrap_of_too_many_faces_does_not_start_xatlas(ball, monkeypatch):
    monkeypatch.setattr(unwrap_module, "MOST_FACES", 100)
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.warns(UserWarning, match=f"{len(ball.faces)} faces are too many"):
        assert unwrap(ball, SIZE).method == "per face"


def test_unwrap_refuses_a_texture_without_room_for_the_faces(ball):
    with pytest.raises(ValueError, match="no room for 1280 faces; choose a texture of at least 78 pixels"):
        unwrap(ball, 64, seconds=0)
