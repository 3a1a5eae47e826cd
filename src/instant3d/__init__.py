"""instant3d: from a sentence, or four posed pictures, to a 3D asset in seconds."""

__version__ = "0.2.0"
