"""Whole paths from a prompt or views to an asset and its files."""
