"""Posed pictures of objects on disk: one scene as a folder with a `transforms.json`, many in a few tar files."""

from instant3d.scenes.scene_folder import (
    DOCUMENT,
    Scene,
    below,
    decode,
    document,
    encode,
    file_content,
    names,
    read,
    write,
)

__all__ = ["DOCUMENT", "Scene", "below", "decode", "document", "encode", "file_content", "names", "read", "write"]
