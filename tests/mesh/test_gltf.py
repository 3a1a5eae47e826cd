"""Reading .glb and .gltf: placement, attributes and materials against documents built by hand and against trimesh."""

import io

import numpy as np
import pytest
import trimesh
from gltf_by_hand import TRIANGLE, TRIANGLE_IN_WORLD, ByHand, triangle
from PIL import Image
from scipy.spatial.transform import Rotation

from instant3d.mesh import load

TURN = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # a file's +y up to the world's +z up


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def only(path):
    (mesh,) = load(path)
    return mesh


def test_read_gltf_turns_up_in_a_file_to_up_in_the_world(tmp_path):
    mesh = only(triangle().save(tmp_path / "a.gltf"))
    np.testing.assert_array_equal(mesh.vertices, TRIANGLE_IN_WORLD)


def test_read_gltf_nodes_scale_then_rotate_then_translate(tmp_path):
    document = triangle()
    turn = Rotation.from_euler("xyz", [20, -50, 130], degrees=True)
    node = {"mesh": 0, "translation": [5, 6, 7], "rotation": turn.as_quat().tolist(), "scale": [1, 2, 3]}
    mesh = only(document.save(tmp_path / "a.gltf", nodes=[node]))
    expected = (turn.apply(TRIANGLE * [1, 2, 3]) + np.array([5, 6, 7])) @ TURN.T
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-5)


def test_read_gltf_places_a_tree_of_nodes_as_trimesh_does(tmp_path):
    scene, generator = trimesh.Scene(), np.random.default_rng(3)
    parent = None
    solids = trimesh.creation.box((1, 2, 3)), trimesh.creation.cone(1, 2), trimesh.creation.annulus(1, 2, 1)
    for k, solid in enumerate(solids):
        matrix = trimesh.transformations.random_rotation_matrix(generator.random(3))
        matrix[:3, 3] = generator.normal(size=3)
        matrix[:3, :3] *= generator.uniform(0.5, 2)
        parent = scene.add_geometry(solid, node_name=f"n{k}", parent_node_name=parent, transform=matrix)
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    ours = np.concatenate([mesh.vertices[mesh.faces].reshape(-1, 9) for mesh in load(tmp_path / "a.glb")])
    theirs = (scene.to_geometry().triangles @ TURN.T).reshape(-1, 9)
    order = [np.lexsort(part.round(3).T) for part in (ours, theirs)]
    np.testing.assert_allclose(ours[order[0]], theirs[order[1]], atol=1e-4)


def test_read_gltf_does_not_turn_a_solid_inside_out_by_a_mirroring_node(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.icosphere(1), transform=np.diag([-1.0, 1, 2, 1]))
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb", include_normals=True))
    mesh = only(tmp_path / "a.glb")
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).volume > 0
    assert (mesh.normals * mesh.vertices).sum(1).min() > 0


def test_read_gltf_normals_stay_perpendicular_when_a_node_squeezes(tmp_path):
    tilted = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)
    document = ByHand()
    normal = np.tile(np.array([[-1, 1, 0]], np.float32) / np.sqrt(2), (3, 1)).astype(np.float32)
    attributes = {"POSITION": document.values(tilted), "NORMAL": document.values(normal)}
    document.json["meshes"] = [{"primitives": [{"attributes": attributes}]}]
    document.json["nodes"] = [{"mesh": 0, "scale": [3, 1, 1]}]
    mesh = only(document.save(tmp_path / "a.gltf"))
    edges = mesh.vertices[1:] - mesh.vertices[0]
    np.testing.assert_allclose(edges @ mesh.normals[0], 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)


def test_read_gltf_strips_and_fans_give_the_same_faces_as_a_list(tmp_path):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.5]], np.float32)

    def area_vectors(mode, indices):
        document = ByHand()
        primitive = {"attributes": {"POSITION": document.values(corners)}, "mode": mode}
        primitive["indices"] = document.values(np.array(indices, np.uint16))
        document.json |= {"meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}]}
        mesh = only(document.save(tmp_path / "a.gltf"))
        a, b, c = mesh.vertices[mesh.faces].swapaxes(0, 1)
        return np.cross(b - a, c - a)

    listed = area_vectors(4, [0, 1, 2, 2, 1, 3])
    np.testing.assert_allclose(area_vectors(5, [0, 1, 2, 3]), listed, atol=1e-6)
    np.testing.assert_allclose(area_vectors(6, [1, 3, 2, 0]), listed[::-1], atol=1e-6)


def test_read_gltf_reads_interleaved_and_sparse_and_normalised_numbers(tmp_path):
    document = ByHand()
    rows = np.zeros(3, dtype=[("place", "<f4", 3), ("uv", "u1", 2), ("gap", "u1", 2)])
    rows["place"], rows["uv"] = TRIANGLE, [[0, 255], [255, 0], [51, 102]]
    view = document.view(rows.tobytes(), byteStride=16)
    moved = {
        "count": 1,
        "indices": {"bufferView": document.view(np.array([2], np.uint16).tobytes()), "componentType": 5123},
        "values": {"bufferView": document.view(np.array([[0, 7, 3]], np.float32).tobytes())},
    }
    document.json["accessors"] = [
        {"bufferView": view, "componentType": 5126, "count": 3, "type": "VEC3", "sparse": moved},
        {"bufferView": view, "byteOffset": 12, "componentType": 5121, "count": 3, "type": "VEC2", "normalized": True},
    ]
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}
    look = {"baseColorTexture": {"index": document.picture(png(np.zeros((2, 2, 3))))}}
    document.json |= {"meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}]}
    mesh = only(document.save(tmp_path / "a.gltf", materials=[{"pbrMetallicRoughness": look}]))
    np.testing.assert_array_equal(mesh.vertices[2], [0, -3, 7])
    np.testing.assert_allclose(mesh.uv, [[0, 1], [1, 0], [0.2, 0.4]], atol=1e-6)


def test_read_gltf_skin_poses_the_mesh_and_overrides_its_node(tmp_path):
    document = ByHand()
    bind = np.stack([np.eye(4, dtype=np.float32)] * 2)
    bind[:, 3, 0] = [0, -1]  # by columns: the second joint rests at x = 1
    attributes = {
        "JOINTS_0": document.values(np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], np.uint8)),
        "WEIGHTS_0": document.values(np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]], np.float32)),
    }
    document = triangle(attributes, document)
    document.json["skins"] = [{"joints": [1, 2], "inverseBindMatrices": document.values(bind)}]
    nodes = [{"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, {}, {"translation": [1, 4, 0]}]
    mesh = only(document.save(tmp_path / "a.gltf", nodes=nodes))
    expected = (TRIANGLE + np.array([[0, 0, 0], [0, 4, 0], [0, 2, 0]])) @ TURN.T
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-6)


def test_read_gltf_vertex_colours_of_a_file_are_linear_light(tmp_path):
    document = ByHand()
    linear = document.values(np.array([[0.2140411, 0, 1]] * 3, np.float32))  # sRGB 0.5, by the standard's table
    mesh = only(triangle({"COLOR_0": linear}, document).save(tmp_path / "a.gltf"))
    np.testing.assert_allclose(mesh.colors[0], [0.5, 0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("material", "cutoff", "color"),
    [
        ({"pbrMetallicRoughness": {"baseColorFactor": [0.1, 0.2, 0.3, 0.4]}}, 0, (0.1, 0.2, 0.3, 0.4)),
        ({"alphaMode": "MASK"}, 0.5, (1, 1, 1, 1)),
        ({"alphaMode": "MASK", "alphaCutoff": 0.25}, 0.25, (1, 1, 1, 1)),
        ({"alphaMode": "OPAQUE", "alphaCutoff": 0.25}, 0, (1, 1, 1, 1)),
        ({"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0, 1, 0, 1]}}}, 0, (0, 1, 0, 1)),
    ],
)
def test_read_gltf_materials_keep_their_colour_and_cut_off(tmp_path, material, cutoff, color):
    mesh = only(triangle(material=0).save(tmp_path / "a.gltf", materials=[material]))
    assert mesh.alpha_cutoff == cutoff
    assert mesh.base_color == color


def test_read_gltf_texture_comes_with_its_wrapping_and_its_offset(tmp_path):
    document = ByHand()
    pixels = np.arange(24).reshape(2, 3, 4)
    uv = document.values(np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    move = {"KHR_texture_transform": {"offset": [0.5, 0.25], "rotation": np.pi / 2, "scale": [2, 3]}}
    look = {"baseColorTexture": {"index": document.picture(png(pixels)), "extensions": move}}
    document.json["textures"][0]["sampler"] = 0
    document = triangle({"TEXCOORD_0": uv}, document, material=0)
    samplers = [{"wrapS": 33071, "wrapT": 33648}]
    mesh = only(document.save(tmp_path / "a.gltf", materials=[{"pbrMetallicRoughness": look}], samplers=samplers))
    np.testing.assert_array_equal(mesh.texture, pixels)
    assert mesh.wrap == ("clamp", "mirror")
    # Counter-clockwise as seen, v growing downwards: the end of the u axis goes up, to smaller v.
    np.testing.assert_allclose(mesh.uv, [[0.5, 0.25], [0.5, -1.75], [3.5, 0.25]], atol=1e-5)


def test_read_gltf_shows_every_copy_of_gpu_instancing_by_translation_rotation_and_scale(tmp_path):
    document = triangle()
    half = np.sqrt(0.5)
    columns = {
        "TRANSLATION": np.array([[0, 0, 0], [10, 0, 0]], np.float32),
        "ROTATION": np.array([[0, 0, 0, 1], [0, half, 0, half]], np.float32),  # a quarter turn about +y
        "SCALE": np.array([[1, 1, 1], [2, 2, 2]], np.float32),
    }
    attributes = {name: document.values(values) for name, values in columns.items()}
    document.json["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    meshes = load(document.save(tmp_path / "a.gltf", extensionsUsed=["EXT_mesh_gpu_instancing"]))
    np.testing.assert_allclose(meshes[0].vertices, TRIANGLE_IN_WORLD, atol=1e-6)
    # (x, y, z) in the file goes to (10 + 2 z, 2 y, -2 x), and that to (x, -z, y) in the world
    x, y, z = TRIANGLE.T
    np.testing.assert_allclose(meshes[1].vertices, np.stack([10 + 2 * z, 2 * x, 2 * y], 1), atol=1e-5)
    assert len(meshes) == 2


EMISSIVE = {"emissiveFactor": [0.5, 0.25, 0]}
BLACK = {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}}


@pytest.mark.parametrize(
    ("material", "color"),
    [
        (BLACK | EMISSIVE, (0.5, 0.25, 0, 1)),
        (
            BLACK | EMISSIVE | {"extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 2}}},
            (1, 0.5, 0, 1),
        ),
        (BLACK, (0, 0, 0, 1)),
        (EMISSIVE, (1, 1, 1, 1)),
        ({"pbrMetallicRoughness": {"baseColorFactor": [0.25, 0.5, 0.5, 0.75]}} | EMISSIVE, (0.75, 0.75, 0.5, 0.75)),
    ],
    ids=["black", "strong", "no emission", "white", "both"],
)
def test_read_gltf_adds_the_emission_of_a_surface_to_its_colour(tmp_path, material, color):
    document = triangle(material=0)
    document.json["materials"] = [material]
    assert only(document.save(tmp_path / "a.gltf")).base_color == pytest.approx(color)


def test_read_gltf_takes_the_emissive_texture_of_a_black_surface(tmp_path):
    document = ByHand()
    picture = document.picture(png(np.full((2, 2, 3), (200, 40, 10), np.uint8)))
    uv = document.values(np.zeros((3, 2), np.float32))
    triangle({"TEXCOORD_0": uv}, document, material=0)
    document.json["materials"] = [BLACK | {"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": picture}}]
    mesh = only(document.save(tmp_path / "a.gltf"))
    assert mesh.base_color == (1, 1, 1, 1)
    assert mesh.texture[0, 0, :3].tolist() == [200, 40, 10]


@pytest.mark.parametrize("of_its_own", [False, True], ids=["one layout", "two layouts"])
def test_read_gltf_adds_an_emissive_texture_in_linear_light_where_both_have_one_layout(tmp_path, of_its_own):
    document = ByHand()
    base = document.picture(png(np.full((2, 2, 3), 188, np.uint8)))  # sRGB 188 is 0.503 of linear light
    light = document.picture(png(np.full((4, 4, 3), (137, 0, 255), np.uint8)))  # 137 is 0.25: the sum, 0.753, is 225
    uv = {name: document.values(np.full((3, 2), k, np.float32)) for k, name in enumerate(("TEXCOORD_0", "TEXCOORD_1"))}
    triangle(uv, document, material=0)
    document.json["materials"] = [
        {
            "pbrMetallicRoughness": {"baseColorTexture": {"index": base}},
            "emissiveFactor": [1, 1, 1],
            "emissiveTexture": {"index": light, "texCoord": int(of_its_own)},
        }
    ]
    mesh = only(document.save(tmp_path / "a.gltf"))
    assert mesh.texture[0, 0].tolist() == ([188, 188, 188, 255] if of_its_own else [225, 188, 255, 255])


def test_read_gltf_refuses_very_many_sums_of_emissive_textures(tmp_path, monkeypatch):
    monkeypatch.setattr("instant3d.mesh.emission.MAX_PIXELS", 3)
    document = ByHand()
    light = document.picture(png(np.full((2, 2, 3), 200, np.uint8)))
    triangle({"TEXCOORD_0": document.values(np.zeros((3, 2), np.float32))}, document, material=0)
    document.json["materials"] = [{"emissiveFactor": [1, 1, 1], "emissiveTexture": {"index": light}}]
    with pytest.raises(ValueError, match="emissive textures have more than 3 pixels"):
        load(document.save(tmp_path / "a.gltf"))


def test_read_gltf_refuses_compressed_geometry_without_a_fallback_by_its_name(tmp_path):
    document = triangle()
    del document.json["accessors"][0]["bufferView"]
    with pytest.raises(ValueError, match=r"compressed \(KHR_draco_mesh_compression\) without a fallback"):
        load(document.save(tmp_path / "a.gltf", extensionsUsed=["KHR_draco_mesh_compression"]))
