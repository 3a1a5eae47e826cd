"""instant3d: 3D assets in seconds from a text prompt, a photo or posed images."""

__version__ = "0.2.0"
