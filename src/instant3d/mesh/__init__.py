"""Triangle meshes in world axes (+z up): data structure, file formats (+y up) and processing."""

from instant3d.mesh.colorspace import linear_from_srgb, srgb_from_linear
from instant3d.mesh.io import load, save
from instant3d.mesh.mesh import WRAPS, Mesh, bounds, face_areas, face_normals, moved_to, normalized
from instant3d.mesh.printing import PRINTED, check_size_mm
from instant3d.mesh.processing import clean, decimate, merged, sample_points, vertex_colors
from instant3d.mesh.repair import fill_holes, smooth, smooth_within_edges
from instant3d.mesh.solids import GeometryReport, geometry_report, printable
from instant3d.utils.mesh_options import FORMATS, MAX_FACES, SIZE_MM

__all__ = [
    "FORMATS",
    "MAX_FACES",
    "PRINTED",
    "SIZE_MM",
    "WRAPS",
    "GeometryReport",
    "Mesh",
    "bounds",
    "check_size_mm",
    "clean",
    "decimate",
    "face_areas",
    "face_normals",
    "fill_holes",
    "geometry_report",
    "linear_from_srgb",
    "load",
    "merged",
    "moved_to",
    "normalized",
    "printable",
    "sample_points",
    "save",
    "smooth",
    "smooth_within_edges",
    "srgb_from_linear",
    "vertex_colors",
]
