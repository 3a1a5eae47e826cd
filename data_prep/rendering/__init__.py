"""Objects on disk to scene folders, by OpenGL, by ray-casting or by Blender."""
