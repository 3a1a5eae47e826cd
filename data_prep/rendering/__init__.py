"""Rendering of objects to scene folders, by OpenGL, ray casting or Blender."""
