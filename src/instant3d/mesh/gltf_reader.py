"""glTF 2.0 reader (.glb, .gltf): triangle geometry, skins, morph targets and base-colour materials.

Own code rather than a library's: an untrusted file must be refused when it cannot be shown as intended, and the common
readers silently ignore unknown required extensions, oversized textures, skins and cut-out materials. Lights, cameras
and animations are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from instant3d.mesh.colorspace import srgb_from_linear
from instant3d.mesh.emission import BLACK, EmissionBaker
from instant3d.mesh.gltf_document import GltfDocument, Json
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh
from instant3d.mesh.untrusted import TooLarge
from instant3d.utils.mesh_options import MAX_FACES
from instant3d.utils.quaternions import rotation_matrix

TRIANGLES, STRIP, FAN = 4, 5, 6
WRAP_MODES = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
BLEND_CUTOFF = 0.1  # transparent surfaces are drawn solid, except where they are almost invisible
COPIES = {"TRANSLATION": "translation", "ROTATION": "rotation", "SCALE": "scale"}  # attributes of instances
ALPHA_MODES = ("OPAQUE", "MASK", "BLEND")
PART = 2**15  # bytes charged for any part, however small, because it takes time
CORNER = 32  # bytes of a triangle's corner: its index, and a share of the data later derived from the triangle
MATRIX = 128  # bytes of a matrix (4, 4) float64


def read_gltf(path: Path) -> list[Mesh]:
    """Read every triangle primitive of the default scene, posed and placed by its nodes, in world axes.

    Raises:
        TooLarge: The file would take too much memory or holds too many triangles.
        UnsafePath: It refers to a file outside its folder.
        ValueError: It is broken or cannot be shown as intended.
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # `Mesh` refuses values that are not finite
            return list(_Scene(GltfDocument(path)).meshes())
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"its glTF description is broken ({type(error).__name__}: {error}); export it again"
        ) from error


class _Scene:
    """Nodes of the default scene and the meshes attached to them."""

    def __init__(self, document: GltfDocument) -> None:
        self.document = document
        self.nodes: list[Json] = document.json.get("nodes", [])
        self.placed = dict(self._placed())
        self.corners_left = 3 * MAX_FACES
        self.emission = EmissionBaker()

    def meshes(self) -> Iterator[Mesh]:
        for index, matrix in self.placed.items():
            node = self.nodes[index]
            if "mesh" not in node:
                continue
            mesh = self.document.json["meshes"][node["mesh"]]
            weights = node.get("weights", mesh.get("weights", []))
            for placed in self._instances(node, matrix):
                for primitive in mesh["primitives"]:
                    self.document.budget.spend(PART)
                    if primitive.get("mode", TRIANGLES) in (TRIANGLES, STRIP, FAN):
                        yield self._primitive(primitive, placed, self._joints(node), weights)

    def _instances(self, node: Json, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the matrix of each copy of a node's mesh: one, or as many as EXT_mesh_gpu_instancing lists."""
        instancing = node.get("extensions", {}).get("EXT_mesh_gpu_instancing")
        if instancing is None:
            yield matrix
            return
        columns = {name: self.document.accessor(at) for name, at in instancing["attributes"].items() if name in COPIES}
        count = min((len(values) for values in columns.values()), default=1)
        self.document.budget.spend(MATRIX * count)
        for k in range(count):
            yield matrix @ _local_matrix({COPIES[name]: values[k] for name, values in columns.items()})

    def _placed(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each node with its matrix to the scene, parents first."""
        waiting, seen = [(root, np.eye(4)) for root in self.document.roots], set[int]()
        while waiting:
            index, parent = waiting.pop()
            if index in seen or index < 0:
                raise ValueError(f"node {index} is reached twice; nodes must form a tree")
            seen.add(index)
            matrix = parent @ _local_matrix(self.nodes[index])
            yield index, matrix
            waiting += [(child, matrix) for child in self.nodes[index].get("children", [])]

    def _joints(self, node: Json) -> np.ndarray | None:
        """Return the matrices (J, 4, 4) from a skinned mesh's own axes to the scene, or None."""
        if "skin" not in node:
            return None
        skin = self.document.json["skins"][node["skin"]]
        self.document.budget.spend(2 * MATRIX * len(skin["joints"]))
        scene = np.stack([self.placed[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" not in skin:
            return scene
        inverse = self.document.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        return scene @ inverse[: len(scene)]

    def _primitive(self, primitive: Json, matrix: np.ndarray, joints: np.ndarray | None, weights: list[float]) -> Mesh:
        attributes = primitive["attributes"]
        position = self._morphed(primitive, "POSITION", weights)
        faces = self._faces(primitive, len(position))
        matrices = matrix if joints is None else self._skinned(attributes, joints)
        turn = WORLD_FROM_Y_UP @ matrices[..., :3, :3]
        if np.linalg.det(turn).mean() < 0:  # a mirroring node turns every face inside out
            faces = faces[:, ::-1]
        normal = None
        if "NORMAL" in attributes:
            normal = _unit(_turned(_normal_matrices(turn), self._morphed(primitive, "NORMAL", weights)))
        position = _turned(turn, position) + matrices[..., :3, 3] @ WORLD_FROM_Y_UP.T
        return Mesh(position, faces, normal, self._colors(attributes), **self._material(primitive))

    def _faces(self, primitive: Json, vertices: int) -> np.ndarray:
        accessor, mode = self.document.accessor, primitive.get("mode", TRIANGLES)
        indices = accessor(primitive["indices"])[:, 0] if "indices" in primitive else None
        count = vertices if indices is None else len(indices)
        corners = max(vertices, count if mode == TRIANGLES else 3 * (count - 2))
        self.corners_left -= corners
        if self.corners_left < 0:
            raise TooLarge(f"it holds more than {MAX_FACES} triangles; simplify it first")
        self.document.budget.spend(CORNER * corners)
        return _triangles(np.arange(vertices) if indices is None else indices.astype(np.int64), mode)

    def _morphed(self, primitive: Json, name: str, weights: list[float]) -> np.ndarray:
        value = self.document.accessor(primitive["attributes"][name]).astype(np.float64)
        targets = primitive.get("targets", [])
        self.document.budget.spend(MATRIX * len(targets))
        for weight, target in zip(weights, targets, strict=False):
            if weight and name in target:
                value = value + weight * self.document.accessor(target[name])
        return value

    def _skinned(self, attributes: Json, joints: np.ndarray) -> np.ndarray:
        """Return one blended matrix per vertex, (V, 4, 4)."""
        accessor, sets = self.document.accessor, [k for k in range(8) if f"JOINTS_{k}" in attributes]
        index = np.concatenate([accessor(attributes[f"JOINTS_{k}"], raw=True) for k in sets], 1)
        weight = np.concatenate([accessor(attributes[f"WEIGHTS_{k}"]) for k in sets], 1).astype(np.float64)
        self.document.budget.spend(MATRIX * len(index) * (index.shape[1] + 2))
        weight /= np.maximum(weight.sum(1, keepdims=True), 1e-12)
        return sum((weight[:, k, None, None] * joints[index[:, k]] for k in range(index.shape[1])), np.zeros(()))

    def _colors(self, attributes: Json) -> np.ndarray | None:
        if "COLOR_0" not in attributes:
            return None
        return srgb_from_linear(self.document.accessor(attributes["COLOR_0"])[:, :3])  # glTF 2.0, 3.7.2.1: linear

    def _material(self, primitive: Json) -> Json:
        """Return the keyword arguments of `Mesh` that come from the material."""
        material = self.document.json["materials"][primitive["material"]] if "material" in primitive else {}
        old = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness")
        look = material.get("pbrMetallicRoughness", {}) if old is None else old
        names = ("baseColorFactor", "baseColorTexture") if old is None else ("diffuseFactor", "diffuseTexture")
        mode = material.get("alphaMode", "OPAQUE")
        if mode not in ALPHA_MODES:
            raise ValueError(f"a material's alphaMode is {mode!r}; expected one of {', '.join(ALPHA_MODES)}")
        cutoff = {"OPAQUE": 0.0, "MASK": float(material.get("alphaCutoff", 0.5)), "BLEND": BLEND_CUTOFF}[mode]
        found: Json = {"base_color": tuple(map(float, look.get(names[0], (1, 1, 1, 1)))), "alpha_cutoff": cutoff}
        found |= self._texture(look[names[1]], primitive["attributes"]) if names[1] in look else {}
        emission = self._emission(material, primitive["attributes"])
        return self.emission.add(found, emission, vertex_colors="COLOR_0" in primitive["attributes"])

    def _emission(self, material: Json, attributes: Json) -> Json:
        """Return a material's emission as the base colour and texture of a surface; empty if it emits nothing."""
        strength = material.get("extensions", {}).get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
        factor = np.clip(np.asarray(material.get("emissiveFactor", (0, 0, 0)), float) * float(strength), 0, 1)
        if factor.max() <= BLACK:  # its texture is not even opened
            return {}
        found: Json = {"base_color": (*factor.tolist(), 1.0)}
        texture = material.get("emissiveTexture")
        return found | (self._texture(texture, attributes) if texture is not None else {})

    def _texture(self, use: Json, attributes: Json) -> Json:
        move = use.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{move.get('texCoord', use.get('texCoord', 0))}"
        if name not in attributes:
            return {}
        texture = self.document.json["textures"][use["index"]]
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if source is None:
            raise ValueError("a texture has no PNG, JPEG or WebP image; export it again")
        sampler = self.document.json["samplers"][texture["sampler"]] if "sampler" in texture else {}
        wrap = tuple(WRAP_MODES[sampler.get(key, 10497)] for key in ("wrapS", "wrapT"))
        uv = _moved(self.document.accessor(attributes[name]), move)
        return {"uv": uv, "texture": self.document.image(source), "wrap": wrap}


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    """Return the faces (F, 3) of a list, strip or fan of indices."""
    if mode == TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    k = np.arange(max(len(indices) - 2, 0))
    if mode == FAN:
        return np.stack([indices[np.zeros_like(k)], indices[k + 1], indices[k + 2]], 1)
    odd = k % 2  # in a strip every second triangle runs the other way round
    return np.stack([indices[k], indices[k + 1 + odd], indices[k + 2 - odd]], 1)


def _local_matrix(node: Json) -> np.ndarray:
    """Return the matrix (4, 4) from a node's axes to its parent's."""
    if "matrix" in node:
        return np.asarray(node["matrix"], dtype=np.float64).reshape(4, 4).T  # stored by columns
    matrix = np.eye(4)
    scale = np.asarray(node.get("scale", (1, 1, 1)), dtype=np.float64)
    matrix[:3, :3] = rotation_matrix(*map(float, node.get("rotation", (0, 0, 0, 1)))) * scale
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _normal_matrices(turn: np.ndarray) -> np.ndarray:
    """Inverse transpose of (..., 3, 3) up to a positive factor, by cofactors, so also defined for singular matrices."""
    x, y, z = np.moveaxis(turn, -1, 0)
    cofactors = np.stack([np.cross(y, z), np.cross(z, x), np.cross(x, y)], axis=-1)
    return cofactors * np.where(np.linalg.det(turn) < 0, -1, 1)[..., None, None]


def _turned(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Transform vectors (V, 3) by one matrix (3, 3) or by one per vector (V, 3, 3)."""
    return vectors @ matrices.T if matrices.ndim == 2 else np.einsum("vij,vj->vi", matrices, vectors)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def _moved(uv: np.ndarray, move: Json) -> np.ndarray:
    """Apply KHR_texture_transform to texture coordinates: scale, rotation, offset."""
    angle = float(move.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return (uv * np.asarray(move.get("scale", (1, 1)))) @ turn.T + np.asarray(move.get("offset", (0, 0)))
