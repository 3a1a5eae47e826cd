"""Scenes on disk, which are posed images of an object: one scene per folder, or many in a few tar files."""

from instant3d.scenes.scene_files import DOCUMENT, file_content
from instant3d.scenes.scene_folder import Scene, below, decode, document, encode, names, read, write
from instant3d.scenes.view_pixels import ViewPixels

__all__ = [
    "DOCUMENT",
    "Scene",
    "ViewPixels",
    "below",
    "decode",
    "document",
    "encode",
    "file_content",
    "names",
    "read",
    "write",
]
