"""Meshes to .usdz, the format of Apple's AR Quick Look: a .usda layer and its textures in a zip, +y up, in metres.

Uncompressed files that begin at multiples of 64 bytes: https://openusd.org/release/spec_usdz.html. The material is
UsdPreviewSurface: https://openusd.org/release/spec_usdpreviewsurface.html.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instant3d.mesh.color_texture import with_color_texture
from instant3d.mesh.mesh import WORLD_FROM_Y_UP, Mesh, part_names
from instant3d.utils.atomic import write_bytes
from instant3d.utils.images import encode_png

ALIGNMENT = 64
LOCAL_HEADER, EXTRA_HEADER, EXTRA_ID = 30, 4, 0x1986  # bytes of a zip's headers; the number that USD gives its padding
LAYER = """#usda 1.0
(
    defaultPrim = "Asset"
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "Asset" (
    kind = "component"
)
{{{parts}}}
"""
PART = """
    def Mesh "{name}" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform bool doubleSided = 1
        uniform token subdivisionScheme = "none"
        float3[] extent = {extent}
        int[] faceVertexCounts = {counts}
        int[] faceVertexIndices = {indices}
        point3f[] points = {points}{attributes}
        rel material:binding = </Asset/{name}/material>

        def Material "material"
        {{
            token outputs:surface.connect = </Asset/{name}/material/surface.outputs:surface>

            def Shader "surface"
            {{
                uniform token info:id = "UsdPreviewSurface"
                float inputs:metallic = 0
                float inputs:roughness = 1{look}
                token outputs:surface
            }}{texture}
        }}
    }}
"""
PLAIN = """
                color3f inputs:diffuseColor = {rgb}"""
TEXTURED = """
                color3f inputs:diffuseColor.connect = </Asset/{name}/material/texture.outputs:rgb>"""
CUT_OUT = """
                float inputs:opacity.connect = </Asset/{name}/material/texture.outputs:a>
                float inputs:opacityThreshold = {cutoff:g}"""
TEXTURE = """

            def Shader "uv"
            {{
                uniform token info:id = "UsdPrimvarReader_float2"
                string inputs:varname = "st"
                float2 outputs:result
            }}

            def Shader "texture"
            {{
                uniform token info:id = "UsdUVTexture"
                asset inputs:file = @{image}@
                float4 inputs:scale = {scale}
                token inputs:sourceColorSpace = "sRGB"
                float2 inputs:st.connect = </Asset/{name}/material/uv.outputs:result>
                token inputs:wrapS = "{wrap[0]}"
                token inputs:wrapT = "{wrap[1]}"
                float3 outputs:rgb
                float outputs:a
            }}"""


def write_usdz(meshes: Sequence[Mesh], path: Path) -> None:
    """Write `meshes` as the parts of one object; vertex colours become a texture, which every viewer shows."""
    parts = [with_color_texture(mesh) for mesh in meshes if len(mesh.faces)]
    textures = {id(part.texture): part.texture for part in parts if part.texture is not None}
    files = {key: f"textures/{number}.png" for number, key in enumerate(textures)}
    named = zip(part_names(parts), parts, strict=True)
    text = "".join(_part(name, part, files.get(id(part.texture))) for name, part in named)
    images = {files[key]: encode_png(image) for key, image in textures.items()}
    write_bytes(path, _aligned_zip({"asset.usda": LAYER.format(parts=text).encode()} | images))


def _aligned_zip(files: dict[str, bytes]) -> bytes:
    """A zip without compression in which each file's content begins at a multiple of 64 bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            padding = -(stream.tell() + LOCAL_HEADER + len(name) + EXTRA_HEADER) % ALIGNMENT
            entry.extra = EXTRA_ID.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
            archive.writestr(entry, data)
    return stream.getvalue()


def _part(name: str, part: Mesh, image: str | None) -> str:
    places = part.vertices @ WORLD_FROM_Y_UP
    look = PLAIN.format(rgb=_tuples(np.array([part.base_color[:3]]))[1:-1])
    if image is not None:
        look = (TEXTURED + (CUT_OUT if part.alpha_cutoff > 0 else "")).format(name=name, cutoff=part.alpha_cutoff)
    return PART.format(
        name=name,
        extent=_tuples(np.stack([places.min(0), places.max(0)])),
        counts=_numbers(np.full(len(part.faces), 3)),
        indices=_numbers(part.faces.reshape(-1)),
        points=_tuples(places),
        attributes=_attributes(part),
        look=look,
        texture="" if image is None else _texture(name, part, image),
    )


def _attributes(part: Mesh) -> str:
    """Declarations of normals and texture coordinates; USD counts v upwards."""
    found = []
    if part.normals is not None:
        found.append(("normal3f[] normals", part.normals @ WORLD_FROM_Y_UP))
    if part.uv is not None:
        found.append(("texCoord2f[] primvars:st", part.uv * (1, -1) + (0, 1)))
    form = '\n        {name} = {values} (\n            interpolation = "vertex"\n        )'
    return "".join(form.format(name=name, values=_tuples(values)) for name, values in found)


def _texture(name: str, part: Mesh, image: str) -> str:
    scale = _tuples(np.array([part.base_color]))[1:-1]
    return TEXTURE.format(name=name, image=image, scale=scale, wrap=part.wrap)


def _numbers(values: np.ndarray) -> str:
    return f"[{', '.join(map(str, values.tolist()))}]"


def _tuples(values: np.ndarray) -> str:
    """Rows (N, K) as USD's list of tuples."""
    row = f"({', '.join(['%.7g'] * values.shape[1])})"
    return f"[{', '.join([row] * len(values)) % tuple(values.reshape(-1).tolist())}]"
