"""USDZ files: their zip by the specification, their scene by Pixar's own library."""

import zipfile

import numpy as np
import pytest

from instant3d.mesh import Mesh, save

pytestmark = pytest.mark.slow

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0.25, 0.5, 3]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
COLORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.4, 0.8]], np.float32)
Y_UP = VERTICES[:, [0, 2, 1]] * [1, 1, -1]
UV = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]], np.float32)
CHECKER = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]], [[0, 0, 255, 255], [9, 99, 199, 64]]], np.uint8)
LOOKS = {
    "plain": {"base_color": (0.1, 0.2, 0.3, 1.0)},
    "colours": {"colors": COLORS, "normals": np.eye(4, 3)[[0, 1, 2, 0]]},
    "textured": {"uv": UV, "texture": CHECKER, "wrap": ("mirror", "clamp"), "alpha_cutoff": 0.3},
}


def opened(path):
    pxr = pytest.importorskip("pxr", reason="usd-core is not installed (pip install usd-core)")
    del pxr
    from pxr import Usd

    return Usd.Stage.Open(str(path))


def part(stage):
    from pxr import UsdGeom

    return UsdGeom.Mesh(stage.GetPrimAtPath("/Asset/mesh"))


def test_usdz_files_are_stored_at_multiples_of_64_bytes(tmp_path):
    Mesh(VERTICES, FACES, colors=COLORS).save(tmp_path / "a.usdz")
    data = (tmp_path / "a.usdz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.usdz") as archive:
        assert archive.namelist() == ["asset.usda", "textures/0.png"]
        for entry in archive.infolist():
            name, extra = (int.from_bytes(data[entry.header_offset + k :][:2], "little") for k in (26, 28))
            assert (entry.header_offset + 30 + name + extra) % 64 == 0
            assert entry.compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize("look", LOOKS)
def test_usdz_has_no_error_for_usds_own_validators(tmp_path, look):
    save([Mesh(VERTICES, FACES, **LOOKS[look])] * 2, tmp_path / "a.usdz")
    stage = opened(tmp_path / "a.usdz")
    from pxr import UsdValidation

    checks = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(checks) > 20
    found = UsdValidation.ValidationContext(checks).Validate(stage)
    assert [error.GetErrorAsString() for error in found] == []


def test_usdz_parts_are_named_after_the_asset_and_hold_their_own_materials(tmp_path):
    chair = Mesh(VERTICES, FACES, name="a-red-chair")
    save([chair, chair, Mesh(VERTICES, FACES, name="3 legs")], tmp_path / "a.usdz")
    stage = opened(tmp_path / "a.usdz")
    assert [prim.GetName() for prim in stage.GetDefaultPrim().GetChildren()] == [
        "a_red_chair",
        "a_red_chair_1",
        "_3_legs",
    ]
    assert [prim.GetName() for prim in stage.GetPrimAtPath("/Asset/_3_legs").GetChildren()] == ["material"]


def test_usdz_object_is_upright_in_metres_and_never_mirrored(tmp_path):
    Mesh(VERTICES, FACES).save(tmp_path / "a.usdz")
    stage = opened(tmp_path / "a.usdz")
    from pxr import UsdGeom

    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    assert str(stage.GetDefaultPrim().GetPath()) == "/Asset"
    mesh = part(stage)
    np.testing.assert_allclose(mesh.GetPointsAttr().Get(), Y_UP, atol=1e-6)
    np.testing.assert_array_equal(np.reshape(mesh.GetFaceVertexIndicesAttr().Get(), (-1, 3)), FACES)
    np.testing.assert_allclose(mesh.GetExtentAttr().Get(), [Y_UP.min(0), Y_UP.max(0)], atol=1e-6)


def test_usdz_texture_is_the_right_way_up_and_wraps_as_its_mode_says(tmp_path):
    Mesh(VERTICES, FACES, **LOOKS["textured"]).save(tmp_path / "a.usdz")
    stage = opened(tmp_path / "a.usdz")
    from pxr import UsdGeom, UsdShade

    st = UsdGeom.PrimvarsAPI(part(stage)).GetPrimvar("st").Get()
    np.testing.assert_allclose(st, UV * [1, -1] + [0, 1])  # USD counts v upwards
    image = UsdShade.Shader(stage.GetPrimAtPath("/Asset/mesh/material/texture"))
    assert [image.GetInput(name).Get() for name in ("wrapS", "wrapT", "sourceColorSpace")] == [
        "mirror",
        "clamp",
        "sRGB",
    ]
    surface = UsdShade.Shader(stage.GetPrimAtPath("/Asset/mesh/material/surface"))
    assert surface.GetInput("opacityThreshold").Get() == pytest.approx(0.3)
    assert surface.GetInput("diffuseColor").HasConnectedSource()


def test_usdz_part_without_a_texture_has_its_linear_base_colour(tmp_path):
    Mesh(VERTICES, FACES, **LOOKS["plain"]).save(tmp_path / "a.usdz")
    stage = opened(tmp_path / "a.usdz")
    from pxr import UsdShade

    surface = UsdShade.Shader(stage.GetPrimAtPath("/Asset/mesh/material/surface"))
    np.testing.assert_allclose(surface.GetInput("diffuseColor").Get(), [0.1, 0.2, 0.3], atol=1e-6)
