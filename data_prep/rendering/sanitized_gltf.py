"""Sanitising an untrusted object: one plain .glb that Blender may open.

Blender's importer follows links to other files, renders images that it cannot decode in magenta, and applies
animations, cameras, lights and extensions. So it never reads the untrusted file: it gets only checked arrays and
images, already moved and scaled by `instant3d.mesh.normalized` as for the fast renderer.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from instant3d.mesh import Mesh, bounds, load, normalized, save
from instant3d.mesh.gltf_document import GltfDocument, Json
from instant3d.mesh.gltf_reader import BLEND_CUTOFF
from instant3d.mesh.gltf_writer import container
from instant3d.mesh.mesh import WORLD_FROM_Y_UP
from instant3d.mesh.untrusted import TooLarge, UnsafePath

# Material extensions that Blender renders and that keep a surface opaque and lit. Glass is opaque, as in `rasterizer`.
EXTENSIONS = {"KHR_texture_transform", "KHR_mesh_quantization", "KHR_materials_pbrSpecularGlossiness"} | {
    f"KHR_materials_{name}" for name in ("specular", "ior", "clearcoat", "sheen", "emissive_strength")
}
LISTS = ("accessors", "bufferViews", "materials", "meshes", "nodes", "samplers", "skins", "textures")
LABELS = {"name", "extras", "camera"}
DEFAULT_MATERIAL: Json = {"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}, "doubleSided": True}
SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def write(path: Path, target: Path, up: Literal["y", "z"] = "y") -> tuple[np.ndarray, np.ndarray]:
    """Write an untrusted object as a plain .glb, at the origin and within the unit sphere.

    Args:
        path: File of the object.
        target: The .glb to be written.
        up: Up axis of an .obj or .ply.

    Returns:
        The lowest and highest world coordinates, each (3,), of what a reader of `target` must find there.

    Raises:
        ValueError: The file cannot be read (`TooLarge` if it exceeds a limit, `UnsafePath` if it names an unsafe file).
    """
    meshes = load(path, up)
    placed = normalized(meshes)
    if path.suffix.lower() in (".glb", ".gltf"):
        try:
            target.write_bytes(_Plain(GltfDocument(path), *_placement(meshes, placed)).glb())
        except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            broken = f"its glTF description is broken ({type(error).__name__}: {error})"
            raise ValueError(f"{path} cannot be read: {broken}") from error
        except ValueError as error:
            kind = type(error) if isinstance(error, TooLarge | UnsafePath) else ValueError
            raise kind(f"{path} cannot be read: {error}") from error
    else:
        save(placed, target)  # .obj and .ply hold nothing that a Mesh does not, but for bump maps and the like
    return bounds(placed)


def _placement(meshes: list[Mesh], placed: list[Mesh]) -> tuple[np.ndarray, float]:
    """Centre (3,) and scale that took `meshes` to `placed`."""
    (low, high), (placed_low, placed_high) = bounds(meshes), bounds(placed)
    return (low + high) / 2, float((placed_high - placed_low).max() / (high - low).max())


class _Plain:
    """A document with everything taken out that is not geometry, material or image."""

    def __init__(self, document: GltfDocument, centre: np.ndarray, scale: float) -> None:
        self.document = document
        self.json: Json = {key: _stripped(document.json[key]) for key in LISTS if document.json.get(key)}
        self.json |= {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [len(self.json["nodes"])]}]}
        self.binary = bytearray()
        self._check_accessors()
        self._gather_buffers()
        self._gather_images()
        self._place(centre, scale)
        self._simplify_materials()
        used = sorted(set(_extensions(self.json)))
        if used:
            self.json |= {"extensionsUsed": used}
        if "KHR_mesh_quantization" in document.json.get("extensionsRequired", []):
            names = ["KHR_mesh_quantization"]  # an extension of accessors, which hold no mark of it
            self.json |= {"extensionsUsed": used + names, "extensionsRequired": names}

    def glb(self) -> bytes:
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        return container(self.json, bytes(self.binary))

    def _check_accessors(self) -> None:
        """Refuse, here already, any array that reaches beyond its buffer, whether `load` had a use for it or not."""
        for index in range(len(self.json.get("accessors", []))):
            self.document.accessor(index, raw=True)

    def _gather_buffers(self) -> None:
        """All buffers as one, the .glb's own."""
        starts = []
        for index in range(len(self.document.json.get("buffers", []))):
            starts.append(self._append(self.document.buffer(index)))
        for view in self.json.get("bufferViews", []):
            view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
            view["buffer"] = 0

    def _append(self, data: bytes | memoryview) -> int:
        start = len(self.binary)
        self.binary += bytes(data) + bytes(-len(data) % 4)
        return start

    def _gather_images(self) -> None:
        """Every image that a texture shows, decoded once for proof, as PNG or JPEG in the buffer."""
        places: dict[int, int] = {}
        images: list[Json] = []
        for texture, original in zip(
            self.json.get("textures", []), self.document.json.get("textures", []), strict=True
        ):
            webp = original.get("extensions", {}).get("EXT_texture_webp", original)
            source = webp.get("source", original.get("source"))
            texture.pop("source", None)
            if source is None:
                continue
            if source not in places:
                places[source] = len(images)
                images.append(self._image(source))
            texture["source"] = places[source]
        if images:
            self.json["images"] = images

    def _image(self, index: int) -> Json:
        pixels, data = (
            self.document.decoder.decode(self.document.encoded_image(index)),
            self.document.encoded_image(index),
        )
        kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), None)
        if kind is None:
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
            data, kind = stream.getvalue(), "image/png"
        view = {"buffer": 0, "byteOffset": self._append(data), "byteLength": len(data)}
        self.json.setdefault("bufferViews", []).append(view)
        return {"bufferView": len(self.json["bufferViews"]) - 1, "mimeType": kind}

    def _place(self, centre: np.ndarray, scale: float) -> None:
        """Hang the default scene's nodes on one that brings the object to the origin and to size."""
        nodes, roots = self.json["nodes"], self.document.roots
        shown = set(_below(nodes, roots))
        for index, node in enumerate(nodes):
            if index not in shown:
                node.pop("mesh", None)
        shift = WORLD_FROM_Y_UP.T @ (-scale * centre)
        nodes.append({"children": roots, "scale": [scale] * 3, "translation": shift.tolist()})

    def _simplify_materials(self) -> None:
        """Materials as in the fast renderer: transparent ones become opaque, and surfaces without one white."""
        materials = self.json.setdefault("materials", [])
        for material in materials:
            if material.get("alphaMode") == "BLEND":
                material |= {"alphaMode": "MASK", "alphaCutoff": BLEND_CUTOFF}
        for mesh in self.json["meshes"]:
            for primitive in mesh["primitives"]:
                primitive.setdefault("material", len(materials))
        materials.append(DEFAULT_MATERIAL)


def _stripped(value: Any) -> Any:
    """A copy without labels, notes, cameras and extensions that are not in EXTENSIONS."""
    if isinstance(value, list):
        return [_stripped(part) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _stripped(part) for key, part in value.items() if key not in LABELS and key != "extensions"}
    known = {key: part for key, part in value.get("extensions", {}).items() if key in EXTENSIONS}
    return kept | ({"extensions": _stripped(known)} if known else {})


def _extensions(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _extensions(part)
    elif isinstance(value, dict):
        yield from value.get("extensions", {})
        for part in value.values():
            yield from _extensions(part)


def _below(nodes: list[Json], roots: list[int]) -> Iterator[int]:
    """The nodes of a tree (`load` has made sure of that)."""
    waiting = list(roots)
    while waiting:
        index = waiting.pop()
        yield index
        waiting += nodes[index].get("children", [])
