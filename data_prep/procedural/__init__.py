"""Procedural objects, and variants of given ones."""
