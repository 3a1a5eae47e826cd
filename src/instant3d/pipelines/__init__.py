"""Pipelines from a prompt, a photo or posed views to a 3D asset and its files."""
