"""Files for printers: millimetres, closed, coloured; read by trimesh, by hand, and by the 3MF Consortium's lib3mf."""

import numpy as np
import pytest
import trimesh

from instant3d.mesh import Mesh, load, printable

RED, BLUE = (1, 0, 0), (0, 0, 1)


def box(extents=(1, 1, 1), at=(0, 0, 0), **look):
    solid = trimesh.creation.box(extents)
    return Mesh(solid.vertices + at, solid.faces, **look)


def two_coloured():
    """A box of 1 x 2 x 4, red below and blue above."""
    solid = box((1, 2, 4), at=(3, 3, 3))
    return Mesh(solid.vertices, solid.faces, colors=np.where(solid.vertices[:, 2:] < 3, RED, BLUE))


def read_stl(path):
    """By hand: 80 bytes, a count, and 50 bytes a triangle."""
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    assert len(data) == 84 + 50 * count
    rows = np.frombuffer(data, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")], count, 84)
    return rows["normal"], rows["corners"].astype(float)


def test_stl_of_a_cube_of_10_mm_has_a_volume_of_1000_cubic_millimetres(tmp_path):
    box((2, 2, 2), at=(5, -1, 0)).save(tmp_path / "a.stl", size_mm=10)
    normal, (a, b, c) = (rows := read_stl(tmp_path / "a.stl"))[0], rows[1].swapaxes(0, 1)
    assert np.einsum("ni,ni->", a, np.cross(b, c)) / 6 == pytest.approx(1000, rel=1e-5)  # the divergence theorem
    assert ((normal * np.cross(b - a, c - a)).sum(1) > 0).all()
    assert trimesh.load(tmp_path / "a.stl").volume == pytest.approx(1000, rel=1e-5)


def test_stl_stands_upright_on_the_origin_and_its_largest_side_is_100_mm_by_default(tmp_path):
    two_coloured().save(tmp_path / "a.stl")
    corners = read_stl(tmp_path / "a.stl")[1].reshape(-1, 3)
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [[0, 0, 0], [25, 50, 100]], atol=1e-4)


def test_threemf_is_read_by_lib3mf_without_a_warning_with_its_millimetres_and_colours(tmp_path):
    lib3mf = pytest.importorskip("lib3mf", reason="lib3mf is not installed (pip install lib3mf)")
    two_coloured().save(tmp_path / "a.3mf", size_mm=40)
    model = lib3mf.get_wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "a.3mf"))
    assert reader.GetWarningCount() == 0
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    objects = model.GetMeshObjects()
    assert objects.MoveNext()
    shape = objects.GetCurrentMeshObject()
    assert shape.IsValid()
    assert shape.IsManifoldAndOriented()
    places = np.array([vertex.Coordinates[:] for vertex in shape.GetVertices()])
    np.testing.assert_allclose([places.min(0), places.max(0)], [[0, 0, 0], [10, 20, 40]], atol=1e-4)
    for index in range(shape.GetTriangleCount()):
        found = shape.GetTriangleProperties(index)
        group = model.GetColorGroupByID(found.ResourceID)
        for corner, key in zip(shape.GetTriangle(index).Indices, found.PropertyIDs, strict=True):
            color = group.GetColor(key)
            assert (color.Red, color.Green, color.Blue) == ((255, 0, 0) if places[corner, 2] < 20 else (0, 0, 255))


def test_threemf_of_a_mesh_with_a_seam_is_a_closed_solid_to_lib3mf(tmp_path):
    lib3mf = pytest.importorskip("lib3mf", reason="lib3mf is not installed (pip install lib3mf)")
    whole = box((2, 2, 2))
    split = Mesh(whole.vertices[whole.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    split.save(tmp_path / "a.3mf", size_mm=10)
    model = lib3mf.get_wrapper().CreateModel()
    model.QueryReader("3mf").ReadFromFile(str(tmp_path / "a.3mf"))
    objects = model.GetMeshObjects()
    objects.MoveNext()
    shape = objects.GetCurrentMeshObject()
    assert (shape.GetVertexCount(), shape.GetTriangleCount(), shape.IsManifoldAndOriented()) == (8, 12, True)


def test_stl_of_a_sphere_with_a_flat_bottom_is_closed(tmp_path):
    sphere = trimesh.creation.icosphere(3)
    printable(Mesh(sphere.vertices, sphere.faces), flat_bottom=True).save(tmp_path / "a.stl", size_mm=60)
    read = trimesh.load(tmp_path / "a.stl")
    assert read.is_volume
    np.testing.assert_allclose(read.extents, [60, 60, 58.8], rtol=1e-2)  # a fiftieth is cut off


@pytest.mark.parametrize("size", [0, -1, float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("suffix", ["stl", "3mf"])
def test_save_refuses_a_size_that_no_object_has_and_writes_nothing(tmp_path, suffix, size):
    with pytest.raises(ValueError, match="above 0 and at most 100000 mm"):
        box().save(tmp_path / f"a.{suffix}", size_mm=size)
    assert list(tmp_path.iterdir()) == []


def test_threemf_of_the_same_mesh_is_the_same(tmp_path):
    for name in ("a", "b"):
        two_coloured().save(tmp_path / f"{name}.3mf")
    assert (tmp_path / "a.3mf").read_bytes() == (tmp_path / "b.3mf").read_bytes()


def test_load_reads_no_printers_files_and_names_what_is_read(tmp_path):
    box().save(tmp_path / "a.stl")
    with pytest.raises(ValueError, match=r"expected one of \.glb, \.gltf, \.obj, \.ply"):
        load(tmp_path / "a.stl")
