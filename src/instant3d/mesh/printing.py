"""Meshes to files for 3D printers, .stl and .3mf: millimetres, +z up, the lowest corner at the origin."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from instant3d.mesh.mesh import Mesh, bounds, face_normals
from instant3d.mesh.processing import merged, vertex_colors
from instant3d.utils.atomic import write_bytes
from instant3d.utils.mesh_options import SIZE_MM

PRINTED = ("stl", "3mf")  # formats in millimetres
LARGEST_MM = 100_000.0
DECIMALS = 5  # of millimetres in a .3mf
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
OPC = "http://schemas.openxmlformats.org/package/2006"
CONTENT_TYPES = f"""<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="{OPC}/content-types"><Default Extension="rels" \
ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="model" \
ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>
"""
RELATIONSHIPS = f"""<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="{OPC}/relationships"><Relationship Target="/3D/3dmodel.model" Id="rel0" \
Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>
"""


def check_size_mm(size_mm: float) -> float:
    """Return the size if an object can have it, else raise an error.

    Args:
        size_mm: Largest side of the object's bounding box in millimetres.

    Raises:
        ValueError: It is not above 0 mm and at most 100 m.
    """
    if not 0 < size_mm <= LARGEST_MM:
        raise ValueError(f"an object's largest side is above 0 and at most {LARGEST_MM:g} mm, got {size_mm:g}")
    return size_mm


def write_stl(meshes: Sequence[Mesh], path: Path, size_mm: float = SIZE_MM) -> None:
    """Write a binary .stl, which has no colours.

    Args:
        meshes: Parts of the object; at least one triangle.
        path: The file.
        size_mm: Length of its largest side in millimetres.

    Raises:
        ValueError: There is no triangle, all vertices lie at one point, or the size is not above 0 mm and at most
            100 m.
    """
    places, faces = _in_millimetres(merged(meshes), size_mm)
    rows = np.zeros(len(faces), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])
    rows["corners"], rows["normal"] = places[faces], face_normals(Mesh(places, faces))
    title = b"instant3d, millimetres, +z up".ljust(80)
    write_bytes(path, title + np.uint32(len(faces)).tobytes() + rows.tobytes())


def write_3mf(meshes: Sequence[Mesh], path: Path, size_mm: float = SIZE_MM) -> None:
    """Write a .3mf with one colour a vertex.

    3D Manufacturing Format, core specification 1.3 and materials extension 1.2 (color groups).

    Args:
        meshes: Parts of the object; at least one triangle.
        path: The file.
        size_mm: Length of its largest side in millimetres.

    Raises:
        ValueError: There is no triangle, all vertices lie at one point, or the size is not above 0 mm and at most
            100 m.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (
            ("[Content_Types].xml", CONTENT_TYPES),
            ("_rels/.rels", RELATIONSHIPS),
            ("3D/3dmodel.model", "".join(_model(merged(meshes), size_mm))),
        ):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # without the time of writing
    write_bytes(path, stream.getvalue())


def _in_millimetres(mesh: Mesh, size_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 and faces (F, 3)."""
    low, high = bounds([mesh])
    extent = float((high - low).max())
    if not extent > 0:
        raise ValueError("all vertices lie at one point, so the object has no size in millimetres")
    return (mesh.vertices - low) * (check_size_mm(size_mm) / extent), mesh.faces


def _model(mesh: Mesh, size_mm: float) -> Iterator[str]:
    """The XML of one object. Vertices of equal place are one, or the shape would not be closed."""
    vertices, faces = _in_millimetres(mesh, size_mm)
    places, place = np.unique(vertices.round(DECIMALS) + 0.0, axis=0, return_inverse=True)
    colors, color = np.unique(np.rint(vertex_colors(mesh) * 255).astype(np.uint8), axis=0, return_inverse=True)
    corners, tints = place.reshape(-1)[faces], color.reshape(-1)[faces]
    whole = (corners != np.roll(corners, 1, axis=1)).all(1)
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<model unit="millimeter" xml:lang="en" '
    yield f'xmlns="{CORE}" xmlns:m="{MATERIAL}">\n<metadata name="Application">instant3d</metadata>\n<resources>\n'
    yield '<m:colorgroup id="1">\n'
    yield _lines('<m:color color="#%02X%02X%02X"/>\n', colors)
    yield '</m:colorgroup>\n<object id="2" type="model" pid="1" pindex="0"><mesh><vertices>\n'
    yield _lines(f'<vertex x="%.{DECIMALS}f" y="%.{DECIMALS}f" z="%.{DECIMALS}f"/>\n', places)
    yield "</vertices><triangles>\n"
    row = '<triangle v1="%d" v2="%d" v3="%d" pid="1" p1="%d" p2="%d" p3="%d"/>\n'
    yield _lines(row, np.hstack([corners, tints])[whole])
    yield '</triangles></mesh></object>\n</resources>\n<build><item objectid="2"/></build>\n</model>\n'


def _lines(line: str, values: np.ndarray) -> str:
    return (line * len(values)) % tuple(values.reshape(-1).tolist())
